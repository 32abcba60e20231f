"""What a CI engineer copies: the shell steps of both examples, run as their runners do, and what a runner reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nemodeploy.sandbox.cluster import Sandbox
from tests.conftest import ROOT, Home
from tests.integration.test_run import RUN, jobs

pytestmark = pytest.mark.sandbox
EXAMPLES = ROOT / "examples/ci"
# What becomes importable by a word of `pip install`.
INSTALLED = {"[gateway]": ("starlette", "uvicorn"), "pytest": ("pytest",)}
# All of it is here: what was asked for is let out.
PIP = """
[ "$1" = install ] || exit 2
for word; do case $word in
  nemodeploy) chmod 755 {bin}/nemodeploy ;;
  nemodeploy[[]gateway]) chmod 755 {bin}/nemodeploy; rm -f {missing}/starlette.py {missing}/uvicorn.py ;;
  pytest) rm -f {missing}/pytest.py ;;
esac; done
"""
EVAL = """
import json, os, urllib.request

def test_it_answers():
    body = json.dumps({"model": os.environ["NEMODEPLOY_MODEL"], "prompt": "hi", "max_tokens": 4}).encode()
    url, key = os.environ["OPENAI_BASE_URL"] + "/completions", os.environ["OPENAI_API_KEY"]
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + key}
    request = urllib.request.Request(url, body, headers)
    assert json.load(urllib.request.urlopen(request, timeout=60))["choices"][0]["text"]
