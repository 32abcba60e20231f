from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nemodeploy.app import ci
from tests.conftest import Home


def test_help_names_every_command_and_code(home: Home) -> None:
    done = home.run("--help")
    assert done.returncode == 0
    for word in ("up", "status", "generate", "logs", "down", "plan", "render", "sandbox", "50 unknown"):
        assert word in done.stdout


def test_plan_says_what_and_where_from(home: Home) -> None:
    done = home.run("plan", "--profile", "h100x16", "--set", "layout.tensor_parallel=8", "--json")
    plan = json.loads(done.stdout)
    assert plan["schema"] == "nemodeploy/plan@1"
    assert plan["layout"] == {
        "tensor_parallel": 8,
        "pipeline_parallel": 2,
        "nodes": 2,
        "gpus_per_node": 8,
        "tasks_per_node": 8,
        "gpus": 16,
    }
    assert plan["sources"]["layout.tensor_parallel"] == "flag --set layout.tensor_parallel=8"
    assert plan["sources"]["layout.pipeline_parallel"] == "decided by nemodeploy"
    assert plan["memory"]["fits"] is True
    assert plan["ports"] == {"http": 1424}
    assert "shipped example" in done.stderr


@pytest.mark.parametrize(
    ("profile", "tensor", "pipeline", "nodes"), [("h200x8", 8, 1, 1), ("h100x16", 8, 2, 2), ("a100x16", 8, 2, 2)]
)
def test_the_cards_hardware_is_planned_as_the_card_means(
    home: Home, profile: str, tensor: int, pipeline: int, nodes: int
) -> None:
    layout = json.loads(home.run("plan", "--profile", profile, "--json").stdout)["layout"]
    assert (layout["tensor_parallel"], layout["pipeline_parallel"], layout["nodes"]) == (tensor, pipeline, nodes)


def test_the_environment_stands_between_files_and_flags(home: Home) -> None:
    words = ("plan", "--profile", "h100x16", "--json")
    plan = json.loads(home.run(*words, NEMODEPLOY_TIME="01:00:00", NEMODEPLOY_SLURM__PARTITION="short").stdout)
    assert plan["time_s"] == 3600
    assert plan["sources"]["slurm.partition"] == "environment NEMODEPLOY_SLURM__PARTITION"
    plan = json.loads(home.run(*words, "--time", "2h", NEMODEPLOY_TIME="01:00:00").stdout)
    assert (plan["time_s"], plan["sources"]["time"]) == (7200, "flag --time")


def test_render_writes_what_submit_would_send(home: Home, tmp_path: Path) -> None:
    done = home.run("render", "--profile", "h100x16", "--output", str(tmp_path / "out"))
    assert done.returncode == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"nemo_inference.sh", "nemo_inference.sbatch", "submit.sh", "manifest.json"}


BAD = (
    (("plan", "--profile", "h100x8"), "unknown profile 'h100x8'", "h100x16"),
    (("plan", "--profile", "h100x16", "--model", "nemotron-340b"), "unknown model", "nemotron-4-340b-instruct"),
    (("plan",), "Missing option '--profile'", "nemodeploy plan --help"),
    (("plan", "--profile", "h100x16", "--set", "layout"), "write KEY=VALUE", "--set layout.tensor_parallel=4"),
    (("plan", "--profile", "h100x16", "--set", "layout.tensor_paralel=8"), "unknown key", "tensor_parallel"),
    (("plan", "--profile", "h100x16", "--nodes", "1"), "does not fit on h100x16", "--profile h200x8"),
    (("plan", "--profile", "h100x16", "--name", "Bad_Name"), "deployment name 'Bad_Name'", "--name NAME"),
    (("plan", "--profile", "h100x16", "--time", "forever"), "not a finite time", "HH:MM:SS"),
    (("plan", "--profile", "h100x16", "--set", "model=5"), "names no model", "--model"),
    (("up", "--profile", "h100x16"), "no cluster is configured", "nemodeploy sandbox up"),
    (("status",), "no cluster is configured", "nemodeploy sandbox up"),
    (("down",), "say which deployment", "nemodeploy down NAME"),
    (("down", "Nope!"), "is not a deployment name", "nemodeploy status"),
    (("frobnicate",), "No such command", "--help"),
    (("status", "--all", "--days", "nan"), "'nan' is not a number", "nemodeploy status --help"),
    (("generate", "x", "y", "--temperature", "nan"), "'nan' is not a number", "nemodeploy generate --help"),
    (("up", "--profile", "h100x16", "--queue-timeout", "soon"), "is not a duration", "90s"),
)


