"""A command on a terminal of its own."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import sys
import time
from collections.abc import Iterator, Mapping


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, environment: dict[str, str], *words: str) -> None:
        self.process, self.handle = pty.fork()
        if self.process == 0:
            os.execve(sys.executable, [sys.executable, "-m", "nemodeploy", *words], environment)
        self.seen = ""

    def interrupt_until(self, words: str) -> None:
        """Ctrl-C until these words come: between the prompt and its own wait for a key, readline misses one."""
        self.types("\x03")
        self.until(words, again="\x03")

    def until(self, words: str, within_s: float = 20, *, again: str = "") -> None:
        """Read until these words have come since the last time; meanwhile type something every two seconds."""
        begun = typed = time.monotonic()
        while words not in self.seen:
            now = time.monotonic()
            assert now < begun + within_s, self.seen
            if again and now > typed + 2:
                typed = now
                self.types(again)
            if select.select([self.handle], [], [], 0.2)[0]:
                self.seen += self._read()
        self.seen = self.seen.partition(words)[2]

    def types(self, text: str) -> None:
        os.write(self.handle, text.encode())

    def hang_up(self) -> int:
        """The window is closed; its exit status."""
        os.close(self.handle)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    def ended(self, within_s: float = 20) -> int:
        """Its exit status."""
        deadline = time.monotonic() + within_s
        while True:
            done, status = os.waitpid(self.process, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"it has not ended; it said {self.seen!r}"
            if select.select([self.handle], [], [], 0.2)[0]:
                self.seen += self._read()

    def _read(self) -> str:
        """The terminal is gone when its last process is."""
        with contextlib.suppress(OSError):
            return os.read(self.handle, 4096).decode(errors="replace")
        time.sleep(0.05)
        return ""


@contextlib.contextmanager
def terminal(environment: Mapping[str, str], *words: str) -> Iterator[Terminal]:
    one = Terminal(dict(environment), *words)
    try:
        yield one
    finally:
        os.close(one.handle)
