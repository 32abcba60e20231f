"""One module a transport, one line here. Modules are imported when they are needed: paramiko is slow to load."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nemodeploy.adapters.transports.base import Transport
from nemodeploy.core.spec import Cluster


def _paramiko(cluster: Cluster) -> Transport:
    from nemodeploy.adapters.transports.paramiko_ssh import ParamikoTransport

    return ParamikoTransport(cluster)


def _local(cluster: Cluster) -> Transport:
    del cluster
    from nemodeploy.adapters.transports.local import LocalTransport

    return LocalTransport()


TRANSPORTS: Mapping[str, Callable[[Cluster], Transport]] = {"paramiko": _paramiko, "local": _local}


def connect(cluster: Cluster) -> Transport:
    """The transport of a cluster; it connects at its first use."""
    return TRANSPORTS[cluster.transport](cluster)
