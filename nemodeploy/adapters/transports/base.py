"""How commands reach a site: five verbs, and the errors of errors.py."""

from __future__ import annotations

import logging
import secrets
import shlex
import socket
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from nemodeploy.errors import ClusterUnreachable, ForwardingRefused
from nemodeploy.values import Command, Completed

OUTPUT_CAP = 16 * 2**20
# What a login may export that changes how a shell, grep or cd reads our text.
_SPOILING = (
    "BASH_ENV",
    "ENV",
    "SHELLOPTS",
    "BASHOPTS",
    "CDPATH",
    "GLOBIGNORE",
    "IFS",
    "POSIXLY_CORRECT",
    "GREP_OPTIONS",
)
_CLEAN = ("/usr/bin/env", *(word for name in _SPOILING for word in ("-u", name)), "LC_ALL=C")
# Where sh is bash it takes functions from the environment, of any name. As sh it is in POSIX mode, in which no function
# stands before `unset` and `exec`.
_NO_FUNCTIONS = 'unset -f compgen; for f in $(compgen -A function 2>/dev/null); do unset -f "$f"; done'
NO_BASH = (126, 127)  # how a shell ends that finds no bash
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


def shell(text: str = "exec /bin/sh -s") -> tuple[str, ...]:
    """Words that run a POSIX shell text, by default the one on standard input, without the login's functions, options,
    IFS and start-up files."""
    return (*_CLEAN, "/bin/sh", "-c", f"{_NO_FUNCTIONS}; {text}")


def remote_line(text: str = "exec /bin/sh -s") -> str:
    """The same as a line for a login shell. It means the same to each of them, csh and fish included: plain words, and
    one in single quotes. Nothing that a login would print afterwards comes through."""
    return f"exec {shlex.join(shell(text))}"


def late(name: str, command: Command) -> ClusterUnreachable:
    """What a command is worth whose answer did not come in its time."""
    return ClusterUnreachable(
        f"{name} gave no answer within {command.deadline_s:.0f} s",
        hint="look how long `ssh HOST true` takes: what its login shell does first (~/.bashrc) counts",
    )


Connected = TypeVar("Connected")
log = logging.getLogger("nemodeploy")


def first_reachable(hosts: Sequence[str], connect: Callable[[str], Connected]) -> tuple[Connected, list[str]]:
    """A connection to the first host that can be reached, and the hosts in the order for the next time, it before the
    others. Only what is unreachable is passed over; raises what the last one raised."""
    for place, host in enumerate(hosts):
        try:
            return connect(host), [*hosts[place:], *hosts[:place]]
        except ClusterUnreachable as error:
            if place == len(hosts) - 1:
                raise
            log.debug("%s; trying the next login host", error.message)
    raise AssertionError("a cluster has a login host")


def relay(host: str, port: int) -> tuple[bytes, str]:
    """A command for a login host that forwards no connections: bash opens one, says so with a mark, which is on a line
    of its own after whatever the login printed, and passes bytes on. It ends when the far end does."""
    mark = f"relay-{secrets.token_hex(8)}"
    there = f"exec 3<>/dev/tcp/{host}/{port} || exit 7; exec 2>/dev/null; echo; echo {mark}"
    opens = f"{there}; {{ cat <&3; kill $$; }} & exec cat >&3"
    return f"\n{mark}\n".encode(), remote_line(f"exec bash --norc -c {shlex.quote(opens)}")


def is_marked(stream: socket.socket, mark: bytes) -> bool:
    """Read up to the mark; False: the stream ended before it. Raises OSError."""
    said = b""
    while not said.endswith(mark):
        byte = stream.recv(1)
        if not byte:
            return False
        said += byte
    return True


def no_way(cluster: str, host: str, port: int, *, no_bash: bool) -> ClusterUnreachable:
    """The login host neither forwards a connection nor passes its bytes on."""
    kind = ForwardingRefused if no_bash else ClusterUnreachable
    why = "forwards no connections and has no bash" if no_bash else "has no way to it"
    return kind(f"{cluster} cannot reach {host}:{port}: the login host {why}")
