"""The sandbox itself: up, down, killed, twice, in every mode, and nothing of it left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nemodeploy.sandbox import processes
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.place import NODES, Place
from nemodeploy.sandbox.slurms import SYSTEM_PATH
from tests.conftest import NAME, ROOT, Home, add_user, make_home

pytestmark = pytest.mark.sandbox


@pytest.fixture
def own(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A sandbox of the test's own, ended also when the test fails; its path is short, for Slurm's sockets' sake."""
    home = make_home(tmp_path, NEMODEPLOY_SANDBOX_DIR=str(tmp_path_factory.mktemp("own") / "box"))
    yield home
    home.run("sandbox", "down")


def place(home: Home) -> Place:
    return Place(Path(home.environment["NEMODEPLOY_SANDBOX_DIR"]))


def nothing_left(home: Home) -> None:
    assert processes.marked(place(home)) == frozenset()
    assert str(place(home).root) not in Path("/proc/self/mounts").read_text()
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    assert "nsb0" not in links


def its_home_is_its_own(own: Home) -> None:
    """Not the machine's user's, whose ~/.bashrc may be slow, or break; and a command runs as `ssh HOST` runs it."""
    login, words = str(place(own).home), Sandbox(place(own)).ssh_words()
    done = own.run("sandbox", "exec", "--", "pwd; echo ~;", "echo", "a  b; exit 7")
    assert (done.returncode, done.stdout.splitlines()) == (7, [login, login, "a b"])
    shell = subprocess.run([*words, "-T"], input="pwd\n", capture_output=True, text=True, check=True)
    assert shell.stdout.splitlines()[-1] == login
    piped = subprocess.run([*words, "cat"], input="through\n", capture_output=True, text=True, check=True)
    assert piped.stdout == "through\n"
    assert "SSH_ORIGINAL_COMMAND" not in own.run("sandbox", "exec", "env").stdout
    for name, way in (("new", ()), ("old", ("-O",))):
        subprocess.run(["scp", *way, "-qF", words[2], __file__, f"{words[-1]}:{name}"], check=True)
        assert (Path(login) / name).is_file()
    assert own.run("sandbox", "exec", "sbatch -W --wrap=true").returncode == 0
    assert list(Path(login).glob("slurm-*.out"))


@pytest.mark.parametrize("mode", ["auto", "plain"])
def test_it_comes_up_idle_serves_the_walk_and_leaves_nothing(own: Home, mode: str) -> None:
    done = own.run("sandbox", "up", "--mode", mode)
    assert done.returncode == 0, done.stderr
    status = json.loads(own.run("sandbox", "status", "--json").stdout)
    nodes, version = status["nodes"], status["slurm"]
    assert own.run("sandbox", "exec", "--", "scontrol", "--version").stdout.split()[-1:] == [version]
    assert f"Slurm {version}\n" in own.run("sandbox", "status").stdout
    assert nodes == {node.name: "idle" for node in NODES}
    its_home_is_its_own(own)
    assert own.run("up", "--profile", "h100x16").returncode == 0
    assert own.run("generate", NAME, "hello").stdout == "Hello! I am a tiny model on your cluster.\n"
    assert own.run("sandbox", "down").returncode == 0
    nothing_left(own)
    assert own.run("sandbox", "down").stdout == "the sandbox was not running\n"


def test_a_second_up_leaves_it_as_it_is(own: Home) -> None:
    own.run("sandbox", "up")
    before = json.loads(own.run("sandbox", "status", "--json").stdout)["port"]
    done = own.run("sandbox", "up")
    assert "runs already" in done.stdout
    assert json.loads(own.run("sandbox", "status", "--json").stdout)["port"] == before
    own.run("sandbox", "down")


@pytest.mark.parametrize("mode", ["auto", "plain"])
def test_nothing_is_left_after_it_was_killed(own: Home, mode: str) -> None:
    own.run("sandbox", "up", "--mode", mode)
    state = Sandbox(place(own)).state()
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    time.sleep(0.3)
    assert own.run("sandbox", "down").returncode == 0
    nothing_left(own)


def test_job_ids_are_never_used_twice(own: Home) -> None:
    ids = []
    for _ in range(2):
        own.run("sandbox", "up")
        ids.append(int(own.run("sandbox", "exec", "sbatch", "--parsable", "-o/dev/null", "--wrap=true").stdout))
        own.run("sandbox", "down")
        time.sleep(1)
    assert ids[0] < ids[1]


def test_after_down_the_cluster_is_known_and_said_to_be_down(own: Home) -> None:
    own.run("sandbox", "up")
    own.run("sandbox", "down")
    done = own.run("up", "--profile", "h100x16")
    assert done.returncode == 11
    assert "try  nemodeploy sandbox up" in done.stderr


