"""Finding and ending every process of a sandbox, however it was orphaned: each carries a mark in its environment."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from nemodeploy.sandbox.place import Place

MARK = "SLURM_CONF"
WITHIN_S = 10.0


def marked(place: Place) -> frozenset[int]:
    """The live processes that were started by or below a sandbox; this one is never among them."""
    mark = f"{MARK}={place.slurm_conf}".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
    return frozenset(pid for pid in found if not _is_zombie(pid))


def end_all(place: Place) -> bool:
    """Kill whatever carries the mark. Tells whether there was anything."""
    found = False
    deadline = time.monotonic() + WITHIN_S
    while (left := marked(place)) and time.monotonic() < deadline:
        found = True
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            reap(pid)
        time.sleep(0.02)
    return found


def reap(pid: int) -> None:
    """Take the exit status of a child of ours, if it is one and has ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (OSError, IndexError):
        return True
