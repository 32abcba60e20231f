"""A rig for every test here; `--times N` runs each N times (those that last over a minute a third as often)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nemodeploy.sandbox.cluster import Sandbox
from tests.conftest import Home
from tests.faults.rig import Rig, only_once


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    times = int(metafunc.config.getoption("--times"))
    if times > 1 and "rig" in metafunc.fixturenames:
        slow = metafunc.definition.get_closest_marker("minutes") is not None
        metafunc.fixturenames.append("turn")
        metafunc.parametrize("turn", range(max(times // 3, 1) if slow else times))


@pytest.fixture
def rig(site: Home, sandbox: Sandbox) -> Iterator[Rig]:
    """Whatever a test does: afterwards Slurm is well, and no token ever had two jobs."""
    rig = Rig(site, sandbox)
    yield rig
    rig.unshim()
    only_once(rig.jobs())
