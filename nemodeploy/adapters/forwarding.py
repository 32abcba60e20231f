"""A port of this machine's loopback whose connections are passed on, each over a stream of its own."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from nemodeploy.errors import BadInput, NemodeployError

LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 65536
PAUSE_S = 0.1
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


class Forwarder:
    """Serves whoever connects to a socket that listens, once `start` was called."""

    def __init__(self, listener: socket.socket, dial: Callable[[], socket.socket]) -> None:
        """`dial` gives a connection's far end."""
        self.listener, self.dial = listener, dial
        self._closed = False

    def start(self) -> None:
        """Serve from now on, in threads that end with the process."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that stand go on until their server ends them."""
        self._closed = True
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self.listener.accept()
            except OSError:  # such as more connections than this process may have files
                time.sleep(PAUSE_S)
                continue
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near:
            try:
                far = self.dial()
            except NemodeployError:
                return  # whoever connected sees the connection end, as with a server that is not there
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far.settimeout(None)
            back = threading.Thread(target=_copy, args=(far, near), daemon=True)
            back.start()
            _copy(near, far)
            back.join()
            with contextlib.suppress(OSError, EOFError):
                far.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """All bytes, then the end of them; an SSH channel and a socket have the same words for that."""
    with contextlib.suppress(OSError, EOFError):
        while chunk := source.recv(CHUNK_BYTES):
            target.sendall(chunk)
    with contextlib.suppress(OSError, EOFError):
        target.shutdown(socket.SHUT_WR)


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
