from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nemodeploy.core.sections import Section
from nemodeploy.core.witnesses import Word
from nemodeploy.schedulers.base import Life
from nemodeploy.schedulers.none import PlainHost
from tests.unit.core.test_decode import spec
from tests.unit.schedulers.test_preflight import plan

HOST = PlainHost()
TOKEN = f"nd-demo-01m7ykpr9z67k4g5wp{os.getpid():08d}"  # a process is found by it, whoever else tests here


def ask(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-s"], input=script, capture_output=True, text=True, check=False, timeout=20)


def start_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "deployments/demo" / TOKEN).mkdir(parents=True)
    return tmp_path


def write(root: Path, pid: int, start: str, boot: str = "", host: str = "") -> None:
    boot = boot or Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (root / "deployments/demo" / TOKEN / "host.job").write_text(f"{pid} {start} {boot} 3600 {host}\n")


def state(root: Path) -> str:
    done = ask(HOST.queue_script(str(root)))
    assert done.returncode == 0, done.stderr
    (row,) = HOST.parse_queue(done.stdout)
    assert row.name == TOKEN
    return row.state


def test_a_job_is_one_process_of_one_boot(root: Path) -> None:
    with subprocess.Popen(["sleep", "30"]) as process:
        write(root, process.pid, start_of(process.pid))
        assert state(root) == "RUNNING"
        write(root, process.pid, "12345")
        assert state(root) == "COMPLETED", "another process that has got its id"
        write(root, process.pid, start_of(process.pid), boot="another-boot")
        assert state(root) == "COMPLETED"
        write(root, process.pid, start_of(process.pid), boot="another-boot", host=os.uname().nodename)
        assert state(root) == "COMPLETED"
        write(root, process.pid, start_of(process.pid))
        ask(HOST.cancel_script(TOKEN, str(root), gently=True))
        assert process.wait(5) == -15
    assert state(root) == "COMPLETED"


def test_a_job_of_another_host_that_shares_the_directory_is_unknown(root: Path) -> None:
    with subprocess.Popen(["sleep", "30"]) as process:
        write(root, process.pid, start_of(process.pid), boot="another-boot", host="another-host")
        assert state(root) == "ELSEWHERE"
        (row,) = HOST.parse_queue(ask(HOST.queue_script(str(root))).stdout)
        assert row.plain_reason == "started on another-host, so only that host can tell"
        assert row.life is Life.UNKNOWN
        assert trace(root)[0] == "silent"
        ask(HOST.cancel_script(TOKEN, str(root), gently=False))
        assert process.poll() is None, "a process of ours that has the same number"
        process.kill()


def test_what_a_dead_supervisor_has_left_behind_is_alive_and_can_be_ended(root: Path) -> None:
    """In a container or out of one, it carries the token in its environment."""
    with subprocess.Popen(["sleep", "30"]) as supervisor:
        write(root, supervisor.pid, start_of(supervisor.pid))
        supervisor.kill()
    with subprocess.Popen(["sleep", "30"], env=os.environ | {"SLURM_JOB_NAME": TOKEN}) as rank:
        assert state(root) == "ORPHANED"
        (row,) = HOST.parse_queue(ask(HOST.queue_script(str(root))).stdout)
        assert row.life is Life.UNKNOWN
        assert trace(root)[0] == "alive"
        ask(HOST.cancel_script("nd-demo-01m7ykpr9z67k4g5wp74nrf1nm", str(root), gently=False))
        assert rank.poll() is None, "another token's"
        ask(HOST.cancel_script(TOKEN, str(root), gently=True))
        assert rank.wait(5) == -9
    assert state(root) == "COMPLETED"
    assert trace(root)[0] == "ended"


def test_an_empty_root_has_no_jobs(tmp_path: Path) -> None:
    done = ask(HOST.queue_script(str(tmp_path)))
    assert (done.returncode, HOST.parse_queue(done.stdout)) == (0, ())


def test_lines_that_are_no_rows_are_passed_over() -> None:
    assert HOST.parse_queue("Welcome!\n1 RUNNING\n") == ()


def trace(root: Path) -> tuple[str, str]:
    jobs = {TOKEN: ("", str(root / "deployments/demo" / TOKEN))}
    found = HOST.parse_trace(jobs, ask(HOST.trace_script(jobs)).stdout)[TOKEN]
    assert found.account is Word.MISSING
    return found.queue.value, found.job_id


def test_a_process_that_is_not_there_is_gone(root: Path) -> None:
    assert trace(root) == ("silent", "")
    with subprocess.Popen(["sleep", "30"]) as process:
        write(root, process.pid, start_of(process.pid))
        assert trace(root) == ("alive", str(process.pid))
        process.kill()
    assert trace(root) == ("ended", str(process.pid))


def test_a_refusal_is_what_submit_sh_says_itself() -> None:
    assert HOST.was_refused(1, "nothing was started: docker is not installed here")
    assert not HOST.was_refused(1, "")
    assert not HOST.was_refused(0, "")
    assert HOST.parse_job_id("Welcome\n4711\n") == "4711"


def test_slurms_own_words_and_several_nodes_are_refused() -> None:
    found = spec()
    assert [key for key, _, _ in HOST.rules(found)] == ["nodes"]
    with_words = replace(found, nodes=1, slurm=replace(found.slurm, partition="batch"))
    assert [key for key, _, _ in HOST.rules(with_words)] == ["slurm"]


@pytest.mark.parametrize(
    ("missing", "gpus", "what"),
    [
        ("docker\n", (0, "GPU 0: A\nGPU 1: A\n"), "docker is not installed on the host"),
        ("", (0, "GPU 0: NVIDIA H100\n"), "the host has 1 GPUs, and the job needs 16"),
    ],
)
def test_what_the_host_lacks_is_named(missing: str, gpus: tuple[int, str], what: str) -> None:
    answers = {"missing": Section(status=0, text=missing), "gpus": Section(status=gpus[0], text=gpus[1])}
    assert what in [found for found, _ in HOST.judge_preflight(plan(), answers).problems]


def test_a_host_without_nvidia_smi_says_nothing_of_its_gpus() -> None:
    answers = {"missing": Section(status=0, text=""), "gpus": Section(status=127, text="not found")}
    assert HOST.judge_preflight(plan(), answers).problems == ()


def test_a_host_with_other_gpus_is_refused_unless_the_cluster_file_says_that_they_are_those() -> None:
    wanted = replace(plan(), gpu_type="b200")
    text = "".join(f"GPU {index}: NVIDIA A100-SXM4-80GB (UUID: GPU-{index})\n" for index in range(16))
    answers = {"missing": Section(0, ""), "gpus": Section(0, text)}
    ((what, _),) = HOST.judge_preflight(wanted, answers).problems
    assert what == "the host has 0 b200 GPUs, and the job needs 16; it has NVIDIA A100-SXM4-80GB"
    stated = replace(wanted, sources={**wanted.sources, "gpus.b200.request": "site.yaml"})
    assert HOST.judge_preflight(stated, answers).problems == ()
