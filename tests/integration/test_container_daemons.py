"""Containers whose parent is not the job: podman's monitor on a real Slurm, docker's daemon on a host without one."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.place import Place
from nemodeploy.sandbox.requirements import namespaces_allowed
from tests.conftest import NAME, Home, make_home

pytestmark = [pytest.mark.sandbox, pytest.mark.long]
PROFILES = {"podman": "h100x16", "docker": "h200x8"}
GPUS = {"podman": {f"SANDBOX_GPU_{number}=here" for number in range(8)}, "docker": {"NVIDIA_VISIBLE_DEVICES=all"}}


@dataclass(frozen=True)
class Box:
    """A sandbox whose cluster file names a runtime."""

    home: Home
    runtime: str

    @property
    def sandbox(self) -> Sandbox:
        return Sandbox(Place(Path(self.home.environment["NEMODEPLOY_SANDBOX_DIR"])))

    @property
    def words(self) -> tuple[str, ...]:
        return ("--profile", PROFILES[self.runtime])

    def ask(self, *words: str) -> list[str]:
        """The lines that the runtime's own program prints."""
        done = self.sandbox.exec(self.runtime, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def ranks(self) -> list[dict[str, str]]:
        """The environment of every server in a container, as this machine sees it."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and b"gpt_model_file=/model" in (entry / "cmdline").read_bytes():
                    pairs = (entry / "environ").read_bytes().decode().split("\0")
                    found.append(dict(pair.partition("=")[::2] for pair in pairs))
            except OSError:
                continue
        return [one for one in found if str(self.sandbox.place.root) in one.get("TEST_OF", "")]


@pytest.fixture(scope="module", params=["podman", "docker"])
def box(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    if os.geteuid() != 0 or not namespaces_allowed():
        pytest.skip("docker's daemon, and podman in a sandbox, need root and namespaces")
    root = tmp_path_factory.mktemp("own") / "box"
    home = make_home(tmp_path_factory.mktemp("home"), NEMODEPLOY_SANDBOX_DIR=str(root))
    for words in (("install", request.param), ("up", "--runtime", request.param)):
        done = home.run("sandbox", *words, timeout=300)
        assert done.returncode == 0, done.stderr
    cluster = home.config / "clusters/sandbox.yaml"
    document = yaml.safe_load(cluster.read_text())
    document["env"]["TEST_OF"] = str(root)
    cluster.write_text(yaml.safe_dump(document))
    yield Box(home, request.param)
    assert home.run("sandbox", "down").returncode == 0


@pytest.fixture
def contained(box: Box) -> Iterator[Box]:
    yield box
    box.home.run("down", "--all")
    assert box.ranks() == []
    assert box.ask("ps", "--quiet") == [], "a container was left behind"


def spoilt(box: Box, tmp_path: Path, key: str, change: object) -> str:
    """The cluster file with something else in it; its path."""
    document = yaml.safe_load((box.home.config / "clusters/sandbox.yaml").read_text())
    document[key] = change if isinstance(change, dict) else [*document[key], change]
    path = tmp_path / "spoilt.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_ranks_serve_from_containers_with_their_gpus_and_none_is_left(contained: Box) -> None:
    up = contained.home.up(*contained.words)
    ranks = contained.ranks()
    assert len(ranks) == int(PROFILES[contained.runtime].partition("x")[2])
    for rank in ranks:
        assert {f"{name}={value}" for name, value in rank.items()} >= GPUS[contained.runtime]
    assert len(contained.ask("ps", "--quiet", "--filter", f"label=nemodeploy={up['token']}")) == len(ranks)
    assert contained.home.run("generate", NAME, "hello").stdout == "Hello! I am a tiny model on your cluster.\n"
    assert "All distributed processes registered." in contained.home.run("logs", NAME, "--rank", "0").stdout
    assert contained.home.run("down", NAME).returncode == 0
    assert contained.ranks() == []
    assert contained.ask("ps", "--all", "--quiet") == []


def test_containers_end_by_themselves_when_all_that_could_end_them_was_killed_outright(contained: Box) -> None:
    up = contained.home.up(*contained.words)
    # Whoever started them, on every host of the sandbox: no trap runs, and nobody is left to remove a container.
    contained.sandbox.exec("pkill", "-KILL", "-f", f"nemo_inference.(job|sbatch) .*{up['token']}")
    contained.sandbox.exec("pkill", "-KILL", "-f", f"^{contained.runtime} run .*{up['token']}")
    contained.sandbox.exec("pkill", "-KILL", "-f", f"{contained.runtime} run .*{up['token']}")
    deadline = time.monotonic() + 15
    while contained.ranks() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert contained.ranks() == []
    assert contained.ask("ps", "--quiet") == []
    assert contained.home.run("down", NAME).returncode == 0
    # What is still listed of them goes with the next one.
    contained.home.up(*contained.words)
    assert contained.home.run("down", NAME).returncode == 0
    assert contained.ask("ps", "--all", "--quiet") == []


def test_a_secret_reaches_the_server_and_nothing_that_can_be_inspected(contained: Box, tmp_path: Path) -> None:
    document = yaml.safe_load((contained.home.config / "clusters/sandbox.yaml").read_text())
    cluster = str(tmp_path / "secretive.yaml")
    Path(cluster).write_text(yaml.safe_dump(document | {"secrets": ["HF_TOKEN"]}))
    contained.home.up(*contained.words, "--cluster", cluster, HF_TOKEN="canary-3c7e")
    assert {rank.get("HF_TOKEN") for rank in contained.ranks()} == {"canary-3c7e"}
    shown = contained.sandbox.exec("sh", "-c", f"{contained.runtime} inspect $({contained.runtime} ps --quiet)").stdout
    assert "NEMODEPLOY_KEEPER" in shown
    assert "canary" not in shown
    assert b"canary" not in b"".join(map(_words, Path("/proc").glob("[0-9]*/cmdline")))
    assert contained.home.run("down", NAME, "--cluster", cluster).returncode == 0
    kept = ["grep", "-rlF", "canary-3c7e", str(contained.sandbox.place.root), str(contained.home.path), str(tmp_path)]
    assert subprocess.run(kept, capture_output=True, text=True, check=False).stdout == ""


def _words(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def test_a_lease_ends_containers_too(contained: Box) -> None:
    contained.home.up(*contained.words, "--ttl", "4s")
    assert contained.ranks()
    deadline = time.monotonic() + 30
    while contained.ask("ps", "--all", "--quiet") and time.monotonic() < deadline:
        time.sleep(0.3)
    assert contained.ask("ps", "--all", "--quiet") == []
    assert "its lease ran out" in contained.home.run("status", NAME).stdout


def test_what_a_daemon_still_runs_is_not_called_gone(contained: Box) -> None:
    """The keeper itself is stopped, so that containers stay although everybody else is gone."""
    if contained.runtime == "podman":
        pytest.skip("with Slurm it is the job that is alive or not")
    up = contained.home.up(*contained.words)
    keepers = contained.sandbox.exec("pgrep", "-f", f"^bash .*/nemo_inference.sh .*{up['token']}").stdout.split()
    contained.sandbox.exec("kill", "-STOP", *keepers)
    contained.sandbox.exec("pkill", "-KILL", "-f", f"nemo_inference.job .*{up['token']}")
    time.sleep(2.5)
    assert len(contained.ranks()) == 8
    seen = json.loads(contained.home.run("status", "--json").stdout)["deployments"][0]
    assert (seen["state"], seen["reason"][:25]) == ("UNKNOWN", "its supervisor was killed")
    assert contained.home.run("down", NAME).returncode == 0
    assert contained.ranks() == []


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("images", {"nemo-eval": "127.0.0.1:9/a/b:1"}, ("the node cannot reach the registry", "may not be pulled")),
        ("mounts", "/nosuch:/nosuch:ro", ("something that is to be mounted is not on the host",)),
    ],
)
def test_what_the_runtime_refuses_is_told_in_plain_words(
    contained: Box, tmp_path: Path, key: str, change: object, said: tuple[str, ...]
) -> None:
    done = contained.home.run("up", *contained.words, "--cluster", spoilt(contained, tmp_path, key, change))
    assert done.returncode == 30, done.stderr
    assert any(text in done.stderr for text in said), done.stderr
    assert not Path("/nosuch").exists(), "docker makes a directory of what is not there, if it is let"


def test_a_host_that_gives_no_gpus_to_containers_is_told_apart(contained: Box) -> None:
    if contained.runtime == "docker":
        pytest.skip("its daemon reads that at its start")
    contained.sandbox.exec("mv", "/run/cdi/nvidia.json", "/run/cdi/nvidia.off")
    try:
        done = contained.home.run("up", *contained.words)
    finally:
        contained.sandbox.exec("mv", "/run/cdi/nvidia.off", "/run/cdi/nvidia.json")
    assert done.returncode == 30
    assert "the host gives no GPUs to containers" in done.stderr


def test_doctor_is_content(contained: Box) -> None:
    done = contained.home.run("doctor", *contained.words)
    assert done.returncode == 0, done.stdout