def test_without_slurm_the_install_command_is_printed(own: Home, tmp_path: Path) -> None:
    code = (
        "import nemodeploy.sandbox.slurms as s, sys\nfrom nemodeploy.cli.main import run\n"
        f"s.SYSTEM_PATH = {str(tmp_path)!r}\nsys.exit(run(['sandbox', 'up'], as_json=False))"
    )
    nothing = {"NEMODEPLOY_SLURM_DIR": str(tmp_path / "none"), "NEMODEPLOY_SANDBOX_SLURM": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**own.environment, **nothing}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 12
    assert "apt-get install -y --no-install-recommends slurmctld slurmd" in done.stderr


@pytest.mark.long
def test_without_root_slurm_and_a_login_come_from_unpacked_packages(own: Home, tmp_path: Path) -> None:
    """On a machine that has neither: its search path is links to all other programs."""
    hidden = {"slurmctld", "slurmd", "slurmstepd", *("sbatch", "squeue", "sinfo", "scontrol", "scancel", "srun")}
    path = tmp_path / "programs"
    path.mkdir()
    for place in reversed(SYSTEM_PATH.split(":")):
        for one in Path(place).iterdir():
            if one.name not in (*hidden, "munged", "sshd", "ip"):
                (path / one.name).unlink(missing_ok=True)
                (path / one.name).symlink_to(one)
    own = replace(own, environment={**own.environment, "NEMODEPLOY_SLURM_DIR": str(tmp_path / "slurm")})
    own = replace(own, environment={**own.environment, "NEMODEPLOY_SANDBOX_SLURM": ""})

    def poor(*words: str) -> subprocess.CompletedProcess[str]:
        code = (
            "import nemodeploy.sandbox.slurms as s, sys\nfrom nemodeploy.cli.main import run\n"
            f"s.SYSTEM_PATH = {str(path)!r}\nsys.exit(run({list(words)!r}, as_json=False))"
        )
        words = (sys.executable, "-c", code)
        return subprocess.run(words, env=dict(own.environment), capture_output=True, text=True, check=False)

    refused = poor("sandbox", "up")
    assert refused.returncode == 12
    assert "nemodeploy sandbox install" in refused.stderr
    for words in (("install",), ("up",)):
        done = poor("sandbox", *words)
        assert done.returncode == 0, done.stderr
    found = own.run("sandbox", "exec", "command -v sinfo; command -v ip").stdout.split()
    assert found == [str(tmp_path / "slurm/own/bin" / name) for name in ("sinfo", "ip")]
    assert own.run("up", "--profile", "h100x16").returncode == 0
    assert own.run("generate", NAME, "hello").stdout == "Hello! I am a tiny model on your cluster.\n"
    assert own.run("sandbox", "down").returncode == 0
    nothing_left(own)


@pytest.mark.skipif(os.geteuid() != 0, reason="the whole suite runs as an ordinary user already")
@pytest.mark.parametrize("mode", ["auto", "plain", pytest.param("auto --accounting", marks=pytest.mark.long)])
def test_it_works_for_an_ordinary_user(tmp_path: Path, mode: str) -> None:
    user = "nemodeploy-test"
    add_user(user)
    home = Path("/tmp") / f"nd-user-{os.getpid()}-{mode.split()[0]}"  # where another account can read
    try:
        interpreter = _interpreter_for(user)
        home.mkdir()
        shutil.chown(home, user)
        script = (
            f"cd {home}; export HOME={home} PYTHONPATH={_readable_copy(home, user)}; n='{interpreter} -m nemodeploy'; "
            f"$n sandbox up --mode {mode} && $n up --profile h100x16 && $n generate {NAME} hello; code=$?; "
            "$n sandbox down; exit $code"
        )
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env", "sh", "-c", script]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert "Hello! I am a tiny model on your cluster." in done.stdout
    finally:
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run(["userdel", user], check=False, capture_output=True)


def _interpreter_for(user: str) -> str:
    """A Python that another account may run and that has what the test needs; skipped where there is none."""
    script = f"exec {sys.executable} -c 'import xllamacpp, paramiko'"
    words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env", "sh", "-c", script]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("this environment's Python lies where other accounts cannot read")
    return sys.executable


def _readable_copy(home: Path, user: str) -> Path:
    """The package where the account can read it."""
    copy = home / "package"
    for name in ("nemodeploy", "templates", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [copy, *copy.rglob("*")]:
        shutil.chown(path, user)
    return copy


def test_a_directory_too_long_for_slurms_sockets_is_refused(home: Home) -> None:
    done = home.run("sandbox", "up", NEMODEPLOY_SANDBOX_DIR="/tmp/" + "x" * 63)
    assert done.returncode == 2
    assert "at most 67 plain characters" in done.stderr
