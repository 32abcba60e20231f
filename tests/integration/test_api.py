"""The Python interface and the pytest fixture, as their users write them, on a real Slurm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nemodeploy.sandbox.cluster import Sandbox
from tests.conftest import Home
from tests.integration.test_run import jobs

pytestmark = pytest.mark.sandbox
PROGRAM = """
import urllib.error, urllib.request, nemodeploy
with nemodeploy.deployment(profile="cpu") as server:
    print(server.name, server.protocol, server.variables["OPENAI_BASE_URL"] == server.url + "/v1")
    print(server.generate("What is the capital of France?"))
    for key in (server.variables["OPENAI_API_KEY"], "another"):
        request = urllib.request.Request(server.url + "/v1/models", headers={"Authorization": "Bearer " + key})
        try:
            print(urllib.request.urlopen(request, timeout=20).status)
        except urllib.error.HTTPError as error:
            print(error.code)
    %s
"""
TEST = """
def test_one(nemodeploy_server):
    assert "Paris" in nemodeploy_server.generate("What is the capital of France?")

def test_two(nemodeploy_server):
    assert nemodeploy_server.model == "tiny"
"""


def python(site: Home, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env={**site.environment, **more},
        capture_output=True,
        text=True,
        timeout=90,
        cwd=site.path,
        check=False,
    )


def test_a_block_has_a_server_and_nothing_is_left_whatever_happens_in_it(site: Home, sandbox: Sandbox) -> None:
    done = python(site, "-c", PROGRAM % "")
    assert done.returncode == 0, done.stderr
    first, second, *statuses = done.stdout.splitlines()
    assert (first.startswith("tiny-"), first.split()[1:]) == (True, ["openai", "True"])
    assert (second, statuses) == ("The capital of France is Paris.", ["200", "401"])
    assert jobs(sandbox) == []
    failed = python(site, "-c", PROGRAM % "raise RuntimeError('mine')")
    assert (failed.returncode, "RuntimeError: mine" in failed.stderr) == (1, True)
    assert jobs(sandbox) == []


@pytest.mark.long
def test_bad_arguments_are_refused_before_anything_is_sent(site: Home) -> None:
    for words, said in (
        ('profile="no-such"', "unknown profile 'no-such'"),
        ('profile="cpu", reuse=True', "reuse without name"),
        ('profile="cpu", ttl_s=1', "ttl_s=1 is too short"),
        ('profile="cpu", settings={"nodes": "many"}', "nodes"),
    ):
        done = python(site, "-c", f"import nemodeploy\nwith nemodeploy.deployment({words}): pass")
        assert (done.returncode, said in done.stderr, "BadInput" in done.stderr) == (1, True, True), done.stderr


def test_importing_it_imports_nothing_heavy(site: Home) -> None:
    heavy = "import sys, nemodeploy.pytest_plugin; print({'paramiko', 'jinja2', 'yaml', 'click'} & set(sys.modules))"
    assert python(site, "-c", heavy).stdout == "set()\n"


@pytest.mark.long
def test_a_session_of_tests_has_one_server(site: Home, sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    plugin = () if "pytest11" in entry_points() else ("-p", "nemodeploy.pytest_plugin")
    done = python(site, "-m", "pytest", "-q", *plugin, "--nemodeploy-profile", "cpu", str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert jobs(sandbox) == []
    without = python(site, "-m", "pytest", "-q", *plugin, str(tmp_path))
    assert "nemodeploy_server needs --nemodeploy-profile NAME" in without.stdout


def entry_points() -> set[str]:
    """The groups in which this installation registers something."""
    from importlib.metadata import distribution

    return {point.group for point in distribution("nemodeploy").entry_points}
