"""Rows F41 to F45 of the fault matrix: taking it down, in order, in a hurry, or when Slurm does not help."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

from tests.faults.rig import Rig
from tests.faults.test_running import forget
from tests.faults.test_submitting import REAL_IF_TRIED, UP, up

pytestmark = [pytest.mark.sandbox, pytest.mark.long]
TTL_S = 4


@pytest.mark.parametrize("after_s", [0.15, 0.35, 0.6, 0.9, 1.5, 2.2])
def test_f41_a_ci_system_cancels_at_any_moment(rig: Rig, after_s: float) -> None:
    process = rig.site.start(*UP, "--ttl", f"{TTL_S}s")
    time.sleep(after_s)
    for number, patience_s in ((signal.SIGINT, 7.5), (signal.SIGTERM, 2.5), (signal.SIGKILL, 5.0)):
        if process.poll() is None:
            process.send_signal(number)
        try:
            process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            continue
        break
    assert process.returncode in (0, 40, 130, -9, -2, -15), "and never a traceback"
    rig.await_none_alive(TTL_S + 30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_f41_term_and_hangup_take_it_down_too(rig: Rig, number: signal.Signals) -> None:
    process = rig.site.start_until("submitted", "up", "--profile", "cpu")
    process.send_signal(number)
    rest = rig.site.rest_of(process)
    assert process.returncode == 40, rest
    assert rig.alive() == []


def starting_deaf(rig: Rig, grace_s: int) -> subprocess.Popen[str]:
    """`up`, with a server program on its way that hears no signal."""
    program = rig.sandbox.place.shared / "deaf.sh"
    program.write_text("#!/bin/bash\ntrap '' TERM INT USR1 USR2\nwhile :; do sleep 1; done\n")
    cluster = rig.site.cluster("deaf", programs={"llamacpp": ["/bin/bash", str(program)]}, grace=grace_s)
    process = rig.site.start_until("starting the ranks", "up", "--profile", "cpu", "--cluster", cluster)
    time.sleep(1)
    return process


def test_f42_a_job_that_ignores_term_is_killed_after_the_grace(rig: Rig) -> None:
    process = starting_deaf(rig, grace_s=2)
    process.send_signal(signal.SIGINT)
    rest = rig.site.rest_of(process)
    assert process.returncode == 40, rest
    assert rig.alive() == []
    assert rig.sandbox.exec("pgrep", "-f", "deaf.sh").stdout == ""


def test_f42_a_second_interrupt_does_not_wait_for_the_grace(rig: Rig) -> None:
    process = starting_deaf(rig, grace_s=600)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(2)
    rest = rig.site.rest_of(process)
    assert process.returncode == 40, rest
    assert rig.alive() == []


UNREACHABLE = "scancel: error: slurm_kill_job2: Unable to contact slurm controller (connect failure)"


def waiting(rig: Rig) -> str:
    """A deployment that waits in the queue, so that only scancel can end it; returns its token."""
    rig.shim("sbatch", REAL_IF_TRIED + 'exec "$real" --hold "$@"')
    process = rig.site.start_until("JobHeldUser", "up", "--profile", "cpu")
    process.kill()
    process.communicate()
    return str(rig.status()["token"])


def test_f43_scancel_fails_at_first(rig: Rig) -> None:
    waiting(rig)
    rig.shim("scancel", f'[ "$count" -gt 3 ] || {{ echo "{UNREACHABLE}" >&2; exit 1; }}; exec "$real" "$@"')
    done = rig.site.run("down", "tiny", timeout=120)
    assert done.returncode == 0, done.stderr
    assert rig.alive() == []
    assert len(rig.calls("scancel")) >= 4


def test_f43_a_running_job_ends_itself_although_scancel_never_works(rig: Rig) -> None:
    up(rig)
    rig.shim("scancel", f'echo "{UNREACHABLE}" >&2; exit 1')
    assert rig.site.run("down", "tiny", timeout=120).returncode == 0
    assert rig.alive() == []


@pytest.mark.minutes
def test_f43_a_waiting_job_that_scancel_cannot_end_is_50_with_what_settles_it(rig: Rig) -> None:
    token = waiting(rig)
    rig.shim("scancel", f'echo "{UNREACHABLE}" >&2; exit 1')
    done = rig.site.run("down", "tiny", timeout=300)
    assert done.returncode == 50, done.stderr
    assert "Unable to contact slurm controller" in done.stderr
    assert token in done.stderr
    rig.unshim()
    assert rig.site.run("down", "tiny").returncode == 0


def test_a_third_interrupt_is_50_and_names_what_may_be_alive(rig: Rig) -> None:
    rig.shim("sbatch", REAL_IF_TRIED + 'exec "$real" --hold "$@"')
    process = rig.site.start_until("JobHeldUser", "up", "--profile", "cpu")
    rig.shim("scancel", f'echo "{UNREACHABLE}" >&2; exit 1')
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(1.5)
    rest = rig.site.rest_of(process)
    assert process.returncode == 50, rest
    assert str(rig.status()["token"]) in rest
    rig.unshim()
    assert rig.site.run("down", "tiny").returncode == 0


def test_f44_down_twice_down_of_nothing_and_down_while_it_waits(rig: Rig) -> None:
    up(rig)
    assert rig.site.run("down", "tiny").returncode == 0
    assert rig.site.run("down", "tiny").returncode == 0
    unknown = rig.site.run("down", "tinny")
    assert unknown.returncode == 2
    assert "did you mean tiny?" in unknown.stderr
    assert rig.site.run("down", "tinny", "--ignore-missing").returncode == 0
    rig.shim("sbatch", REAL_IF_TRIED + 'exec "$real" --hold "$@"')
    process = rig.site.start_until("JobHeldUser", "up", "--profile", "cpu")
    assert rig.site.run("down", "tiny").returncode == 0
    process.communicate(timeout=60)
    assert process.returncode == 30
    assert rig.alive() == []


def test_f45_a_job_id_that_was_given_to_another_job_is_left_alone(rig: Rig) -> None:
    with rig.slurm_conf(MinJobAge="2"):
        document = up(rig)
        rig.sandbox.exec("scancel", str(document["job_id"]))
        forget(rig, str(document["job_id"]))
        other = rig.sandbox.exec(
            "sbatch", "--parsable", "--job-name=theirs", "--output=/dev/null", "--wrap=sleep 600"
        ).stdout.strip()
        try:
            # As if the counter had come round: our receipt now holds a number that is somebody else's job.
            (rig.directory(str(document["token"])) / "submit/sbatch.out").write_text(f"{other}\n")
            rig.shim("sacct", "exit 0")
            assert rig.status()["state"] != "READY"
            assert rig.site.run("down", "tiny").returncode == 0
            assert rig.alive() == ["theirs"]
        finally:
            rig.sandbox.exec("scancel", other)
            rig.unshim()
    rig.await_none_alive(30)
    assert json.loads(rig.site.run("status", "--json").stdout)["deployments"] == []
