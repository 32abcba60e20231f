"""Asking whoever sits at the terminal: one-time codes, passwords, passphrases. Nothing that is typed is kept."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from nemodeploy.core.foreign import wash
from nemodeploy.errors import AuthenticationFailed

Ask = Callable[[str, Sequence[tuple[str, bool]]], list[str]]
TTY = Path("/dev/tty")
ANSWER_WITHIN_S = 120.0  # a person looks for the code
AGAIN_WITHIN_S = 45.0  # leases are renewed after it, the shortest of which lasts two minutes

_one_at_a_time = threading.Lock()


def is_main() -> bool:
    """Only the main thread asks: two questions at a time cannot be answered, and other threads must go on."""
    return threading.current_thread() is threading.main_thread()


def asker(within_s: float = ANSWER_WITHIN_S) -> Ask | None:
    """Who can be asked here: `(heading, [(prompt, shown while it is typed), …])` gives the answers, or raises
    AuthenticationFailed when none came in time; None: nobody."""
    try:
        os.close(os.open(TTY, os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return None
    return partial(_ask, within_s=within_s) if sys.stderr.isatty() else None


def _ask(heading: str, prompts: Sequence[tuple[str, bool]], within_s: float = ANSWER_WITHIN_S) -> list[str]:
    """What is asked, a server says: it is washed like any other text of others."""
    with _one_at_a_time:
        if heading.strip():
            sys.stderr.write(wash(heading).strip() + "\n")
        return [_typed(wash(prompt), within_s, shown=shown) for prompt, shown in prompts]


def _typed(prompt: str, within_s: float, *, shown: bool) -> str:
    """A line from the terminal, which is left as it was."""
    with TTY.open("rb", buffering=0) as reading, TTY.open("w") as writing:
        handle, deadline, line = reading.fileno(), time.monotonic() + within_s, b""
        before = termios.tcgetattr(handle)
        quiet = [*before[:3], before[3] if shown else before[3] & ~termios.ECHO, *before[4:]]
        try:
            termios.tcsetattr(handle, termios.TCSAFLUSH, quiet)
            writing.write(prompt)
            writing.flush()
            while not line.endswith(b"\n"):
                if not select.select([handle], [], [], max(deadline - time.monotonic(), 0))[0]:
                    raise AuthenticationFailed(
                        f"no answer on the terminal within {within_s:.0f} s to: {prompt.strip()}"
                    )
                piece = reading.read(4096)
                if not piece:
                    break
                line += piece
        finally:
            termios.tcsetattr(handle, termios.TCSAFLUSH, before)
            if not shown:
                writing.write("\n")
    return line.decode(errors="surrogateescape").rstrip("\r\n")
