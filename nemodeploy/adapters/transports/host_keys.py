"""The host keys that login hosts offer, and which of them are trusted; nobody is authenticated for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, HostKeys

from nemodeploy.adapters.ssh_settings import SshSettings, effective
from nemodeploy.adapters.terminal import Ask
from nemodeploy.adapters.transports.paramiko_login import CONNECT_WITHIN_S, Chain
from nemodeploy.core.spec import Cluster
from nemodeploy.errors import ClusterUnreachable

KNOWN, UNKNOWN, CHANGED = "recorded", "unknown", "changed"


@dataclass(frozen=True, kw_only=True, slots=True)
class HostKey:
    """A key that a host offers. `line`: as `host_keys` wants it; `state`: recorded, unknown, or changed."""

    host: str
    known_as: str
    fingerprint: str
    line: str
    state: str
    file: Path

    def record(self) -> None:
        """Trust it from now on, instead of what was recorded for that host. Raises OSError."""
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        kept = [line for line in lines if not _is_about(line, self.known_as)]
        new = self.file.with_name(f"{self.file.name}.nemodeploy")
        new.write_text("\n".join([*kept, f"{self.known_as} {self.line}"]) + "\n")
        new.chmod(0o600)
        new.replace(self.file)


def offered(cluster: Cluster, host: str, ask: Ask | None) -> HostKey:
    """Ask one login host, by way of its jump hosts. Raises ClusterUnreachable, or what keeps one from a jump host."""
    chain = Chain(cluster, ask)
    settings = effective(cluster.ssh, host)
    try:
        settings, connection = chain.dial(host)
        with paramiko.Transport(connection) as transport:
            transport.start_client(timeout=CONNECT_WITHIN_S)
            key = transport.get_remote_server_key()
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise ClusterUnreachable(f"no SSH server answers at {settings.where}: {error}") from error
    finally:
        chain.close()
    return HostKey(
        host=f"{settings.host} port {settings.port}",
        known_as=settings.known_as,
        fingerprint=key.fingerprint,
        line=f"{key.get_name()} {key.get_base64()}",
        state=_state(settings, cluster, key),
        file=next(iter(settings.known_hosts), Path("~/.ssh/known_hosts").expanduser()),
    )


def _state(settings: SshSettings, cluster: Cluster, key: paramiko.PKey) -> str:
    keys = HostKeys()
    for line in cluster.ssh.host_keys:
        entry = HostKeyEntry.from_line(f"{settings.known_as} {line}")
        if entry is not None and entry.key is not None:
            keys.add(settings.known_as, entry.key.get_name(), entry.key)
    for path in () if cluster.ssh.host_keys else settings.known_hosts:
        keys.load(str(path))
    found = keys.lookup(settings.known_as)
    if found is None:
        return UNKNOWN
    return KNOWN if found.get(key.get_name()) == key else CHANGED


def _is_about(line: str, known_as: str) -> bool:
    """Whether a line of known_hosts speaks of this host and no other."""
    if line.startswith(("#", "@")) or len(line.split()) < 3:
        return False
    name = line.split()[0]
    return name == known_as or (name.startswith("|1|") and HostKeys.hash_host(known_as, name) == name)
