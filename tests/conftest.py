"""What tests share: a clean home for every test, a command to run, and one sandbox for all that need it."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

from nemodeploy.adapters.resources import slurm_directory
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.place import Place
from tests.environment import clean

# On a machine that others use, too, no example is wrong because it is slow.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Before anything else of a test runs, here and in what it starts.
_THEIRS, _NOBODYS = dict(os.environ), tempfile.mkdtemp(prefix="nemodeploy-tests-")
atexit.register(shutil.rmtree, _NOBODYS, ignore_errors=True)
os.environ |= (_CLEAN := clean(_THEIRS, _NOBODYS))
for _name in _THEIRS.keys() - _CLEAN.keys():
    del os.environ[_name]

ROOT = Path(__file__).parents[1]
NAME = "nemotron-4-340b-instruct"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--times", default="1", help="run each fault so often; those that last over a minute a third")
    parser.addoption("--update-golden", action="store_true", help="write the golden scripts afresh")


def pytest_configure() -> None:
    """A shell starts what it puts into the background deaf to INT, and nohup to HUP; all that is tested inherits it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A command that was run in this very process has decided what it hears; the next test, and what it starts, do not
    inherit that."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@dataclass(frozen=True)
class Home:
    """A user's XDG directories, and the command run in them."""

    path: Path
    environment: Mapping[str, str]

    def run(self, *words: str, timeout: float = 90, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nemodeploy", *words],
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def up(self, *words: str, **more: Any) -> dict[str, Any]:
        """The document of an `up` that succeeds."""
        done = self.run("up", "--json", *words, **more)
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "nemodeploy", *words],
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_until(self, word: str, *words: str) -> subprocess.Popen[str]:
        """The command, once it has said a line on stderr that holds a word."""
        process = self.start(*words)
        assert process.stderr is not None
        for line in process.stderr:
            if word in line:
                return process
        raise AssertionError(f"it ended with {process.wait()} and never said {word!r}")

    def rest_of(self, process: subprocess.Popen[str], within_s: float = 60) -> str:
        """What a command says on stderr until it ends; if it does not in time, what it said so far is the failure."""
        try:
            return process.communicate(timeout=within_s)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            said = process.communicate()[1]
            raise AssertionError(f"not over after {within_s} s; it said:\n{said}") from None

    def wait_for(self, state: str, within_s: float = 60, *, patient: bool = True) -> dict[str, Any]:
        """The one deployment as soon as it is in a state; without patience, as it is."""
        deadline = time.monotonic() + within_s
        seen: list[dict[str, Any]] = []
        while time.monotonic() < deadline:
            seen = json.loads(self.run("status", "--json").stdout)["deployments"]
            if seen and (seen[0]["state"] == state or not patient):
                return seen[0]
            time.sleep(0.3)
        raise AssertionError(f"never {state}: {seen}")

    @property
    def config(self) -> Path:
        return self.path / "config/nemodeploy"

    @property
    def state(self) -> Path:
        return self.path / "state/nemodeploy"

    def cluster(self, name: str, **changes: Any) -> str:
        """A cluster file like the sandbox's with some keys changed; returns its path."""
        document = yaml.safe_load((self.config / "clusters/sandbox.yaml").read_text())
        path = self.path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**document, **changes}))
        return str(path)


def make_home(path: Path, **more: str) -> Home:
    names = ("PATH", "USER", "LOGNAME", "LANG", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "NEMODEPLOY_SANDBOX_SLURM")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    kept["NEMODEPLOY_SLURM_DIR"] = str(slurm_directory())  # unpacked once, for every home
    xdg = {f"XDG_{kind.upper()}_HOME": str(path / kind) for kind in ("config", "state", "data", "cache")}
    return Home(path, {**kept, "HOME": str(path), "PYTHONPATH": str(ROOT), **xdg, **more})


def add_user(name: str) -> None:
    """An account without a password that is not locked; another test may be at the same file just now."""
    words = ["useradd", "--no-create-home", "--shell", "/bin/sh", "--password", "*", name]
    for _ in range(50):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode in (0, 9):  # 9: there is one already
            return
        time.sleep(0.1)
    raise AssertionError(done.stderr)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Somebody who has no cluster."""
    return make_home(tmp_path)


@pytest.fixture(scope="session")
def sandbox_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("sandbox") / "it")


@pytest.fixture(scope="session")
def sandbox(sandbox_place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One running cluster for the whole session."""
    if not shutil.which("slurmctld", path="/usr/sbin:/usr/bin"):
        pytest.fail("Slurm is not installed; scripts/test installs it")
    home = make_home(tmp_path_factory.mktemp("owner"), NEMODEPLOY_SANDBOX_DIR=str(sandbox_place.root))
    done = home.run("sandbox", "up")
    assert done.returncode == 0, done.stderr
    yield Sandbox(sandbox_place)
    assert home.run("sandbox", "down").returncode == 0


@pytest.fixture
def hosts(sandbox: Sandbox) -> Sandbox:
    """The sandbox where its nodes are hosts of their own; skipped where the kernel refuses namespaces."""
    state = sandbox.state()
    if state is None or state.mode != "namespaces":
        pytest.skip("namespaces are refused here, so nodes are no hosts")
    return sandbox


@pytest.fixture
def site(sandbox: Sandbox, tmp_path: Path) -> Iterator[Home]:
    """Somebody who has the sandbox as a cluster, and no run directory there; nothing of theirs is left behind."""
    shutil.rmtree(sandbox.place.shared / "nemodeploy", ignore_errors=True)
    home = make_home(tmp_path, NEMODEPLOY_SANDBOX_DIR=str(sandbox.place.root))
    clusters = home.config / "clusters"
    clusters.mkdir(parents=True)
    shutil.copy(sandbox.place.root / "cluster.yaml", clusters / "sandbox.yaml")
    yield home
    home.run("down", "--all")
    assert sandbox.exec("squeue", "--noheader").stdout == "", "a job was left behind"


def start_again(sandbox: Sandbox, job: str) -> None:
    """A requeued job begins soon instead of after Slurm's two minutes; not at once, since Slurm stamps kills in whole
    seconds and fails a job that starts in the one in which it was killed."""
    done = sandbox.exec("scontrol", "update", f"jobid={job}", "starttime=now+2")
    assert done.returncode == 0, done.stderr


def pid_of_rank(sandbox: Sandbox, rank: int) -> str:
    """The server program of a rank. All nodes share the login host's process list, so its environment tells."""
    script = (
        "for p in /proc/[0-9]*; do "
        f"tr '\\0' '\\n' <$p/environ 2>/dev/null | grep -qx SLURM_PROCID={rank} && "
        "tr '\\0' ' ' <$p/cmdline | grep -q gpt_model_file && echo ${p#/proc/}; done"
    )
    return sandbox.exec("sh", "-c", script).stdout.split()[-1]
