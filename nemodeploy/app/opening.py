"""The real world for one command: clock, journal, dice, and the connection to a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial

from nemodeploy.adapters import clock, keys, resources
from nemodeploy.adapters.journal import Journal
from nemodeploy.adapters.transports import connect
from nemodeploy.app import ci
from nemodeploy.app.ports import Ports, Reporter
from nemodeploy.app.site import Site
from nemodeploy.core.spec import Cluster
from nemodeploy.version import __version__


def ports(reporter: Reporter, environment: Mapping[str, str]) -> Ports:
    """The real ones; whose deployments they make follows from the environment. Raises BadInput for a wrong owner."""
    return Ports(
        clock=clock.SystemClock(),
        journal=Journal(resources.state_directory()),
        reporter=reporter,
        new_token=clock.new_token,
        nonce=clock.nonce,
        key=partial(keys.key_of, resources.state_directory()),
        wall_clock=clock.utc_now,
        owner=ci.owner(environment),
        version=__version__,
    )


@contextlib.contextmanager
def site(cluster: Cluster) -> Iterator[Site]:
    """A cluster, and its connection closed afterwards."""
    transport = connect(cluster)
    try:
        yield Site(cluster, transport, clock.nonce)
    finally:
        transport.close()
