"""What a test process holds: threads and open files."""

from __future__ import annotations

import threading
import time
from pathlib import Path

Held = frozenset[object]


def held() -> Held:
    """Now, without the file that the list of open files itself is read from."""
    files = list(Path("/dev/fd").iterdir())
    return frozenset((*threading.enumerate(), *(path.name for path in files if path.is_symlink())))


def nothing_more_than(before: Held, within_s: float = 10.0) -> bool:
    """Whether all that came since has gone again; what others have let go of meanwhile does not matter."""
    deadline = time.monotonic() + within_s
    while held() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    return not held() - before
