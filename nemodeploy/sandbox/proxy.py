"""A TCP proxy before the login host, for trying what a broken connection does."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from pathlib import Path

from nemodeploy.sandbox.place import Place


class Proxy:
    """A TCP proxy on loopback, before the sandbox's login host.

    Armed, it lets so many bytes of the next connection pass, both ways together, and then resets it, or (silent)
    forwards nothing any more.
    """

    def __init__(self, port: int) -> None:
        """Listen on a free port, before the SSH server on `port`."""
        self.target = port
        self.server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.server.getsockname()[1]
        self.left: int | None = None
        self.silent = False
        self.connections = 0
        self.closed = threading.Event()
        self.passed = 0
        self.cut = False
        self.open: list[socket.socket] = []
        self.accepting = threading.Thread(target=self._accept, daemon=True)
        self.accepting.start()

    def arm(self, after: int, *, silent: bool = False) -> None:
        """The next connection ends, or falls silent, after so many bytes."""
        self.left, self.silent, self.cut = after, silent, False

    def cut_now(self) -> None:
        """Reset every connection."""
        self.cut = True
        _reset(*self.open)

    def ssh_config(self, place: Place, directory: Path) -> Path:
        """Write an ssh configuration that leads through here; returns its path."""
        kind_and_key = (place.root / "ssh/known_hosts").read_text().split(maxsplit=1)[1]
        known = directory / "through.known_hosts"
        known.write_text(f"[127.0.0.1]:{self.port} {kind_and_key}")
        changed = {"Port": str(self.port), "UserKnownHostsFile": str(known)}
        lines = []
        for line in place.ssh_config.read_text().splitlines():
            word = line.split()[0] if line.split() else ""
            lines.append(f"    {word} {changed[word]}" if word in changed else line)
        path = directory / "through.ssh"
        path.write_text("\n".join(lines) + "\n")
        return path

    def close(self) -> None:
        """End every connection and wait for their threads."""
        self.closed.set()
        _reset(self.server, *self.open)
        self.accepting.join()
        self.server.close()
        while self.open:  # their threads end on that
            _reset(*self.open)
            time.sleep(0.01)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.server.accept()
                self.connections += 1
                remote = socket.create_connection(("127.0.0.1", self.target))
                self.open += [client, remote]
                for one in (client, remote):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ours = self.left is not None  # this connection is the one that is cut
                threading.Thread(target=self._serve, args=(client, remote, ours), daemon=True).start()

    def _serve(self, client: socket.socket, remote: socket.socket, ours: bool) -> None:
        """Both ways of one connection; only here are its sockets closed."""
        back = threading.Thread(target=self._pump, args=(remote, client, ours), daemon=True)
        back.start()
        self._pump(client, remote, ours)
        back.join()
        for one in (client, remote):
            one.close()
            self.open.remove(one)

    def _pump(self, one: socket.socket, other: socket.socket, ours: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                self.passed += len(data)
                if ours and self.left is not None:
                    allowed = data[: self.left]
                    self.left -= len(allowed)
                    other.sendall(allowed)
                    if len(allowed) == len(data):
                        continue
                    self.left, self.cut = None, True
                    if self.silent:
                        self.closed.wait()
                    _reset(one, other)
                    return
                if self.silent and self.cut and ours:
                    self.closed.wait()
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _reset(*ends: socket.socket) -> None:
    """So that its close, which is another thread's, sends RST; the shutdown wakes that thread."""
    for end in ends:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RDWR)
