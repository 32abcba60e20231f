"""Ctrl-C while the command starts: held until there are words and an exit code for it. Imports next to nothing."""

from __future__ import annotations

import signal

_came: list[int] = []


def hold() -> None:
    """Keep a SIGINT for later; one that is ignored, as in the background of a shell, stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _keep)


def _keep(number: int, _: object) -> None:
    _came.append(number)


def release() -> None:
    """From here on SIGINT interrupts as usual. Raises KeyboardInterrupt when one came meanwhile."""
    if signal.getsignal(signal.SIGINT) is _keep:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if _came:
        _came.clear()
        raise KeyboardInterrupt


def let_it_end() -> None:
    """All is said: a SIGINT from here on ends the process by itself, without Python's words."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
