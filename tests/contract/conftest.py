"""One transport after the other, connected to the sandbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from nemodeploy.adapters import yaml_files
from nemodeploy.adapters.transports import TRANSPORTS
from nemodeploy.adapters.transports.base import Transport
from nemodeploy.core.cluster_files import decode_cluster
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.values import Command


@pytest.fixture(params=sorted(TRANSPORTS))
def transport(request: pytest.FixtureRequest, sandbox: Sandbox) -> Iterator[Transport]:
    cluster = decode_cluster("sandbox", yaml_files.load(sandbox.place.root / "cluster.yaml"))
    made = TRANSPORTS[request.param](cluster)
    yield made
    made.close()


@pytest.fixture
def serve(transport: Transport) -> Callable[[str], int]:
    """Run a Python program where the transport leads; returns the port that it prints first."""

    def start(program: str) -> int:
        script = f"out=$(mktemp); python3 - >\"$out\" 2>&1 <<'EOF' &\n{program}\nEOF\n"
        script += 'until [ -s "$out" ]; do sleep 0.05; done; cat "$out"; rm "$out"\n'
        return int(transport.run(Command(script=script, deadline_s=20)).stdout)

    return start
