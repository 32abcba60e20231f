"""The whole walk on a real Slurm, over real SSH, with a server that really generates."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import socket
import time
from typing import Any

import pytest

from nemodeploy.sandbox.cluster import Sandbox
from tests.conftest import NAME, Home
from tests.terminal import Terminal

pytestmark = pytest.mark.sandbox


# Slurm's own daemons set these for every task; the second row since 24.11.
SET_BY_SLURM = (
    *("SLURM", "CUDA", "ROCR", "GPU_", "ZE_", "PMI"),
    *("OMPI_MCA_", "PRTE_MCA_", "HYDRA_", "I_MPI_HYDRA_"),
)


def up(site: Home, *words: str) -> dict[str, Any]:
    return site.up("--profile", "h100x16", *words)


def deployments(site: Home, *words: str) -> list[dict[str, object]]:
    done = site.run("status", "--json", *words)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)["deployments"]
    return found


@pytest.mark.parametrize(
    ("profile", "gpus", "nodes"),
    [
        ("h100x16", 16, ["h100-1", "h100-2"]),
        pytest.param("a100x16", 16, ["a100-1", "a100-2"], marks=pytest.mark.long),
        pytest.param("h200x8", 8, ["h200-1"], marks=pytest.mark.long),
    ],
)
def test_up_status_generate_logs_down(site: Home, sandbox: Sandbox, profile: str, gpus: int, nodes: list[str]) -> None:
    done = site.run("up", "--profile", profile, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["answer"] == "The capital of France is Paris."
    assert (document["gpus"], document["nodes"], document["state"]) == (gpus, nodes, "READY")
    assert (document["endpoint"]["protocol"], document["endpoint"]["model"]) == ("nemo-generate", NAME)
    assert set(document["timings"]) >= {"queue_s", "startup_s", "ready_s"}

    table = site.run("status")
    assert "READY" in table.stdout
    assert "stand-in" in table.stdout

    answer = site.run("generate", NAME, "What is the capital of Japan?")
    assert answer.stdout == "The capital of Japan is Tokyo.\n"

    logs = site.run("logs", NAME).stdout
    absent = site.run("logs", NAME, "--rank", "99")
    assert (absent.returncode, absent.stdout, "has no such log" in absent.stderr) == (0, "", True)
    assert f".{gpus - 1} | Initializing distributed: GLOBAL_RANK: {gpus - 1}" in logs

    gone = site.run("down", NAME)
    assert gone.returncode == 0, gone.stderr
    assert f"(job {document['job_id']})" in gone.stdout
    assert sandbox.exec("squeue", "--noheader").stdout == ""
    assert site.run("down", NAME).returncode == 0
    assert "still" not in site.run("status").stdout
    assert "Initializing distributed" in site.run("logs", NAME).stdout, "logs of an ended deployment stay readable"


def test_the_endpoint_is_on_the_first_node(site: Home, hosts: Sandbox) -> None:
    endpoint = up(site)["endpoint"]
    assert endpoint == {"url": "http://h100-1:1424", "protocol": "nemo-generate", "model": NAME}


def test_another_laptop_sees_and_ends_the_same(site: Home, sandbox: Sandbox) -> None:
    document = up(site)
    shutil.rmtree(site.state)
    (seen,) = deployments(site)
    assert (seen["token"], seen["state"], seen["job_id"]) == (document["token"], "READY", document["job_id"])
    assert site.run("down", NAME).returncode == 0
    assert sandbox.exec("squeue", "--noheader").stdout == ""


def test_up_again_adopts_and_submits_nothing(site: Home, sandbox: Sandbox) -> None:
    first, second = up(site), up(site)
    assert second["adopted"] is True
    assert second["token"] == first["token"]
    assert len(sandbox.exec("squeue", "--noheader").stdout.splitlines()) == 1


def test_a_different_one_of_the_same_name_is_refused_or_replaces(site: Home) -> None:
    first = up(site)
    done = site.run("up", "--profile", "h100x16", "--time", "01:00:00")
    assert done.returncode == 12
    assert "time_s: 3600 here, 14400 there" in done.stderr
    second = up(site, "--time", "01:00:00", "--replace")
    assert second["token"] != first["token"]
    assert [seen["token"] for seen in deployments(site)] == [second["token"]]


@pytest.mark.long
def test_a_root_that_is_hard_to_quote_works(site: Home, sandbox: Sandbox) -> None:
    odd = site.cluster("odd", root=str(sandbox.place.shared / "it's $HOME; (a) *"))
    done = site.run("up", "--profile", "h200x8", "--cluster", odd)
    assert done.returncode == 0, done.stderr
    assert "rank 0" not in site.run("status", "--cluster", odd).stderr
    assert "PUT /generate" in site.run("logs", NAME, "--cluster", odd).stdout
    assert site.run("down", NAME, "--cluster", odd).returncode == 0
    assert "PUT /generate" in site.run("logs", NAME, "--cluster", odd).stdout


def test_two_at_once_give_one_job(site: Home, sandbox: Sandbox) -> None:
    both = [site.start("up", "--profile", "h100x16", "--json") for _ in range(2)]
    documents = [json.loads(process.communicate(timeout=90)[0]) for process in both]
    assert documents[0]["token"] == documents[1]["token"]
    assert sorted(document["adopted"] for document in documents) == [False, True]
    assert len(sandbox.exec("squeue", "--noheader").stdout.splitlines()) == 1


@pytest.mark.long
def test_two_names_live_side_by_side_and_down_all_ends_both(site: Home, sandbox: Sandbox) -> None:
    up(site, "--name", "one")
    assert site.run("up", "--profile", "a100x16", "--name", "two").returncode == 0
    assert sorted(str(seen["name"]) for seen in deployments(site)) == ["one", "two"]
    assert [seen["name"] for seen in deployments(site, "two")] == ["two"]
    assert site.run("down", "--all").returncode == 0
    assert sandbox.exec("squeue", "--noheader").stdout == ""


def test_the_scripts_run_by_hand_as_well(site: Home, sandbox: Sandbox) -> None:
    directory = sandbox.place.shared / "by-hand"
    assert site.run("render", "--profile", "h200x8", "--output", str(directory)).returncode == 0
    job_id = sandbox.exec("sh", str(directory / "submit.sh")).stdout.strip()
    assert job_id.isdigit()
    endpoint = directory / "current/endpoint.json"
    deadline = time.monotonic() + 30
    while not endpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert json.loads(endpoint.read_text())["epoch"] == f"{job_id}.0"
    sandbox.exec("scancel", job_id)
    while sandbox.exec("squeue", "--noheader").stdout and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not endpoint.exists(), "the endpoint is withdrawn before the server stops"


def test_what_up_says_to_type_next_works_for_a_cluster_by_its_path(site: Home) -> None:
    path = site.path / "its own file.yaml"
    (site.config / "clusters/sandbox.yaml").rename(path)
    began = site.run("up", "--profile", "h200x8", "--cluster", str(path))
    assert began.returncode == 0, began.stderr
    again = site.run("up", "--profile", "h100x16", "--cluster", str(path))
    said = [*began.stderr.splitlines(), again.stderr.partition("; nemodeploy")[2]]
    found = [shlex.split(line.partition("nemodeploy ")[2].split("   ")[0]) for line in said if "nemodeploy " in line]
    assert [words[0] for words in found] == ["generate", "chat", "connect", "status", "down"]
    absent = site.run("status", "nobody", "--cluster", str(path))
    found.append(shlex.split(absent.stderr.partition("try  nemodeploy ")[2]))
    for words in (found[0], found[3], found[5], found[4]):
        done = site.run(*words)
        assert done.returncode == 0, done.stderr


def test_a_job_whose_run_directory_is_gone_is_shown_and_taken_down(site: Home, sandbox: Sandbox) -> None:
    up(site, "--profile", "cpu", "--name", "bare")
    shutil.rmtree(sandbox.place.shared / "nemodeploy/deployments/bare")
    for words in (("status",), ("status", "bare"), ("status", "bare", "--json")):
        done = site.run(*words)
        assert (done.returncode, "bare" in done.stdout) == (0, True), done.stderr
    assert site.run("down", "bare").returncode == 0


def test_no_login_environment_reaches_the_ranks(site: Home, sandbox: Sandbox) -> None:
    program = sandbox.place.shared / "show.sh"
    program.write_text('#!/bin/sh\nenv | cut -d= -f1 | sort >"$SLURM_SUBMIT_DIR/env.$SLURM_PROCID"\nexit 3\n')
    cluster = site.cluster("show", programs={"nemo-eval": ["/bin/sh", str(program)]})
    login = sandbox.place.home / ".bashrc"
    login.write_text("export SECRET_OF_THE_LOGIN_SHELL=1 SBATCH_RESERVATION=none\n")
    done = site.run("up", "--profile", "h200x8", "--cluster", cluster)
    login.unlink()
    assert done.returncode == 30, done.stderr
    (seen,) = (sandbox.place.shared / "nemodeploy/archive").glob("*/env.0")
    names = set(seen.read_text().split())
    assert "SLURM_GET_USER_ENV" not in names, "slurmd started a login shell before the job"
    strangers = {name for name in names if not name.startswith(SET_BY_SLURM)}
    assert strangers <= {
        *("HOME", "USER", "LOGNAME", "PATH", "PWD", "SHELL", "SHLVL", "TMPDIR", "LC_ALL", "OMP_NUM_THREADS", "_"),
        *("OLDPWD", "SRUN_DEBUG", "MASTER_PORT"),
    }


def test_ctrl_c_in_the_queue_takes_the_job_back(site: Home, sandbox: Sandbox) -> None:
    up(site, "--name", "first")
    waiting = site.start_until(" queued ", "up", "--profile", "h100x16", "--name", "second")
    waiting.send_signal(signal.SIGINT)
    rest = site.rest_of(waiting)
    assert waiting.returncode == 40, rest
    assert "verified gone" in rest
    assert len(sandbox.exec("squeue", "--noheader").stdout.splitlines()) == 1


def test_an_empty_name_is_no_name(site: Home) -> None:
    for words in (("up", "--profile", "cpu", "--name", ""), ("reap", "--owner", "")):
        refused = site.run(*words)
        assert (refused.returncode, "is empty" in refused.stderr) == (2, True), refused.stderr


def test_what_was_taken_down_in_the_queue_says_so(site: Home) -> None:
    up(site, "--name", "first")
    waiting = site.start_until(" queued ", "up", "--profile", "h100x16", "--name", "second")
    assert site.run("down", "second").returncode == 0
    rest = site.rest_of(waiting)
    assert (waiting.returncode, "taken down with nemodeploy" in rest) == (30, True), rest


def test_termination_in_the_start_up_takes_the_job_back(site: Home, sandbox: Sandbox) -> None:
    slow = site.cluster("slow", env={"STAND_IN_LOAD_SECONDS": "60"})
    starting = site.start_until("loading", "up", "--profile", "h100x16", "--cluster", slow)
    starting.send_signal(signal.SIGTERM)
    rest = site.rest_of(starting)
    assert starting.returncode == 40, rest
    assert sandbox.exec("squeue", "--noheader").stdout == ""


@pytest.mark.parametrize(
    "words", [("up", "--profile", "h100x16"), ("run", "--profile", "h100x16", "--", "sleep", "99")]
)
def test_a_terminal_that_is_closed_takes_the_job_back(site: Home, sandbox: Sandbox, words: tuple[str, ...]) -> None:
    slow = site.cluster("slow", env={"STAND_IN_LOAD_SECONDS": "60"})
    environment = {**site.environment, "CI": "", "TERM": "xterm"}
    terminal = Terminal(environment, words[0], "--cluster", slow, *words[1:])
    terminal.until("loading")
    assert terminal.hang_up() == 40
    assert sandbox.exec("squeue", "--noheader").stdout == ""


def test_ctrl_c_before_anything_was_submitted(site: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = site.cluster("mute", ssh={"host": "127.0.0.1", "port": silent.getsockname()[1]})
        stuck = site.start("up", "--profile", "h100x16", "--cluster", mute)
        connection, _ = silent.accept()
        stuck.send_signal(signal.SIGINT)
        error = stuck.communicate(timeout=30)[1]
        connection.close()
    assert stuck.returncode == 130, error
    assert "nothing was submitted" in error


def test_the_queue_timeout_cancels_verifies_and_says_so(site: Home, sandbox: Sandbox) -> None:
    up(site, "--name", "first")
    done = site.run(
        "up", "--profile", "h100x16", "--name", "second", "--queue-timeout", "6s"
    )  # Slurm works out a start every 2 s
    assert done.returncode == 31
    assert "no nodes within 6 s (Resources: waiting for free nodes · expected start " in done.stderr
    assert len(sandbox.exec("squeue", "--noheader").stdout.splitlines()) == 1


@pytest.mark.long
def test_the_start_up_timeout_cancels_verifies_and_says_so(site: Home, sandbox: Sandbox) -> None:
    slow = site.cluster("slow", env={"STAND_IN_LOAD_SECONDS": "60"})
    done = site.run("up", "--profile", "h100x16", "--cluster", slow, "--startup-timeout", "3s")
    assert done.returncode == 32, done.stderr
    assert "loading weights" in done.stderr
    assert sandbox.exec("squeue", "--noheader").stdout == ""


@pytest.mark.long
def test_follow_ends_with_the_job(site: Home) -> None:
    up(site)
    following = site.start("logs", NAME, "--follow")
    time.sleep(1.5)
    assert site.run("down", NAME).returncode == 0
    text = following.communicate(timeout=30)[0]
    assert following.returncode == 0
    assert "PUT /generate" in text
