"""One module a transport, one line here. Modules are imported when they are needed: paramiko is slow to load."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from nemodeploy.adapters import terminal
from nemodeploy.adapters.ssh_settings import effective
from nemodeploy.adapters.transports.base import Transport
from nemodeploy.core.spec import Cluster
from nemodeploy.errors import AuthenticationFailed, ClusterUnreachable, NemodeployError, PreflightFailed
from nemodeploy.values import Command, Completed

log = logging.getLogger("nemodeploy")


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """An import as if a package were not installed. paramiko loads invoke for `Match exec` in its own reader of
    ssh_config, which is not used here: a tenth of the time that `status` takes."""
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]


def _paramiko(cluster: Cluster) -> Transport:
    with _without("invoke"):
        from nemodeploy.adapters.transports.paramiko_ssh import ParamikoTransport

    return ParamikoTransport(cluster, terminal.asker(), terminal.asker(terminal.AGAIN_WITHIN_S))


def _openssh(cluster: Cluster) -> Transport:
    from nemodeploy.adapters.transports.openssh import OpenSshTransport
    from nemodeploy.adapters.transports.openssh_master import masters

    return OpenSshTransport(cluster, masters(), person=terminal.asker() is not None)


def _local(cluster: Cluster) -> Transport:
    del cluster
    from nemodeploy.adapters.transports.local import LocalTransport

    return LocalTransport()


TRANSPORTS: Mapping[str, Callable[[Cluster], Transport]] = {
    "paramiko": _paramiko,
    "openssh": _openssh,
    "local": _local,
}


def choose(cluster: Cluster) -> tuple[str, str]:
    """The name of a cluster's transport, and why it is that one. Raises PreflightFailed where it cannot do what the
    settings want, and names the one that can."""
    if cluster.transport == "local":
        return "local", "the cluster file says so"
    has_client = shutil.which("ssh") is not None
    wanted = [reason for host in cluster.ssh.hosts for reason in _only_openssh(cluster, host)]
    if cluster.transport == "paramiko" and wanted:
        raise PreflightFailed(
            f"cluster {cluster.name}: paramiko cannot do {wanted[0]}", hint="transport: openssh in its cluster file"
        )
    if cluster.transport == "openssh" and not has_client:
        raise PreflightFailed(
            f"cluster {cluster.name}: there is no ssh on this machine",
            hint="apt install openssh-client, or transport: auto",
        )
    if cluster.transport != "auto":
        return cluster.transport, "the cluster file says so"
    if has_client and _is_logged_in(cluster):
        return "openssh", "nemodeploy login has opened a connection"
    if has_client and wanted:
        return "openssh", f"paramiko cannot do {wanted[0]}"
    return "paramiko", "it can do all that the settings want"


def _only_openssh(cluster: Cluster, host: str) -> Iterator[str]:
    """What paramiko cannot do for a login host: what its settings want, and a host key that only an authority knows."""
    settings = effective(cluster.ssh, host)
    yield from settings.only_openssh
    if not cluster.ssh.host_keys and any(map(_names_authorities, settings.known_hosts)):
        from nemodeploy.adapters.transports import known_hosts

        known = known_hosts.read(settings.known_as, settings.known_hosts)
        if known.authority and not (known.keys or known.portless):
            yield "host certificates, and known_hosts has a @cert-authority for this host, but no key"


def _names_authorities(path: Path) -> bool:
    try:
        return b"@cert-authority" in path.read_bytes()
    except OSError:
        return False  # it says nothing to anybody


def _is_logged_in(cluster: Cluster) -> bool:
    from nemodeploy.adapters.transports.openssh_master import masters

    kept = masters()
    return any(kept.is_open(kept.path(cluster, host), host) for host in cluster.ssh.hosts)


class Chosen:
    """The transport of a cluster, chosen at its first use: one cluster's odd settings are no other's trouble."""

    def __init__(self, cluster: Cluster) -> None:
        """Nothing is looked at yet."""
        self.cluster = cluster
        self._made: Transport | None = None
        self._making = threading.Lock()
        self._has_asked = False

    def open(self) -> None:
        """As the chosen one does."""
        with self._telling():
            self._transport.open()

    def run(self, command: Command) -> Completed:
        """As the chosen one does."""
        with self._telling():
            return self._transport.run(command)

    def tunnel(self, host: str, port: int) -> socket.socket:
        """As the chosen one does."""
        with self._telling():
            return self._transport.tunnel(host, port)

    def close(self) -> None:
        """As the chosen one does, if there is one."""
        if self._made:
            self._made.close()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Once something was asked there, whatever keeps us from asking again (settings that were changed meanwhile,
        programs that hang, a full disk) means that the cluster cannot be reached, and nothing about what was sent."""
        try:
            yield
        except (ClusterUnreachable, AuthenticationFailed):
            raise
        except (NemodeployError, OSError, subprocess.SubprocessError) as error:
            if isinstance(error, NemodeployError) and not self._has_asked:
                raise
            raise ClusterUnreachable(f"cluster {self.cluster.name}: {error}") from error
        self._has_asked = True

    @property
    def _transport(self) -> Transport:
        with self._making:
            if self._made is None:
                name, why = choose(self.cluster)
                log.debug("cluster %s by %s: %s", self.cluster.name, name, why)
                self._made = TRANSPORTS[name](self.cluster)
            return self._made


def connect(cluster: Cluster) -> Transport:
    """The transport of a cluster; it connects at its first use."""
    return Chosen(cluster)
