"""One transport after the other, connected to the sandbox."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from nemodeploy.adapters import yaml_files
from nemodeploy.adapters.transports import TRANSPORTS
from nemodeploy.adapters.transports.base import Transport
from nemodeploy.core.decode import decode_cluster
from nemodeploy.sandbox.cluster import Sandbox


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
        found: list[bytes] = []
        ready = threading.Event()

        def take(chunk: bytes) -> None:
            found.append(chunk)
            ready.set()

        script = f"exec python3 - <<'EOF'\n{program}\nEOF\n"
        threading.Thread(target=transport.follow, args=(script, take), daemon=True).start()
        assert ready.wait(20)
        return int(found[0])

    return start
