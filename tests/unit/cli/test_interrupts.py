"""Ctrl-C at many moments of a start, told by what is just being imported."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from nemodeploy import interrupts
from tests.conftest import ROOT, Home

# Runs the command as Python or the installed script does, and sends INT at the Nth import of what follows `hold`.
AT_AN_IMPORT = """
import os, runpy, signal, sys
at, how = int(sys.argv.pop(1)), sys.argv.pop(1)
count = 0
def hook(event, arguments):
    global count
    if event == "import" and (count or arguments[0] == "nemodeploy.cli.main"):
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
sys.argv[0] = "nemodeploy"
if how == "module":
    runpy.run_module("nemodeploy", run_name="__main__", alter_sys=True)
else:
    module, _, name = how.partition(":")
    sys.exit(getattr(__import__(module, fromlist=[name]), name)())
"""


def script() -> str:
    """What the installed command calls."""
    found = re.search(r'^nemodeploy = "(.+:.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.parametrize("at", [1, 2, 40, 80, 120, 160, 200])
@pytest.mark.parametrize("how", ["module", script()])
def test_an_interrupt_while_it_starts_is_one_message(home: Home, at: int, how: str) -> None:
    words = [sys.executable, "-c", AT_AN_IMPORT, str(at), how, "plan", "--profile", "h100x16", "--json"]
    done = subprocess.run(words, env=dict(home.environment), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (130, "error: interrupted")
    assert json.loads(done.stdout)["exit_code"] == 130


@pytest.fixture
def usual() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_held_interrupt_comes_once(usual: None) -> None:
    interrupts.hold()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupts.release()
    interrupts.release()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_shell_put_into_the_background_stays_deaf(usual: None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for one in (interrupts.hold, interrupts.release, interrupts.let_it_end):
        one()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
