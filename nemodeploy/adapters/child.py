"""A command of the user's: started as it is, with our standard streams, told what we are told."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from nemodeploy.errors import BadInput

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CANNOT_START = 126  # what a shell says of a program that it cannot run


def require(words: Sequence[str]) -> None:
    """Raises BadInput when there is no such program here."""
    if shutil.which(words[0]) is None:
        raise BadInput(f"there is no program {words[0]!r} here", hint="-- PROGRAM ARGUMENTS, as you would type them")


def run(words: Sequence[str], environment: Mapping[str, str], *, from_terminal: bool) -> tuple[int, int]:
    """Its exit code as a shell would say it (128 and the signal's number when one ended it), and how many signals came.

    The first signal is passed on, a second one kills it. `from_terminal`: Ctrl-C reaches it by itself.
    """
    came: list[int] = []
    with _noted(came):
        try:
            process = subprocess.Popen(list(words), env=dict(environment))
        except OSError:
            return CANNOT_START, len(came)
        told = 0
        while True:
            try:
                code = process.wait(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                pass
            if len(came) > 1:
                process.kill()
            elif len(came) > told:
                told = len(came)
                if came[0] != signal.SIGINT or not from_terminal:
                    process.send_signal(came[0])
    return code if code >= 0 else 128 - code, len(came)


@contextlib.contextmanager
def _noted(came: list[int]) -> Iterator[None]:
    """Signals are noted instead of what they did before, and that again afterwards; what is kept away from us, as by
    nohup, is kept away from the command, too."""
    heard = [number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
