"""What a test suite shows when its server cannot be had: one message, and nothing of our code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nemodeploy import pytest_plugin
from nemodeploy.errors import OutcomeUnknown
from tests.conftest import Home
from tests.integration.test_api import entry_points

CLOSED = """
ssh: {host: 127.0.0.1, port: 1, reconnect_wait_s: 0}
root: /x
runtime: none
programs: {llamacpp: [x]}
checkpoints: {tiny: /x}
"""
TESTS = "def test_one(nemodeploy_server): pass\n\ndef test_two(nemodeploy_server): pass\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "needs --nemodeploy-profile NAME"),
        (("--nemodeploy-profile", "h100x61"), "unknown profile 'h100x61'"),
        (("--nemodeploy-profile", "cpu", "--nemodeploy-cluster", "site"), "cannot connect to cluster site"),
    ],
)
def test_a_server_that_cannot_be_had_is_one_message(home: Home, words: tuple[str, ...], said: str) -> None:
    (home.config / "clusters").mkdir(parents=True)
    (home.config / "clusters/site.yaml").write_text(CLOSED)
    (home.path / "test_it.py").write_text(TESTS)
    plugin = () if "pytest11" in entry_points() else ("-p", "nemodeploy.pytest_plugin")
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, *words, "test_it.py"]
    done = subprocess.run(
        argv, cwd=home.path, env=dict(home.environment), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 errors" in done.stdout
    assert said in done.stdout, done.stdout
    assert ".py:" not in done.stdout.replace("test_it.py:", ""), "a place in our code"
    assert "During handling" not in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stdout.splitlines()) < 20


def test_what_fails_at_the_end_of_the_session_is_told_with_evidence_and_hint() -> None:
    def ends() -> None:
        with pytest_plugin._in_words():
            raise OutcomeUnknown("it may be alive\x1b[2J", hint="nemodeploy down x", detail=("Slurm: no answer",))

    with pytest.raises(pytest.fail.Exception) as caught:
        ends()
    first, evidence, hint = str(caught.value).splitlines()
    assert (evidence, hint) == ("  │ Slurm: no answer", "  try  nemodeploy down x")
    assert first.startswith("nemodeploy_server: it may be alive")
    assert "\x1b" not in first
    assert caught.value.pytrace is False


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), pytest_plugin._in_words():
        raise ZeroDivisionError
