"""Rows F18 to F33 of the fault matrix: what can happen to a job, and what is said of it meanwhile."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import pytest

from tests.conftest import NAME, pid_of_rank, start_again
from tests.faults.rig import Rig
from tests.faults.test_submitting import REAL_IF_TRIED, UP, refused, up

pytestmark = [pytest.mark.sandbox, pytest.mark.long]
DOWN = "echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1"


def kill_all_of(rig: Rig, token: str) -> None:
    """Every process of a job at once, the supervisor too, so that it leaves no word."""
    rig.sandbox.exec("pkill", "-KILL", "-f", f"slurm_script.*[n]{token[1:]}")


def forget(rig: Rig, job_id: str) -> None:
    """Wait until Slurm has purged an ended job (MinJobAge=2)."""
    deadline = time.monotonic() + 60
    while rig.sandbox.exec("squeue", "-h", "--states=all", "-j", job_id).returncode == 0:
        assert time.monotonic() < deadline, f"job {job_id} is not purged"
        time.sleep(0.5)


@pytest.mark.parametrize("times", [1, 3])
def test_f18_an_empty_queue_is_not_an_end(rig: Rig, times: int) -> None:
    first = 2  # it has been seen running by then
    empty = f'case "$*" in *--me*) [ "$count" -lt {first} ] || [ "$count" -ge {first + times} ] || exit 0 ;; esac\n'
    rig.shim("squeue", empty + 'exec "$real" "$@"')
    document = up(rig)
    assert rig.jobs()[str(document["token"])] == 1
    for _ in range(times):
        rig.shim("squeue", 'case "$*" in *--me*) exit 0 ;; esac; exec "$real" "$@"')
        seen = rig.status()
        assert (seen["state"], seen["token"]) == ("UNKNOWN", document["token"])
    done = rig.site.start("down", "tiny")
    time.sleep(2)
    rig.unshim()
    done.communicate(timeout=60)
    assert done.returncode == 0
    assert rig.alive() == []


def test_f19_a_job_that_slurm_has_purged_is_found_in_the_accounting(rig: Rig) -> None:
    with rig.slurm_conf(MinJobAge="2"):
        document = up(rig)
        kill_all_of(rig, str(document["token"]))
        forget(rig, str(document["job_id"]))
        seen = rig.status()
        assert (seen["state"], seen["endpoint"]) == ("ENDED", None)
        assert seen["reason"] == "Slurm says FAILED"
        assert rig.site.run("down", "tiny").returncode == 0
        text = refused(rig, 30, "--cluster", rig.site.cluster("brief", programs={"llamacpp": ["/bin/false"]}))
        assert "the server program ended" in text


def test_f20_purged_and_no_accounting_is_unknown_until_its_files_are_still(rig: Rig) -> None:
    with rig.slurm_conf(MinJobAge="2"):
        document = up(rig)
        kill_all_of(rig, str(document["token"]))
        forget(rig, str(document["job_id"]))
        rig.shim("sacct", DOWN)
        seen = rig.status()
        assert (seen["state"], seen["endpoint"]) == ("UNKNOWN", None)
        rig.unshim()


@pytest.mark.minutes
def test_f20_down_says_50_and_never_0_while_nobody_can_tell(rig: Rig) -> None:
    with rig.slurm_conf(MinJobAge="2"):
        document = up(rig)
        kill_all_of(rig, str(document["token"]))
        forget(rig, str(document["job_id"]))
        rig.shim("sacct", DOWN)
        done = rig.site.run("down", "tiny", timeout=300)
        assert done.returncode == 50, done.stderr
        assert str(document["token"]) in done.stderr
        assert "nemodeploy status tiny" in done.stderr
        rig.unshim()
        assert rig.site.run("down", "tiny").returncode == 0


def test_f22_a_requeue_withdraws_the_endpoint_and_serves_again_in_a_new_epoch(rig: Rig) -> None:
    document = up(rig, "--set", "requeue=true")
    job, token = str(document["job_id"]), str(document["token"])
    assert rig.sandbox.exec("scontrol", "requeue", job).returncode == 0
    seen = rig.site.wait_for("QUEUED")
    assert seen["endpoint"] is None
    assert not (rig.directory(token) / f"epochs/{job}.0/endpoint.json").exists()
    start_again(rig.sandbox, job)
    assert rig.site.wait_for("READY")["epoch"] == f"{job}.1"


@pytest.mark.parametrize("requeue", [False, True])
def test_f23_a_node_that_fails_leaves_no_endpoint(rig: Rig, requeue: bool) -> None:
    document = up(rig, "--set", f"requeue={str(requeue).lower()}")
    node = str(document["nodes"][0])
    try:
        rig.sandbox.exec("scontrol", "update", f"nodename={node}", "state=down", "reason=fault")
        seen = rig.site.wait_for("ENDED", patient=False)
        deadline = time.monotonic() + 60
        while seen["state"] not in ("ENDED", "QUEUED") and time.monotonic() < deadline:
            assert seen["state"] != "READY"
            seen = rig.status()
        assert seen["state"] == ("QUEUED" if requeue else "ENDED")
        assert seen["endpoint"] is None
    finally:
        rig.sandbox.exec("scontrol", "update", f"nodename={node}", "state=resume")
    assert rig.site.run("down", "tiny").returncode == 0


@pytest.mark.parametrize("requeue", [False, True])
def test_f24_a_job_that_is_preempted(rig: Rig, requeue: bool) -> None:
    words = ("up", "--profile", "h200x8", "--json", "--set", f"requeue={str(requeue).lower()}")
    document = json.loads(rig.site.run(*words).stdout)
    urgent = rig.sandbox.exec(
        "sbatch", "--parsable", "-p", "urgent", "-w", "h200-1", "--exclusive", "--output=/dev/null", "--wrap=sleep 6"
    ).stdout.strip()
    try:
        seen = rig.site.wait_for("QUEUED" if requeue else "ENDED", 60)
        assert seen["endpoint"] is None
        if requeue:
            deadline = time.monotonic() + 30
            while "R" not in rig.sandbox.exec("squeue", "-h", "-j", urgent, "-o", "%t").stdout:
                assert time.monotonic() < deadline
                time.sleep(0.3)
    finally:
        rig.sandbox.exec("scancel", urgent)
    if requeue:
        start_again(rig.sandbox, str(document["job_id"]))
        assert rig.site.wait_for("READY", 60)["epoch"] == f"{document['job_id']}.1"
    assert rig.site.run("down", "--all").returncode == 0


@pytest.fixture
def grace(rig: Rig) -> Iterator[None]:
    """What a job that is preempted has left, as many sites grant it."""
    conf = rig.sandbox.place.slurm_conf
    before = conf.read_text()
    conf.write_text(before.replace("PartitionName=batch ", "PartitionName=batch GraceTime=8 "))
    rig.reconfigure()
    yield
    conf.write_text(before)
    rig.reconfigure()


@pytest.mark.usefixtures("grace")
@pytest.mark.parametrize("requeue", [False, True])
def test_f24_a_job_that_is_told_before_it_is_preempted(rig: Rig, requeue: bool) -> None:
    words = ("up", "--profile", "h200x8", "--json", "--set", f"requeue={str(requeue).lower()}")
    document = json.loads(rig.site.run(*words).stdout)
    job = str(document["job_id"])
    urgent = rig.sandbox.exec(
        "sbatch", "--parsable", "-p", "urgent", "-w", "h200-1", "--exclusive", "--output=/dev/null", "--wrap=sleep 6"
    ).stdout.strip()
    try:
        seen = rig.site.wait_for("QUEUED" if requeue else "ENDED", 60)
    finally:
        rig.sandbox.exec("scancel", urgent)
    (record,) = rig.sandbox.place.shared.glob(f"nemodeploy/*/**/{document['token']}/epochs/{job}.0/exit.json")
    assert json.loads(record.read_text())["cause"] == "preempted"
    if requeue:
        start_again(rig.sandbox, job)
        assert rig.site.wait_for("READY", 60)["epoch"] == f"{job}.1"
    else:
        assert seen["reason"] == "Slurm had told it to end, as it does before a preemption"
        assert "--set requeue=true" in rig.site.run("status", NAME).stdout
    assert rig.site.run("down", "--all").returncode == 0


@pytest.mark.minutes
def test_f25_the_time_limit_ends_it_in_order(rig: Rig) -> None:
    document = up(rig, "--time", "2m")
    ended = rig.site.wait_for("ENDED", 180)
    assert ended["reason"] == "the time limit was near"
    record = json.loads((rig.directory(str(document["token"])) / "current/exit.json").read_text())
    assert record["cause"] == "time_limit"
    assert record["step_status"] is not None, "the ranks were ended in order, not by Slurm"


def test_f28_a_prolog_that_fails_is_told_with_what_to_do(rig: Rig) -> None:
    prolog = rig.sandbox.place.root / "etc/prolog"
    prolog.write_text("#!/bin/sh\nexit 1\n")
    prolog.chmod(0o755)
    with rig.slurm_conf(Prolog=str(prolog)):
        text = rig.site.run(*UP, "--queue-timeout", "20s", timeout=240)
        assert text.returncode in (30, 31), text.stderr
        assert "launch" in text.stderr or "Slurm says" in text.stderr
    for name, state in rig.sandbox.node_states().items():
        if "drain" in state:
            rig.sandbox.exec("scontrol", "update", f"nodename={name}", "state=resume")
    assert rig.alive() == []


def test_f29_a_suspended_job_is_degraded_and_down_works(rig: Rig) -> None:
    document = up(rig)
    assert rig.sandbox.exec("scontrol", "suspend", str(document["job_id"])).returncode == 0
    seen = rig.status()
    assert (seen["state"], seen["reason"]) == ("DEGRADED", "Slurm has it SUSPENDED")
    assert rig.site.run("down", "tiny").returncode == 0
    assert rig.alive() == []


@pytest.mark.minutes
def test_f30_a_controller_that_lost_its_list_is_not_believed(rig: Rig) -> None:
    document = up(rig, "--ttl", "20s")
    directory = rig.directory(str(document["token"]))
    rig.sandbox.signal_daemon("slurmctld", signal.SIGKILL)
    rig.sandbox.start_controller(cold=True)
    deadline = time.monotonic() + 60
    while rig.sandbox.exec("squeue", "-h").returncode and time.monotonic() < deadline:
        time.sleep(0.3)
    seen = rig.status()
    alive = bool(rig.sandbox.exec("pgrep", "-f", str(directory)).stdout)
    assert not (alive and seen["state"] == "ENDED"), seen
    deadline = time.monotonic() + 60
    while rig.sandbox.exec("pgrep", "-f", str(directory)).stdout and time.monotonic() < deadline:
        time.sleep(0.5)
    assert rig.sandbox.exec("pgrep", "-f", str(directory)).stdout == "", "nothing of it is left on its node"
    deadline = time.monotonic() + 90
    while set(rig.sandbox.node_states().values()) != {"idle"} and time.monotonic() < deadline:
        time.sleep(0.5)
    assert rig.site.run("down", "tiny", timeout=200).returncode == 0


def test_f31_completing_is_not_gone(rig: Rig) -> None:
    epilog = rig.sandbox.place.root / "etc/epilog"
    epilog.write_text("#!/bin/sh\nsleep 8\n")
    epilog.chmod(0o755)
    up(rig)
    with rig.slurm_conf(Epilog=str(epilog)):
        done = rig.site.run("down", "tiny")
        assert done.returncode == 0, done.stderr
        assert "Slurm is still cleaning up" in done.stderr
        assert rig.alive() == [], "gone is said only afterwards"


def test_f32_rank_0_dies_and_the_others_sleep(rig: Rig) -> None:
    assert rig.site.run("up", "--profile", "h100x16").returncode == 0
    rig.sandbox.exec("kill", "-KILL", pid_of_rank(rig.sandbox, 0))
    ended = rig.site.wait_for("ENDED", 90)
    assert ended["reason"] == "the server program ended"
    assert rig.alive() == []
    record = json.loads((rig.directory(ended["token"]) / "current/exit.json").read_text())
    assert (record["rank"], record["rank_status"]) == (0, 137)


def test_hostile_and_torn_files_in_the_run_directory_are_not_believed(rig: Rig) -> None:
    document = up(rig)
    current = (rig.directory(str(document["token"])) / "current").resolve()
    other_epoch = '{"schema": "nemodeploy/exit@1", "epoch": "1.0", "cause": "done"}'
    for name, text in (
        ("endpoint.json", '{"host": "127.0.0.1", "po'),
        ("endpoint.json", ""),
        ("exit.json", other_epoch),
    ):
        (current / name).unlink(missing_ok=True)
        if text:
            (current / name).write_text(text)
        else:
            (current / name).symlink_to("/etc/passwd")
        seen = rig.status()
        assert seen["state"] not in ("ENDED", "STOPPING"), "another epoch's word, or none at all"
        if name == "endpoint.json":
            assert seen["endpoint"] is None
    assert rig.site.run("down", "tiny").returncode == 0
    assert rig.alive() == []


@pytest.mark.minutes
def test_f33_a_rank_that_hangs_is_degraded_within_three_minutes(rig: Rig) -> None:
    assert rig.site.run("up", "--profile", "h200x8").returncode == 0
    pid = pid_of_rank(rig.sandbox, 1)
    rig.sandbox.exec("kill", "-STOP", pid)
    try:
        degraded = rig.site.wait_for("DEGRADED", 180)
        assert degraded["endpoint"] is None
    finally:
        rig.sandbox.exec("kill", "-CONT", pid)
    assert rig.site.wait_for("READY", 60)["endpoint"]
    assert rig.site.run("down", NAME).returncode == 0


def test_f28_a_job_that_slurm_requeued_and_holds_is_31_with_how_to_release_it(rig: Rig) -> None:
    rig.shim(
        "sbatch",
        REAL_IF_TRIED + 'id=$("$real" --hold "$@") || exit 1; "scontrol" update jobid="$id" '
        'comment=x >/dev/null 2>&1; echo "$id"',
    )
    rig.shim("squeue", """"$real" "$@" | sed 's/JobHeldUser               /launch failed requeued held/'""")
    text = refused(rig, 31)
    assert "its launch failed; Slurm holds it" in text
    assert rig.alive() == []
