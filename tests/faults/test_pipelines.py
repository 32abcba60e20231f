"""Row F41 for `run`: a CI system that cancels, at any moment; and a runner that is simply gone."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.rig import Rig

pytestmark = [pytest.mark.sandbox, pytest.mark.long]
DEAF = ("sh", "-c", "trap '' INT TERM; echo running >&2; while :; do sleep 0.2; done")


def gone_within(rig: Rig, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while rig.alive() and time.monotonic() < deadline:
        time.sleep(0.2)
    return rig.alive() == []


@pytest.mark.parametrize("phase", ["checks", "submitted", "starting", "ready", "running", "stopping"])
def test_f41_a_pipeline_that_is_cancelled_leaves_nothing(rig: Rig, phase: str) -> None:
    """As GitHub does it: INT, 7.5 s later TERM, 2.5 s later KILL; the command hears nothing of the first two."""
    command = ("true",) if phase == "stopping" else DEAF
    slow = rig.site.cluster("slow", env={"STAND_IN_LOAD_SECONDS": "3"})  # so that there is a start-up to be seen
    process = rig.site.start_until(
        phase, "run", "--profile", "h100x1", "--cluster", slow, "--ttl", "20s", "--", *command
    )
    begun = time.monotonic()
    for number, pause_s in ((signal.SIGINT, 7.5), (signal.SIGTERM, 2.5), (signal.SIGKILL, 0)):
        process.send_signal(number)
        deadline = time.monotonic() + pause_s
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
    with process:
        process.wait(20)
    assert gone_within(rig, 30 - (time.monotonic() - begun)), rig.alive()
    if phase in ("checks", "submitted", "starting"):
        assert process.returncode in (40, 130, -signal.SIGKILL)


def test_a_runner_that_vanishes_is_outlived_by_its_lease_only(rig: Rig) -> None:
    with rig.site.start_until("ready", "run", "--profile", "cpu", "--ttl", "5s", "--", "sleep", "40") as process:
        process.kill()
    begun = time.monotonic()
    assert gone_within(rig, 5 + 10)
    assert time.monotonic() - begun > 1, "it was the lease that ended it"
