"""Every rank in a container of pyxis and enroot, where a machine has them; what enroot makes of an image and a key."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nemodeploy.sandbox.runtimes.pyxis import Pyxis
from tests.conftest import NAME, Home
from tests.integration.containers import (
    H100,
    REGISTRY,
    boxed,
    contained,
    kill_one,
    layout,
    refuse,
    registry,
    sandbox_of,
    serve_and_leave_nothing,
    servers,
    spoilt,
)

__all__ = ("contained", "layout", "registry")  # fixtures

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.long,
    pytest.mark.skipif(Pyxis().find(Path()) is None, reason="no enroot with pyxis on this machine"),
]
KEY = "canary-91c2"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Of pyxis."""
    with boxed(tmp_path_factory, "pyxis") as home:
        yield home


def kept_on_nodes(home: Home) -> str:
    """What enroot and pyxis keep there."""
    sandbox = sandbox_of(home)
    look = f"find {sandbox.place.local}/enroot/data {sandbox.place.local}/pyxis -mindepth 1 -not -name '[0-9]*'"
    return sandbox.exec("srun", "--nodes=2", "--gres=gpu:h100:8", "sh", "-c", look).stdout


def test_sixteen_ranks_serve_from_containers_and_nothing_of_them_is_left(contained: Home) -> None:
    serve_and_leave_nothing(contained)
    assert kept_on_nodes(contained) == ""


def test_a_killed_container_ends_the_deployment(contained: Home) -> None:
    kill_one(contained)


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("images", {"nemo-eval": "/nosuch.sqsh"}, "the image is not on the node"),
        ("images", {"nemo-eval": "/etc/hosts"}, "that is no image"),
        ("images", {"nemo-eval": "127.0.0.1:9#a/b:1"}, "the node cannot reach the registry"),
        ("mounts", "/nosuch:/nosuch:ro", "something that is to be mounted is not on the node"),
    ],
)
def test_what_pyxis_refuses_is_told_in_plain_words(
    contained: Home, tmp_path: Path, key: str, change: object, said: str
) -> None:
    refuse(contained, spoilt(contained, tmp_path, key, change), said)


@pytest.fixture
def plain_http(contained: Home) -> Iterator[None]:
    """The registry of the tests has no certificate."""
    program = sandbox_of(contained).place.programs / "enroot"
    text = program.read_text()
    program.write_text(text.replace("#!/bin/sh\n", "#!/bin/sh\nexport ENROOT_ALLOW_HTTP=yes\n"))
    yield
    program.write_text(text)


@pytest.mark.usefixtures("plain_http")
@pytest.mark.parametrize("where", [(), ("--partition", "batch")])
def test_an_image_behind_a_password_is_imported_once_and_then_used(
    contained: Home, registry: str, tmp_path: Path, where: tuple[str, ...]
) -> None:
    image = registry.removeprefix("docker://").replace("/", "#", 1).replace("127.0.0.1", "login")
    host = REGISTRY.replace("127.0.0.1", "login")
    words = ("image", "pull", image, "--again", *where, "--cluster")
    refused = contained.run(*words, "sandbox")
    assert refused.returncode == 12
    assert "the registry refused" in refused.stderr
    cluster = spoilt(contained, tmp_path, "registries", {host: {"user": "$oauthtoken", "secret": "OWN_KEY"}})
    done = contained.run(*words, cluster, "--json", OWN_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["file"]).read_bytes().startswith(b"hsqs")
    done = contained.run("up", *H100, "--cluster", spoilt(contained, tmp_path, "images", {"nemo-eval": image}))
    assert done.returncode == 0, done.stderr
    assert "the image is imported, which saves" in done.stderr
    assert len(servers(contained)) >= 16


def test_a_secret_reaches_the_server_and_stays_nowhere_else(contained: Home, tmp_path: Path) -> None:
    cluster = tmp_path / "secretive.yaml"
    document = yaml.safe_load((contained.config / "clusters/sandbox.yaml").read_text())
    cluster.write_text(yaml.safe_dump(document | {"secrets": ["HF_TOKEN"]}))
    contained.up(*H100, "--cluster", str(cluster), HF_TOKEN=KEY)
    assert len(servers(contained, f"HF_TOKEN={KEY}")) >= 16
    assert KEY not in contained.run("sandbox", "exec", "--", "ps", "-eo", "args").stdout
    assert contained.run("down", NAME, "--cluster", str(cluster)).returncode == 0
    kept = ["grep", "-rlF", KEY, str(sandbox_of(contained).place.root), str(contained.path), str(tmp_path)]
    assert subprocess.run(kept, capture_output=True, text=True, check=False).stdout == ""


def test_a_lease_ends_containers_too(contained: Home) -> None:
    contained.up(*H100, "--ttl", "4s")
    assert servers(contained)
    deadline = time.monotonic() + 40
    while servers(contained) and time.monotonic() < deadline:
        time.sleep(0.3)
    assert servers(contained) == []
    assert "its lease ran out" in contained.run("status", NAME).stdout


def test_doctor_looks_at_the_nodes_own_container(contained: Home) -> None:
    done = contained.run("doctor", *H100, "--job")
    assert done.returncode == 0, done.stdout
    assert "it starts on all nodes" in done.stdout
