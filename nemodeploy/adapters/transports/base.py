"""How commands reach a site: five verbs, and the errors of errors.py."""

from __future__ import annotations

import socket
from typing import Protocol

from nemodeploy.values import Command, Completed

OUTPUT_CAP = 16 * 2**20
FULL_WITHIN_S = 5.0  # how long a server that allows few sessions is asked again


class Transport(Protocol):
    """One connection to a login host, opened once and kept."""

    def open(self) -> None:
        """Connect and authenticate now, rather than at the first use; when this fails, nothing was sent."""

    def run(self, command: Command) -> Completed:
        """Run a POSIX shell text. Raises ClusterUnreachable when no complete answer came within its deadline."""

    def tunnel(self, host: str, port: int) -> socket.socket:
        """A byte stream to a port that the login host can reach. Raises ClusterUnreachable."""

    def close(self) -> None:
        """End the connection; idempotent."""
