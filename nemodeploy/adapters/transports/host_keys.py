"""The host keys that login hosts offer, and which of them are trusted; nobody is authenticated for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import paramiko

from nemodeploy.adapters import files
from nemodeploy.adapters.ssh_settings import effective
from nemodeploy.adapters.terminal import Ask
from nemodeploy.adapters.transports import known_hosts
from nemodeploy.adapters.transports.paramiko_login import CONNECT_WITHIN_S, Chain, trusted
from nemodeploy.core.spec import Cluster

KNOWN, UNKNOWN, CHANGED, REVOKED = "recorded", "unknown", "changed", "revoked"


@dataclass(frozen=True, kw_only=True, slots=True)
class HostKey:
    """A key that a host offers. `line`: as `host_keys` wants it; `state`: recorded, unknown, changed, or revoked."""

    host: str
    known_as: str
    fingerprint: str
    line: str
    state: str
    file: Path

    def check(self) -> None:
        """See that keys can be recorded in the file. Raises files.NotRegular, or OSError."""
        files.plain(self.file)

    def record(self) -> None:
        """Trust it from now on, instead of what was recorded for that host. Raises files.NotRegular, or OSError."""
        file = files.plain(self.file)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = file.read_bytes().decode("utf-8", "surrogateescape").splitlines() if file.exists() else []
        kept = [left for line in lines if (left := known_hosts.without(line, self.known_as)) or not line]
        text = "\n".join([*kept, f"{self.known_as} {self.line}"]) + "\n"
        files.write_whole(file, text.encode("utf-8", "surrogateescape"), mode=0o600)


def offered(cluster: Cluster, host: str, ask: Ask | None) -> HostKey:
    """Ask one login host, by way of its jump hosts. Raises ClusterUnreachable, or what keeps one from a jump host."""
    chain = Chain(cluster, ask)
    known = trusted(effective(cluster.ssh, host), cluster.ssh.host_keys)
    try:
        settings, connection = chain.dial(host)
    except BaseException:
        chain.close()
        raise
    try:
        with paramiko.Transport(connection) as transport:  # type: ignore[arg-type] # it has what a socket has
            security = transport.get_security_options()
            security.key_types = known.first(security.key_types)
            transport.start_client(timeout=CONNECT_WITHIN_S)
            key = transport.get_remote_server_key()
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise chain.silent(settings, connection, error) from error
    finally:
        chain.close()
    return HostKey(
        host=f"{settings.host} port {settings.port}",
        known_as=settings.known_as,
        fingerprint=key.fingerprint,
        line=f"{key.get_name()} {key.get_base64()}",
        state=_state(known, key),
        file=settings.own_known_hosts,
    )


def _state(known: known_hosts.Known, key: paramiko.PKey) -> str:
    if key.asbytes() in known.revoked:
        return REVOKED
    return KNOWN if known.has(key) else CHANGED if known.changed(key) else UNKNOWN
