"""Hosts that a connection reaches, or not, but no SSH server: one message for each, the same for every transport."""

from __future__ import annotations

import re
import socket

from nemodeploy.core.foreign import wash
from nemodeploy.errors import ClusterUnreachable

BANNER_WITHIN_S = 20  # RFC 4253, 4.2: the server sends its identification first
ASK_WITHIN_S = 3.0
MOST_SHOWN = 60
# What OpenSSH 9.2 says for the same.
_MUTE = re.compile(r"timed out during banner exchange|banner exchange: .*timed out")
_NOT_SSH = re.compile(
    r"banner line contains invalid characters|remote protocol version|No banner received"
    r"|banner line too long|Bad remote protocol version"
)
_CLOSED = re.compile(
    r"kex_exchange_identification: (read: )?(Connection (closed|reset)|client sent invalid)"
    r"|banner exchange: .*(closed|reset|Broken pipe)"
)
_REFUSED = re.compile(r"port \d+: Connection refused")
_UNKNOWN = re.compile(r"Could not resolve hostname (?P<host>\S+):")


def mute(where: str, hint: str = "") -> ClusterUnreachable:
    """The server says nothing."""
    return ClusterUnreachable(
        f"{where} accepted the connection, but sent no SSH banner within {BANNER_WITHIN_S} s",
        hint=hint or "check that the port is that of its SSH server, and that neither it nor a firewall is stuck",
    )


def not_ssh(where: str, line: str, hint: str = "") -> ClusterUnreachable:
    """The server speaks another protocol. `line`: what it said first."""
    said = wash(line).strip()[:MOST_SHOWN]
    return ClusterUnreachable(
        f"{where} is no SSH server{': it sent ' + repr(said) if said else ''}",
        hint=hint or "check the host and the port (ssh.port of the cluster file, or Port in ssh_config)",
    )


def closed(where: str, hint: str = "") -> ClusterUnreachable:
    """The server hung up before it said what it is."""
    return ClusterUnreachable(
        f"{where} closed the connection before its SSH banner",
        hint=hint or "it may limit connections (MaxStartups) or addresses; try again in a minute",
    )


def not_connected(where: str, error: OSError, hint: str) -> ClusterUnreachable:
    """There is no connection at all."""
    if isinstance(error, socket.gaierror):
        return unknown(where, hint)
    if isinstance(error, ConnectionRefusedError):
        return refused(where, hint)
    return ClusterUnreachable(f"cannot connect to {where}: {error.strerror or error}", hint=hint)


def unknown(where: str, hint: str = "") -> ClusterUnreachable:
    """Its name means no address."""
    return ClusterUnreachable(
        f"cannot connect to {where}: no address is known for that name",
        hint=hint or "check its spelling, the network or the VPN",
    )


def refused(where: str, hint: str = "") -> ClusterUnreachable:
    """No server listens on its port."""
    return ClusterUnreachable(
        f"cannot connect to {where}: it refused the connection", hint=hint or "check the port, and that sshd runs there"
    )


def said_first(host: str, port: int) -> str:
    """What a server says to an SSH client, asked once more, because the OpenSSH client keeps it to itself; empty: it
    says nothing, or is an SSH server."""
    try:
        with socket.create_connection((host, port), timeout=ASK_WITHIN_S) as connection:
            connection.sendall(b"SSH-2.0-nemodeploy\r\n")
            first = connection.recv(1024).decode(errors="replace").partition("\n")[0]
    except OSError:
        return ""
    return "" if first.startswith("SSH-") else first


def from_client(
    where: str, said: str, hint: str = "", address: tuple[str, int] | None = None
) -> ClusterUnreachable | None:
    """The same from what the OpenSSH client says; None: it is something else. `address`: where it connected to."""
    if _UNKNOWN.search(said):
        return unknown(where, hint)
    if _REFUSED.search(said):
        return refused(where, hint)
    if _MUTE.search(said):
        return mute(where, hint)
    is_closed, other = _CLOSED.search(said), _NOT_SSH.search(said)
    first = said_first(*address) if address and (is_closed or other) else ""
    if first or other:
        return not_ssh(where, first, hint)
    return closed(where, hint) if is_closed else None
