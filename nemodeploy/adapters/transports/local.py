"""Already on the login node: commands run in a shell of this machine."""

from __future__ import annotations

import socket
import subprocess

from nemodeploy.adapters.transports.base import OUTPUT_CAP, shell
from nemodeploy.errors import ClusterUnreachable
from nemodeploy.values import Command, Completed


class LocalTransport:
    """A child process of ours."""

    def open(self) -> None:
        """Nothing to open."""

    def run(self, command: Command) -> Completed:
        """Run the text in a shell of its own."""
        try:
            done = subprocess.run(
                shell(),
                input=command.script.encode(),
                capture_output=True,
                timeout=command.deadline_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterUnreachable(f"no answer within {command.deadline_s:.0f} s") from error
        cut = len(done.stdout) >= OUTPUT_CAP
        return Completed(status=done.returncode, stdout=_text(done.stdout), stderr=_text(done.stderr), is_cut=cut)

    def tunnel(self, host: str, port: int) -> socket.socket:
        """A plain connection."""
        try:
            return socket.create_connection((host, port), timeout=20)
        except OSError as error:
            raise ClusterUnreachable(f"cannot connect to {host}:{port}: {error}") from error

    def close(self) -> None:
        """Nothing is held."""


def _text(raw: bytes) -> str:
    return raw[:OUTPUT_CAP].decode(errors="replace")
