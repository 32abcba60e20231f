"""Every rank in a real container: apptainer, on a real Slurm, with the machine's own programs in an empty image."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.place import Place
from tests.conftest import NAME, Home, make_home

pytestmark = [pytest.mark.sandbox, pytest.mark.long]
H100 = ("--profile", "h100x16")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A sandbox whose cluster file names apptainer; what is missing is unpacked where it stays."""
    root = tmp_path_factory.mktemp("own") / "box"
    home = make_home(tmp_path_factory.mktemp("home"), NEMODEPLOY_SANDBOX_DIR=str(root))
    for words in (("install", "apptainer"), ("up", "--runtime", "apptainer")):
        done = home.run("sandbox", *words, timeout=300)
        assert done.returncode == 0, done.stderr
    yield home
    assert home.run("sandbox", "down").returncode == 0


@pytest.fixture
def contained(box: Home) -> Iterator[Home]:
    yield box
    box.run("down", "--all")
    assert sandbox_of(box).exec("squeue", "--noheader").stdout == "", "a job was left behind"


def sandbox_of(home: Home) -> Sandbox:
    return Sandbox(Place(Path(home.environment["NEMODEPLOY_SANDBOX_DIR"])))


def servers(home: Home) -> list[int]:
    """The server programs, on all nodes, as this machine numbers them."""
    place, found = sandbox_of(home).place, []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            environment = (entry / "environ").read_bytes() if b"gpt_model_file" in words else b""
        except OSError:
            continue
        if f"APPTAINER_CONTAINER={place.root}/image".encode() in environment.split(b"\0"):
            found.append(int(entry.name))
    return found


def spoilt(home: Home, tmp_path: Path, key: str, change: object) -> str:
    """The cluster file with another image or other mounts; its path."""
    document = yaml.safe_load((home.config / "clusters/sandbox.yaml").read_text())
    document[key] = change if isinstance(change, dict) else [*document[key], change]
    path = tmp_path / "spoilt.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_sixteen_ranks_serve_from_containers_and_nothing_of_them_is_left(contained: Home) -> None:
    contained.up(*H100)
    inside = servers(contained)
    assert len(inside) >= 16
    roots = {Path(f"/proc/{pid}/root/").stat().st_ino for pid in inside}
    assert Path("/").stat().st_ino not in roots
    assert contained.run("generate", NAME, "hello").stdout == "Hello! I am a tiny model on your cluster.\n"
    assert contained.run("down", NAME).returncode == 0
    assert servers(contained) == []


def test_a_killed_container_ends_the_deployment(contained: Home) -> None:
    contained.up(*H100)
    os.kill(max(servers(contained)), 9)
    deadline = time.monotonic() + 60
    while servers(contained) and time.monotonic() < deadline:
        time.sleep(0.3)
    assert servers(contained) == []
    assert contained.wait_for("ENDED")["state"] == "ENDED"


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("images", {"nemo-eval": "/nosuch.sif"}, "the image is not on the node"),
        ("images", {"nemo-eval": "/etc/hosts"}, "that is no image"),
        ("images", {"nemo-eval": "docker://127.0.0.1:9/a/b:1"}, "the node cannot reach the registry"),
        ("mounts", "/nosuch:/nosuch:ro", "something that is to be mounted is not on the node"),
    ],
)
def test_what_apptainer_refuses_is_told_in_plain_words(
    contained: Home, tmp_path: Path, key: str, change: object, said: str
) -> None:
    done = contained.run("up", *H100, "--cluster", spoilt(contained, tmp_path, key, change))
    assert done.returncode == 30, done.stderr
    assert said in done.stderr


def test_doctor_looks_at_the_nodes_own_container(contained: Home) -> None:
    done = contained.run("doctor", *H100, "--job")
    assert done.returncode == 0, done.stdout
