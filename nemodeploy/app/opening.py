"""The real world for one command: clock, journal, dice, and the connection to a cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import partial

from nemodeploy.adapters import clock, keys, resources
from nemodeploy.adapters.journal import Journal
from nemodeploy.adapters.transports import connect
from nemodeploy.app import ci
from nemodeploy.app.ports import Ports, Reporter
from nemodeploy.app.site import Site
from nemodeploy.app.wanted import secret
from nemodeploy.core import masking
from nemodeploy.core.spec import Cluster
from nemodeploy.errors import BadInput
from nemodeploy.values import Secret
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


def _secrets(cluster: Cluster) -> Iterator[Secret]:
    """The values of its secrets that are known here, so that no text from there shows them."""
    for name in (*cluster.secrets, *(registry.secret for registry in cluster.registries)):
        with contextlib.suppress(BadInput):
            value = secret(name, os.environ)
            if value:
                yield value


@contextlib.contextmanager
def site(cluster: Cluster) -> Iterator[Site]:
    """A cluster, and its connection closed afterwards."""
    transport = connect(cluster)
    try:
        yield Site(cluster, transport, clock.nonce, hidden=masking.lines_of(_secrets(cluster)))
    finally:
        transport.close()
