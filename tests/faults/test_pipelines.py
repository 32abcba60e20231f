"""Row F41 for `run`: a CI system that cancels, at any moment; and a runner that is simply gone."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.faults.rig import Rig
from tests.faults.test_submitting import up
from tests.integration.test_run import served

pytestmark = [pytest.mark.sandbox, pytest.mark.long]
# It hears nothing, and ends all the same some day.
DEAF = ("sh", "-c", "trap '' INT TERM; echo running >&2; for _ in $(seq 300); do sleep 0.2; done")
# What `run` says at each step, from before any network to the end.
PHASES = (
    *("  plan ", "  lease ", " checks ", " submitted ", " queued ", " starting ", " this may take ", " loading "),
    *(" ready ", "running", " stopping ", " gone "),
)


def gone_within(rig: Rig, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while rig.alive() and time.monotonic() < deadline:
        time.sleep(0.2)
    return rig.alive() == []


@pytest.mark.parametrize("phase", PHASES)
def test_f41_a_pipeline_that_is_cancelled_leaves_nothing(rig: Rig, tmp_path: Path, phase: str) -> None:
    """As GitHub does it: INT, 7.5 s later TERM, 2.5 s later KILL; the command hears nothing of the first two."""
    command = ("true",) if phase in (" stopping ", " gone ") else DEAF
    # So slow that every phase is to be seen.
    slow = rig.site.cluster("slow", env={"STAND_IN_LOAD_SECONDS": "3"})
    rig.shim("sbatch", 'case "$*" in *--test-only*) exec "$real" "$@" ;; esac; exec "$real" --begin=now+2 "$@"')
    report = tmp_path / "report.json"
    words = ("--profile", "h100x1", "--cluster", slow, "--ttl", "20s", "--report", str(report))
    process = rig.site.start_until(phase, "run", *words, "--", *command)
    begun = time.monotonic()
    for number, pause_s in ((signal.SIGINT, 7.5), (signal.SIGTERM, 2.5), (signal.SIGKILL, 0)):
        process.send_signal(number)
        deadline = time.monotonic() + pause_s
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
    with process:
        process.wait(20)
    assert gone_within(rig, 30 - (time.monotonic() - begun)), rig.alive()
    if PHASES.index(phase) < PHASES.index(" ready "):
        assert process.returncode in (40, 130, -signal.SIGKILL)
    if process.returncode == 40 and PHASES.index(phase) >= PHASES.index(" submitted "):
        told = json.loads(report.read_text())
        assert (told["token"].startswith("nd-"), told["job_id"].isdigit()) == (True, True), told


def test_a_runner_that_vanishes_is_outlived_by_its_lease_only(rig: Rig) -> None:
    with rig.site.start_until("ready", "run", "--profile", "cpu", "--ttl", "5s", "--", "sleep", "40") as process:
        process.kill()
    begun = time.monotonic()
    assert gone_within(rig, 5 + 10)
    assert time.monotonic() - begun > 1, "it was the lease that ended it"


def test_a_tunnel_outlives_its_connection(rig: Rig) -> None:
    up(rig)
    with rig.proxy() as proxy, rig.site.start("connect", "tiny", "--port", "0", "--json") as tunnel:
        assert tunnel.stdout is not None
        told = json.loads(tunnel.stdout.readline())
        for _ in range(3):
            assert served(told) == "tiny"
            proxy.cut_now()
            time.sleep(0.5)
        tunnel.send_signal(signal.SIGTERM)
        assert tunnel.wait(30) == 0
        assert rig.site.run("down", "tiny").returncode == 0


@pytest.mark.minutes
def test_a_tunnel_follows_a_requeue_to_where_it_serves_again(rig: Rig) -> None:
    job = str(up(rig, "--set", "requeue=true")["job_id"])
    with rig.site.start("connect", "tiny", "--port", "0", "--json") as tunnel:
        assert tunnel.stdout is not None
        told = json.loads(tunnel.stdout.readline())
        assert rig.sandbox.exec("scontrol", "requeue", job).returncode == 0
        again = rig.site.wait_for("READY", 240)
        assert again["epoch"] == f"{job}.1"
        assert served(told) == "tiny"
        tunnel.send_signal(signal.SIGTERM)
        assert tunnel.wait(30) == 0


def test_a_server_that_ends_under_its_command_is_told_and_the_command_decides(rig: Rig) -> None:
    command = ("sh", "-c", "echo running >&2; sleep 25; exit 3")
    with rig.site.start_until("running", "run", "--profile", "cpu", "--", *command) as process:
        rig.sandbox.exec("pkill", "-KILL", "-f", "[l]lama_server.py.*alias=tiny")
        said = rig.site.rest_of(process)
    assert process.returncode == 3
    assert "has ended: the server program ended" in said
    assert rig.alive() == []


def test_a_queue_that_is_too_long_is_31_and_nothing_waits_on(rig: Rig) -> None:
    rig.shim("sbatch", 'case "$*" in *--test-only*) exec "$real" "$@" ;; esac; exec "$real" --begin=now+600 "$@"')
    done = rig.site.run("run", "--profile", "cpu", "--queue-timeout", "4s", "--", "true")
    assert (done.returncode, "no nodes within 4 s" in done.stderr) == (31, True), done.stderr
    assert rig.alive() == []


@pytest.mark.minutes
@pytest.mark.parametrize(("its_code", "ours"), [(0, 50), (7, 7)])
def test_an_end_that_cannot_be_shown_is_50_unless_the_command_failed(rig: Rig, its_code: int, ours: int) -> None:
    mute = rig.sandbox.place.root / "run/mute"
    for program in ("squeue", "sacct", "scancel"):
        rig.shim(program, f'[ ! -e {mute} ] || exit 1; exec "$real" "$@"')
    try:
        command = ("sh", "-c", f"touch {mute}; exit {its_code}")
        done = rig.site.run("run", "--profile", "cpu", "--ttl", "20s", "--", *command, timeout=300)
    finally:
        mute.unlink()
    assert done.returncode == ours
    assert "the outcome is unknown" in done.stderr
    assert gone_within(rig, 60), "the lease ends it"


def test_a_login_node_that_is_away_is_11_and_nothing_was_submitted(rig: Rig) -> None:
    with rig.proxy() as proxy:
        proxy.close()
        done = rig.site.run("run", "--profile", "cpu", "--", "true")
    assert (done.returncode, "cannot connect" in done.stderr) == (11, True), done.stderr
    assert rig.alive() == []


@pytest.mark.minutes
def test_a_login_node_that_goes_away_meanwhile_is_50_and_the_lease_ends_the_job(rig: Rig) -> None:
    with rig.proxy() as proxy:
        command = ("sh", "-c", "echo running >&2; sleep 3")
        with rig.site.start_until("running", "run", "--profile", "cpu", "--ttl", "20s", "--", *command) as process:
            proxy.close()
            proxy.cut_now()
            said = rig.site.rest_of(process, 400)
    assert (process.returncode, "the outcome is unknown" in said) == (50, True), said
    assert gone_within(rig, 60)