@pytest.mark.parametrize(("words", "what", "instead"), BAD, ids=[" ".join(words) for words, _, _ in BAD])
def test_bad_input_is_one_message_and_exit_code_2(home: Home, words: tuple[str, ...], what: str, instead: str) -> None:
    done = home.run(*words)
    assert done.returncode == 2
    assert what in done.stderr
    assert instead in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_failure_with_json_is_one_document_on_stdout(home: Home) -> None:
    done = home.run("up", "--profile", "nosuch", "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == "nemodeploy/error@1"
    assert (document["exit_code"], done.returncode) == (2, 2)
    assert "nosuch" in document["error"]


def test_a_sandbox_that_was_never_started_is_said_so(home: Home) -> None:
    done = home.run("sandbox", "status")
    assert done.returncode == 11
    assert "nemodeploy sandbox up" in done.stderr


def test_own_profiles_and_paths_are_found(home: Home, tmp_path: Path) -> None:
    (home.config / "profiles").mkdir(parents=True)
    text = (Path(__file__).parents[3] / "configs/profiles/h100x16.yaml").read_text()
    (home.config / "profiles/mine.yaml").write_text(text.replace("04:00:00", "01:00:00"))
    assert json.loads(home.run("plan", "--profile", "mine", "--json").stdout)["time_s"] == 3600
    path = tmp_path / "other.yaml"
    path.write_text(text)
    assert json.loads(home.run("plan", "--profile", str(path), "--json").stdout)["profile"] == "other"


def test_lists_of_profiles_and_models(home: Home) -> None:
    assert "h100x16" in home.run("profiles").stdout
    assert "nemotron-4-340b-instruct" in home.run("models").stdout
    for words in (("show", "tiny", "--json"), ("--json", "show", "tiny")):
        assert json.loads(home.run("models", *words).stdout)["name"] == "tiny"
    names = [row["name"] for row in json.loads(home.run("profiles", "--json").stdout)["profiles"]]
    assert {"h100x16", "a100x16", "h200x8"} <= set(names)


def test_a_bug_says_so_and_leaves_a_report(home: Home, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import nemodeploy.adapters.resources as r\nr.find = lambda *a: 1 / 0\n")
    done = home.run("plan", "--profile", "h100x16", PYTHONPATH=f"{tmp_path}:{home.environment['PYTHONPATH']}")
    assert done.returncode == 1
    assert "this is a bug in nemodeploy: ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr
    (report,) = (home.state / "reports").iterdir()
    assert "ZeroDivisionError" in report.read_text()
    shutil.rmtree(home.state)
    home.state.write_text("a file where the directory should be")
    environment = {"PYTHONPATH": f"{tmp_path}:{home.environment['PYTHONPATH']}", "TMPDIR": str(tmp_path)}
    done = home.run("plan", "--profile", "h100x16", **environment)  # type: ignore[arg-type]
    assert "Traceback" not in done.stderr
    (report,) = tmp_path.glob("nemodeploy-*/reports/*.txt")
    assert str(report) in done.stderr


def test_an_account_without_a_name_owns_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert ci.owner({}) == f"uid-{os.getuid()}@{socket.gethostname()}"


def test_a_cluster_chosen_by_the_environment_is_the_only_one_asked(home: Home) -> None:
    clusters = home.config / "clusters"
    clusters.mkdir(parents=True)
    for name in ("here", "other"):
        (clusters / f"{name}.yaml").write_text("ssh: {host: 127.0.0.1, port: 1}\n")
    done = home.run("status", NEMODEPLOY_CLUSTER="here")
    assert done.returncode == 11, "the one that was asked did not answer"
    assert "cluster here" in done.stderr
    assert "other" not in done.stderr


def test_a_reader_that_goes_away_is_no_bug(home: Home) -> None:
    command = f"{sys.executable} -m nemodeploy profiles; echo code $? >&2"
    done = subprocess.run(
        ["bash", "-c", f"( {command} ) | true"], env=dict(home.environment), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.stderr.strip() in ("code 0", "code 141")


@pytest.mark.parametrize("words", [("profiles",), ("profiles", "--json"), ("nosuch", "--json")])
def test_an_answer_that_cannot_be_written_is_said_so(home: Home, words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "nemodeploy", *words]
        done = subprocess.run(
            command, env=dict(home.environment), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


def test_a_closed_stderr_is_no_bug(home: Home) -> None:
    words = f"{sys.executable} -m nemodeploy plan --profile h100x16 --json 2>&-"
    done = subprocess.run(
        ["bash", "-c", words], env=dict(home.environment), capture_output=True, text=True, check=False
    )
    assert json.loads(done.stdout)["profile"] == "h100x16"
    assert done.returncode == 0


@pytest.mark.parametrize("duration", ["0", "0:00:00", "-1", "1d"])
def test_a_duration_that_is_none_is_refused(home: Home, duration: str) -> None:
    done = home.run("up", "--profile", "h100x16", "--queue-timeout", duration)
    assert done.returncode == 2
    assert "is not a duration" in done.stderr


def test_a_sandbox_that_cannot_live_there_is_bad_input(home: Home, tmp_path: Path) -> None:
    for directory in ("/etc/passwd", "/proc/x", str(tmp_path / ("long" * 30)), str(tmp_path / "a b")):
        done = home.run("sandbox", "up", NEMODEPLOY_SANDBOX_DIR=directory)
        assert done.returncode == 2, done.stderr
        assert "NEMODEPLOY_SANDBOX_DIR" in done.stderr


@pytest.mark.parametrize(("profile", "has_gpus"), [("cpu", False), ("h100x16", True)])
def test_a_host_without_gpus_is_told_of_its_memory(home: Home, profile: str, has_gpus: bool) -> None:
    from nemodeploy.app.wanted import Wish, resolve
    from nemodeploy.cli.plan import gives_back
    from nemodeploy.cli.up import _budget_line

    plan = resolve(
        Wish(profile=profile, name=None, cluster=None, settings=()), dict(home.environment), needs_site=False
    ).plan
    said = _budget_line(plan), gives_back(plan), home.run("plan", "--profile", profile).stdout.partition("from")[0]
    assert [bool(re.search("per GPU|GPUs back|fullest GPU", one)) for one in said] == [has_gpus] * 3
    assert "the host's memory" in said[0] + said[2] or has_gpus


def test_profiles_are_listed_as_people_count(home: Home) -> None:
    rows = [line.split()[0] for line in home.run("profiles").stdout.splitlines()[1:]]
    assert rows.index("a100x2") < rows.index("a100x16")
