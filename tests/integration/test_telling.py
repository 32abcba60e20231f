"""What `status`, `wait` and `events` tell of a deployment on a real Slurm, while it lives and afterwards."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from typing import Any

import pytest

from nemodeploy.sandbox.cluster import Sandbox
from tests.conftest import NAME, Home, pid_of_rank

pytestmark = pytest.mark.sandbox
SLOW = {"STAND_IN_LOAD_SECONDS": "5"}
MODEL = "llama-3-1-nemotron-51b-instruct"


def test_a_start_is_seen_waited_for_and_told_afterwards(site: Home, sandbox: Sandbox) -> None:
    slow = site.cluster("slow", env=SLOW)
    up = site.start("up", "--profile", "h100x1", "--cluster", slow)
    deadline = time.monotonic() + 30
    startup: dict[str, Any] = {}
    while not startup.get("progress") and time.monotonic() < deadline:
        seen = json.loads(site.run("status", "--json").stdout)["deployments"]
        startup = (seen[0]["startup"] if seen else None) or {}
    assert startup["elapsed_s"] < startup["expected_s"]
    assert ".0: " in startup["said"]
    while site.run("wait", MODEL, "--timeout", "60").returncode == 2 and time.monotonic() < deadline:
        time.sleep(0.2)  # it is not there yet
    assert json.loads(site.run("status", MODEL, "--json").stdout)["deployments"][0]["state"] == "READY"
    _, said = up.communicate(timeout=60)
    assert up.returncode == 0
    assert re.search(r"loading weights \d+ %", said)
    assert re.search(r"this may take up to \d+ min, longer while it makes progress", said)
    assert "None" not in said
    states = [json.loads(line)["state"] for line in site.run("events", MODEL).stdout.splitlines()]
    assert states[:3] == ["SUBMITTING", "QUEUED", "STARTING"]
    assert states[-1] == "READY"
    late = site.run("wait", MODEL, "--for", "ended", "--timeout", "2")
    assert (late.returncode, "is not ended after 2 s: READY" in late.stderr) == (32, True)
    ended = site.start("wait", MODEL, "--for", "ended", "--json")
    assert site.run("down", MODEL).returncode == 0
    assert json.loads(ended.communicate(timeout=60)[0])["name"] == MODEL
    told = json.loads(site.run("status", MODEL, "--json").stdout)["deployments"][0]
    assert (told["state"], told["why"]["text"].partition(", ")[0]) == ("ENDED", "taken down with nemodeploy")
    assert [event["state"] for event in told["timeline"]][-3:] == ["READY", "STOPPING", "ENDED"]
    assert 0 < told["gpu_hours_before_ready"] < told["gpu_hours"]
    assert site.run("wait", MODEL, "--for", "gone").returncode == 0
    assert site.run("wait", MODEL).returncode == 30
    assert MODEL not in site.run("status").stdout
    assert f"{MODEL}  ENDED" in site.run("status", "--all").stdout


@pytest.mark.long
def test_a_rank_that_was_killed_is_told_with_what_that_means(site: Home, sandbox: Sandbox) -> None:
    assert site.run("up", "--profile", "h100x16").returncode == 0
    sandbox.exec("kill", "-KILL", pid_of_rank(sandbox, 3))
    assert site.wait_for("ENDED", 60)["state"] == "ENDED"
    said = site.run("status", NAME).stdout
    assert "the server program ended (rank 3), exit 137, it was killed outright" in said


@pytest.mark.long
def test_who_cancelled_it_is_told(site: Home, sandbox: Sandbox) -> None:
    up = json.loads(site.run("up", "--profile", "cpu", "--json").stdout)
    sandbox.exec("scancel", "--batch", "--signal=TERM", up["job_id"])
    assert site.wait_for("ENDED", 60)["state"] == "ENDED"
    assert ", not through nemodeploy" in site.run("status", "tiny").stdout


@pytest.mark.long
def test_a_watched_status_is_printed_when_it_changes(site: Home, sandbox: Sandbox) -> None:
    assert site.run("up", "--profile", "cpu").returncode == 0
    with site.start("status", "--watch", "--json") as watching:
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        assert first["deployments"][0]["state"] == "READY"
        assert site.run("down", "tiny").returncode == 0
        for line in watching.stdout:
            if not json.loads(line)["deployments"]:
                break
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0


@pytest.mark.long
def test_a_cluster_that_never_answers_holds_no_other_up(site: Home, sandbox: Sandbox) -> None:
    assert site.run("up", "--profile", "cpu").returncode == 0
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # it takes connections and says nothing
        site.cluster("deaf", ssh={"host": "127.0.0.1", "port": deaf.getsockname()[1]})
        (site.path / "deaf.yaml").rename(site.config / "clusters/deaf.yaml")
        done = site.run("status")
        assert "tiny  READY" in done.stdout
        assert "deaf: UNKNOWN" in done.stderr
        (site.config / "clusters/deaf.yaml").unlink()
