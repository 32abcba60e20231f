"""Telling of an outage: a line when it begins, one a minute while it lasts, and one when it is over."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

NOTICE_S = 8.0  # a question that has no answer by then is told of while it still waits
EVERY_S = 60.0


class Outage:
    """One thing that is asked again and again. However its failures are worded, and however often they alternate with
    answers, there is at most one beginning a minute, unless it lasts."""

    def __init__(self, say: Callable[[str, str], None], now: Callable[[], float]) -> None:
        """`say` takes a phase and a text; `now` is a monotonic clock in seconds."""
        self._say, self._now = say, now
        self._lock = threading.Lock()
        self._since: float | None = None
        self._told_at: float | None = None
        self._is_told = False

    def broke(self, why: str, *, for_s: float = 0.0) -> None:
        """A question failed, or has had no answer for so many seconds."""
        with self._lock:
            now = self._now()
            self._since = now - for_s if self._since is None else self._since
            lasted = now - self._since
            is_due = self._told_at is None or now - self._told_at >= EVERY_S
            if not (is_due or (not self._is_told and lasted >= NOTICE_S)):
                return
            self._say("unknown", f"{why}, for {lasted:.0f} s now" if self._is_told else f"{why}; asking again")
            self._told_at, self._is_told = now, True

    def over(self) -> None:
        """There was an answer."""
        with self._lock:
            if self._is_told and self._since is not None:
                self._say("known", f"answered again after {self._now() - self._since:.0f} s")
            self._since, self._is_told = None, False

    @contextlib.contextmanager
    def waiting(self, whom: str) -> Iterator[None]:
        """Somebody waits for an answer in the block: that it is late is told before it fails."""
        timer = threading.Timer(NOTICE_S, self.broke, (f"no answer from {whom}",), {"for_s": NOTICE_S})
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
