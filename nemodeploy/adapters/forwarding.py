"""A port of this machine's loopback, and the program that has it where it is taken."""

from __future__ import annotations

import contextlib
import errno
import socket
from pathlib import Path

from nemodeploy.errors import BadInput

LOOPBACK = "127.0.0.1"
LISTENS = "0A"  # TCP_LISTEN in /proc/net/tcp


def listen(port: int) -> socket.socket:
    """A port of this machine's loopback, 0 for a free one. Raises BadInput when it is taken."""
    # With its protocol named asyncio switches Nagle's delay off; unnamed, an answer waits 40 ms to be acknowledged.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError as error:
        listener.close()
        why = f"is taken{holder(port)}" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
        raise BadInput(f"port {port} of this machine {why}", hint="--port 0 takes a free one") from error
    listener.listen(64)
    return listener


def holder(port: int) -> str:
    """` by PROGRAM (process N)` of whoever listens on a port, as far as this machine says it."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                cells = line.split()
                if cells[3] == LISTENS and int(cells[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{cells[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(handle.readlink()) in inodes for handle in (process / "fd").iterdir()):
                return f" by {(process / 'comm').read_text().strip()} (process {process.name})"
    return " by a process of somebody else" if inodes else ""
