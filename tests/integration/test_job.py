"""The part that runs on the cluster: lease, requeue, claim, a hung rank, the time limit."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from nemodeploy.sandbox.cluster import Sandbox
from tests.conftest import NAME, Home, pid_of_rank, start_again

pytestmark = pytest.mark.sandbox


def up(site: Home, *words: str, **more: str) -> dict[str, Any]:
    return site.up("--profile", "h200x8", *words, **more)


def run_directory(sandbox: Sandbox, token: str) -> Path:
    """A look that has seen the end has archived it."""
    archived = sandbox.place.shared / "nemodeploy/archive" / token
    return archived if archived.exists() else sandbox.place.shared / "nemodeploy/deployments" / NAME / token


@pytest.mark.long
def test_a_lease_ends_the_job_when_it_is_not_renewed(site: Home, sandbox: Sandbox) -> None:
    lease = run_directory(sandbox, up(site)["token"]) / "lease"
    for number in range(4):
        lease.write_text(f"4 renewal-{number}\n")
        time.sleep(1.5)
    assert site.wait_for("READY")["state"] == "READY"
    ended = site.wait_for("ENDED", 20)
    assert ended["reason"] == "its lease ran out"


def test_a_requeued_job_serves_again_in_a_new_epoch(site: Home, sandbox: Sandbox) -> None:
    secretive = site.cluster("secretive", secrets=["HF_TOKEN"])
    first = up(site, "--set", "requeue=true", "--cluster", secretive, HF_TOKEN="hunter2")
    directory = run_directory(sandbox, first["token"])
    assert sandbox.exec("scontrol", "requeue", first["job_id"]).returncode == 0
    waiting = site.wait_for("QUEUED")
    assert waiting["endpoint"] is None
    old = directory / "epochs" / f"{first['job_id']}.0"
    assert not (old / "endpoint.json").exists()
    start_again(sandbox, first["job_id"])
    again = site.wait_for("READY")
    assert again["epoch"] == f"{first['job_id']}.1"
    assert (old / "logs").is_dir(), "the logs of the first run stay"
    assert "hunter2" in (directory / "secrets.env").read_text(), "the second run needs them as the first did"
    assert site.run("down", NAME).returncode == 0
    assert not list(sandbox.place.shared.glob("nemodeploy/**/secrets.env"))


def test_a_second_job_of_one_token_has_nothing_to_do(site: Home, sandbox: Sandbox) -> None:
    first = up(site)
    directory = run_directory(sandbox, first["token"])
    words = (f"--job-name={first['token']}", f"--chdir={directory}", "--output=slurm-%j.log")
    script = str(directory / "nemo_inference.sbatch")
    second = sandbox.exec("sbatch", "--parsable", *words, script, str(directory), first["token"]).stdout.strip()
    assert second.isdigit()
    log = directory / f"slurm-{second}.log"
    deadline = time.monotonic() + 20
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert f"job {first['job_id']} has claimed {first['token']}" in log.read_text()
    assert (directory / "claim").readlink() == Path(first["job_id"])


@pytest.mark.long
def test_a_stopped_rank_stops_the_generation_and_down_still_works(site: Home, sandbox: Sandbox) -> None:
    up(site)
    pid = pid_of_rank(sandbox, 5)
    sandbox.exec("kill", "-STOP", pid)
    asking = site.start("generate", NAME, "hello")
    time.sleep(3)
    assert asking.poll() is None, "a generation needs every rank"
    sandbox.exec("kill", "-CONT", pid)
    assert "tiny model" in asking.communicate(timeout=20)[0]
    sandbox.exec("kill", "-STOP", pid)
    assert site.run("down", NAME).returncode == 0
    assert sandbox.exec("squeue", "--noheader").stdout == ""


@pytest.mark.long
def test_a_hung_server_is_degraded_and_ready_again_when_it_answers(site: Home, sandbox: Sandbox) -> None:
    up(site)
    pid = pid_of_rank(sandbox, 0)
    sandbox.exec("kill", "-STOP", pid)
    degraded = site.wait_for("DEGRADED", 90)
    assert degraded["endpoint"] is None
    sandbox.exec("kill", "-CONT", pid)
    assert site.wait_for("READY", 60)["endpoint"]


def test_a_server_that_ignores_term_is_killed_after_the_grace(site: Home, sandbox: Sandbox) -> None:
    program = sandbox.place.shared / "deaf.sh"
    program.write_text("#!/bin/bash\ntrap '' TERM\necho deaf\nwhile :; do sleep 1; done\n")
    cluster = site.cluster("deaf", programs={"nemo-eval": ["/bin/bash", str(program)]}, grace=2)
    starting = site.start_until("starting the ranks", "up", "--profile", "h200x8", "--cluster", cluster)
    time.sleep(1)
    starting.send_signal(signal.SIGINT)
    rest = site.rest_of(starting)
    assert starting.returncode == 40, rest
    assert sandbox.exec("squeue", "--noheader").stdout == ""
    assert sandbox.exec("pgrep", "-f", str(program)).stdout == ""


def test_the_warning_before_the_time_limit_ends_it_in_order(site: Home, sandbox: Sandbox) -> None:
    first = up(site)
    sandbox.exec("scontrol", "update", f"JobId={first['job_id']}", "TimeLimit=3")
    sandbox.exec("scancel", "--batch", "--signal=USR1", first["job_id"])
    ended = site.wait_for("ENDED", 20)
    assert ended["reason"] == "the time limit was near"
    record = json.loads((run_directory(sandbox, first["token"]) / "current/exit.json").read_text())
    assert (record["cause"], record["epoch"]) == ("time_limit", f"{first['job_id']}.0")
