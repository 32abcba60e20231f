"""Rows F01 to F16 of the fault matrix: what can go wrong between `up` and a job, on a real Slurm over a real sshd."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from nemodeploy.sandbox.proxy import Proxy
from tests.conftest import Home
from tests.faults.rig import Rig

pytestmark = [pytest.mark.sandbox, pytest.mark.long]
UP = ("up", "--profile", "cpu", "--json")
# The preflight's `sbatch --test-only` is left alone.
REAL_IF_TRIED = 'case "$*" in *--test-only*) exec "$real" "$@" ;; esac\n'


def up(rig: Rig, *words: str, timeout: float = 180) -> dict[str, Any]:
    return rig.site.up("--profile", "cpu", *words, timeout=timeout)


def refused(rig: Rig, code: int, *words: str, timeout: float = 180) -> str:
    done = rig.site.run(*UP, *words, timeout=timeout)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_f01_the_controller_stalls_over_the_submission(rig: Rig) -> None:
    rig.shim(
        "sbatch",
        REAL_IF_TRIED + 'kill -STOP "$(cat $run/slurmctld.pid)"; (sleep 12; kill -CONT "$(cat $run/slurmctld.pid)") '
        '>/dev/null 2>&1 & exec "$real" "$@"',
    )
    document = up(rig)
    assert rig.jobs()[str(document["token"])] == 1
    assert len(rig.alive()) == 1


def test_f02_the_job_is_accepted_and_the_reply_lost(rig: Rig) -> None:
    rig.shim(
        "sbatch",
        REAL_IF_TRIED + '"$real" "$@" >/dev/null; '
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1",
    )
    document = up(rig)
    assert rig.jobs()[str(document["token"])] == 1


def test_f03_the_connection_is_cut_somewhere(rig: Rig) -> None:
    with rig.proxy() as proxy:
        whole = _bytes_of_a_submission(rig, proxy)
        for cut in random.Random(time.time_ns()).sample(range(whole), 8):
            proxy.arm(cut)
            done = rig.site.run(*UP, timeout=180)
            assert done.returncode in (0, 10, 11), f"cut after {cut}: {done.stderr}"
            proxy.left = None
            assert len(rig.alive()) == (1 if done.returncode == 0 else 0), f"cut after {cut}: {done.stderr}"
            assert rig.site.run("down", "--all").returncode == 0
            assert rig.alive() == []


def _bytes_of_a_submission(rig: Rig, proxy: Proxy) -> int:
    before = proxy.passed
    up(rig)
    whole = proxy.passed - before
    assert rig.site.run("down", "--all").returncode == 0
    return whole


def test_f04_the_connection_falls_silent(rig: Rig) -> None:
    with rig.proxy() as proxy:
        whole = _bytes_of_a_submission(rig, proxy)
        proxy.arm(whole // 2, silent=True)
        done = rig.site.run(*UP, timeout=150)
        assert done.returncode in (0, 11), done.stderr
        assert "silent for 45 s" in done.stderr
        assert rig.alive() == [] or done.returncode == 0, "11 says that nothing was submitted"
        document = up(rig)
        assert rig.jobs()[str(document["token"])] == 1
        assert proxy.connections > 2, "it connected again"
        assert rig.site.run("down", "--all").returncode == 0


def test_f07_two_at_once_make_one_job_and_the_other_adopts_it(rig: Rig) -> None:
    processes = [rig.site.start(*UP) for _ in range(2)]
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert sorted(answer["adopted"] for answer in answers) == [False, True]
    assert len({answer["token"] for answer in answers}) == 1
    assert len(rig.alive()) == 1


def test_f07_from_two_homes_with_another_plan_one_is_refused(
    rig: Rig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Home(rig.site.path, {**rig.site.environment, "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state"))})
    processes = [rig.site.start(*UP), other.start(*UP, "--time", "1h")]
    ends = [process.communicate(timeout=120) for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes == [0, 12], ends
    assert len(rig.alive()) == 1


@pytest.mark.minutes
def test_f08_a_controller_that_is_down_is_11_and_nothing_is_submitted(rig: Rig) -> None:
    time.sleep(6)  # it saves its state every 5 s; what ended since would be alive again for a while
    rig.sandbox.signal_daemon("slurmctld", signal.SIGKILL)
    try:
        text = refused(rig, 11)
        assert "nothing was submitted" in text
    finally:
        rig.sandbox.start_controller()
    _await_controller(rig)
    assert rig.alive() == []
    assert rig.notes() == []
    up(rig)


def _await_controller(rig: Rig) -> None:
    deadline = time.monotonic() + 60
    while "idle" not in rig.sandbox.node_states().get("a100-1", "") and time.monotonic() < deadline:
        time.sleep(0.3)


def test_f10_a_definite_no_is_20_and_is_not_repeated(rig: Rig) -> None:
    said = "Batch job submission failed: Invalid account or account/partition combination specified"
    rig.shim("sbatch", REAL_IF_TRIED + f"echo 'sbatch: error: {said}' >&2; exit 1")
    text = refused(rig, 20)
    assert said.rpartition(": ")[2] in text
    assert sum("--test-only" not in call for call in rig.calls("sbatch")) == 1
    assert rig.notes() == []


def test_f11_noise_around_the_job_id_and_around_every_answer(rig: Rig) -> None:
    banner = "echo '--------'; echo '-->  Welcome to 4711! '; echo 'info: job 12 is not that one'; echo '--------'\n"
    rig.shim("sbatch", banner + '"$real" "$@"; status=$?; ' + banner + "exit $status")
    rig.shim("sh", banner + 'exec "$real" "$@"')
    document = up(rig)
    assert rig.jobs()[str(document["token"])] == 1
    assert rig.site.run("down", "tiny").returncode == 0


@pytest.mark.parametrize("shape", ["$id;sandbox", "Submitted batch job $id on cluster sandbox", "  $id  "])
def test_f12_a_job_id_in_any_shape(rig: Rig, shape: str) -> None:
    rig.shim("sbatch", REAL_IF_TRIED + f'id=$("$real" "$@") || exit 1; echo "{shape}"')
    document = up(rig)
    assert rig.sandbox.exec("squeue", "-h", "-o", "%i").stdout.split() == [document["job_id"]]


def test_f13_a_job_that_is_held_at_once_is_31_with_the_reason(rig: Rig) -> None:
    rig.shim("sbatch", REAL_IF_TRIED + 'id=$("$real" --hold "$@") || exit 1; echo "$id"')
    text = refused(rig, 31, "--queue-timeout", "4s")
    assert "JobHeldUser: held by the user" in text
    assert rig.alive() == []


def test_f14_a_full_disk_on_the_cluster_is_12_and_nothing_is_submitted(rig: Rig) -> None:
    full = rig.sandbox.place.shared / "full"
    full.mkdir(exist_ok=True)
    mounted = rig.sandbox.exec("mount", "-t", "tmpfs", "-o", "size=16k,mode=777", "tmpfs", str(full))
    if mounted.returncode:
        pytest.skip("an ordinary user may mount nothing")
    try:
        text = refused(rig, 12, "--cluster", rig.site.cluster("full", root=str(full)))
        assert "cannot make the run directory" in text
        assert "No space left on device" in text
    finally:
        rig.sandbox.exec("umount", str(full))
    assert rig.alive() == []
    assert [call for call in rig.calls("sbatch") if "--test-only" not in call] == []


def test_f15_a_file_that_shows_late_on_the_node_is_waited_for(rig: Rig) -> None:
    rig.shim(
        "sbatch",
        REAL_IF_TRIED
        + 'mv nemo_inference.sh late; (sleep 3; mv late nemo_inference.sh) >/dev/null 2>&1 & exec "$real" "$@"',
    )
    up(rig)


def test_f16_a_full_disk_here_is_2_before_any_connection(rig: Rig) -> None:
    with rig.proxy() as proxy:
        done = subprocess.run(
            [sys.executable, "-m", "nemodeploy", *UP],
            env=dict(rig.site.environment),
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        )
        assert done.returncode == 2, done.stderr
        assert "cannot write the journal" in done.stderr
        assert proxy.connections == 0