"""


class Runner:
    """A fresh machine of a CI system: an empty home, a checkout with one test, and the secrets."""

    def __init__(self, site: Home, path: Path) -> None:
        self.home, self.work = path / "home", path / "work"
        self.home.mkdir()
        (self.work / "evals").mkdir(parents=True)
        (self.work / "evals/test_eval.py").write_text(EVAL)
        sandbox = yaml.safe_load((site.config / "clusters/sandbox.yaml").read_text())
        words = ["ssh", "-G", "-F", sandbox["ssh"]["config"], sandbox["ssh"]["host"]]
        shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        settings = dict(line.split(" ", 1) for line in shown.splitlines())
        known = Path(settings["userknownhostsfile"].split()[0]).read_text()
        where = {
            "host": settings["hostname"],
            "port": int(settings["port"]),
            "user": settings["user"],
            "config": "~/.ssh/config",
        }
        alias = settings.get("hostkeyalias")
        self.secrets = {
            "CLUSTER_SSH_KEY": Path(settings["identityfile"]).expanduser().read_text(),
            "CLUSTER_KNOWN_HOSTS": known.replace(alias, f"[{where['host']}]:{where['port']}") if alias else known,
            "CLUSTER_FILE": yaml.safe_dump({**sandbox, "ssh": where}),
        }
        bin_directory = path / "bin"
        bin_directory.mkdir()
        self.missing = path / "missing"  # what pip has not installed yet cannot be imported
        self.missing.mkdir()
        for name in (name for names in INSTALLED.values() for name in names):
            (self.missing / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module {name}', name='{name}')\n")
        programs = {
            "nemodeploy": f'exec {sys.executable} -m nemodeploy "$@"',
            "python": f'exec {sys.executable} "$@"',
            "pip": PIP.format(missing=self.missing, bin=bin_directory),
        }
        for name, text in programs.items():
            (bin_directory / name).write_text(f"#!/bin/sh\n{text}\n")
            (bin_directory / name).chmod(0o644 if name == "nemodeploy" else 0o755)  # until it is installed
        self.environment = {
            "PATH": f"{bin_directory}:/usr/bin:/bin:/usr/sbin",
            "HOME": str(self.home),
            "PYTHONPATH": f"{self.missing}:{ROOT}",
            "CI": "true",
            "PROFILE": "h100x16",
        }

    def script(self, text: str, **more: str) -> str:
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text],
            cwd=self.work,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def check(self, sandbox: Sandbox) -> None:
        """What there must be after the tests have run."""
        assert json.loads((self.work / "report.json").read_text())["command_exit"] == 0
        assert (self.work / "artifacts/manifest.json").is_file()
        assert list((self.work / "artifacts/logs").iterdir())
        assert jobs(sandbox) == []


def test_the_github_example_runs(site: Home, sandbox: Sandbox, tmp_path: Path) -> None:
    runner, workflow = Runner(site, tmp_path), yaml.safe_load((EXAMPLES / "github.yml").read_text())
    summary, outputs = tmp_path / "summary", tmp_path / "outputs"
    github = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_RUN_ID": "4711",
        "GITHUB_SERVER_URL": "https://git.example.org",
        "GITHUB_REPOSITORY": "team/evals",
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_OUTPUT": str(outputs),
    }

    def steps(job: str) -> str:
        said = ""
        for step in workflow["jobs"][job]["steps"]:
            secrets = {key: runner.secrets[key] for key in step.get("env", {}) if key in runner.secrets}
            if "run" in step:
                assert "${{" not in step["run"], "what a shell is given comes by its environment"
                said += runner.script(step["run"], **github, **workflow["env"], **secrets)
        return said

    said = steps("evals")
    runner.check(sandbox)
    assert re.search(r"::group::nemodeploy up nemotron-4-340b-instruct-4711-\w+\n", said)
    assert said.count("::group::") == said.count("::endgroup::") == 2
    assert "| exit_code | 0 |" in summary.read_text()
    assert re.search(r"^name=nemotron-4-340b-instruct-4711-\w+$", outputs.read_text(), re.MULTILINE)
    assert runner.secrets["CLUSTER_SSH_KEY"].splitlines()[1] not in said
    assert "nothing" in steps("nightly").splitlines()[-1]


@pytest.mark.long
def test_the_gitlab_example_runs(site: Home, sandbox: Sandbox, tmp_path: Path) -> None:
    runner, pipeline = Runner(site, tmp_path), yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())
    files: dict[str, Any] = {
        "CI_PROJECT_URL": "https://git.example.org/team/evals",
        "NEMODEPLOY": pipeline["variables"]["NEMODEPLOY"],
    }
    for name, text in runner.secrets.items():  # variables of the type "file"
        (tmp_path / name).write_text(text)
        files[name] = str(tmp_path / name)
    address = "https://git.example.org/team/evals/-/pipelines/9"
    for job in ("evals", "nightly"):
        words = [*pipeline[".nemodeploy"]["before_script"], *pipeline[job]["script"]]
        runner.script("\n".join(words), CI_JOB_ID="99", CI_PIPELINE_URL=address, **files)
        if job == "evals":
            runner.check(sandbox)


@pytest.mark.long
def test_a_failure_is_annotated_and_its_artifacts_hold_no_secret(site: Home, tmp_path: Path) -> None:
    tells = ["/bin/sh", "-c", "echo $DEEP_SECRET; exit 3"]
    cluster = site.cluster("broken", secrets=["DEEP_SECRET"], programs={"llamacpp": tells})
    summary, kept = tmp_path / "summary", tmp_path / "kept"
    done = site.run(
        *RUN,
        "--cluster",
        cluster,
        "--artifacts",
        str(kept),
        "--",
        "true",
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(summary),
        DEEP_SECRET="hunter2-hunter2",
    )
    assert done.returncode == 30, done.stderr
    assert re.search(r"^::error title=nemodeploy exit 30::job \d+ ended before", done.stderr, re.MULTILINE)
    assert "| exit_code | 30 |" in summary.read_text()
    (log,) = (kept / "logs").glob("*.0.log")
    assert log.read_text().strip() == "********"
    assert "STARTING" in (kept / "events.jsonl").read_text()
    everything = "".join(path.read_text() for path in kept.rglob("*") if path.is_file())
    assert "hunter2" not in everything + done.stderr + summary.read_text()
