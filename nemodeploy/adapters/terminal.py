"""Asking whoever sits at the terminal: one-time codes, passwords, passphrases. Nothing that is typed is kept."""

from __future__ import annotations

import getpass
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from nemodeploy.core.foreign import wash

Ask = Callable[[str, Sequence[tuple[str, bool]]], list[str]]
TTY = Path("/dev/tty")

_one_at_a_time = threading.Lock()


def asker() -> Ask | None:
    """Who can be asked here: `(heading, [(prompt, shown while it is typed), …])` gives the answers; None: nobody."""
    try:
        os.close(os.open(TTY, os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return None
    return _ask if sys.stderr.isatty() else None


def _ask(heading: str, prompts: Sequence[tuple[str, bool]]) -> list[str]:
    """What is asked, a server says: it is washed like any other text of others."""
    with _one_at_a_time:
        if heading.strip():
            sys.stderr.write(wash(heading).strip() + "\n")
        return [_shown(wash(prompt)) if shown else getpass.getpass(wash(prompt)) for prompt, shown in prompts]


def _shown(prompt: str) -> str:
    with TTY.open("r") as reading, TTY.open("w") as writing:
        writing.write(prompt)
        writing.flush()
        return reading.readline().rstrip("\n")
