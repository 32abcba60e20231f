"""Every rank in a real container: apptainer, on a real Slurm, with the machine's own programs in an empty image."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import Home
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

pytestmark = [pytest.mark.sandbox, pytest.mark.long]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Apptainer's."""
    with boxed(tmp_path_factory, "apptainer") as home:
        yield home


def test_sixteen_ranks_serve_from_containers_and_nothing_of_them_is_left(contained: Home) -> None:
    serve_and_leave_nothing(contained)


def test_a_killed_container_ends_the_deployment(contained: Home) -> None:
    kill_one(contained)


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
    refuse(contained, spoilt(contained, tmp_path, key, change), said)


@pytest.mark.parametrize("where", [(), ("--partition", "batch")])
def test_an_image_is_imported_once_and_then_used(
    contained: Home, layout: str, tmp_path: Path, where: tuple[str, ...]
) -> None:
    cluster = spoilt(contained, tmp_path, "images", {"nemo-eval": layout})
    first = contained.run("image", "pull", "h100x16", "--cluster", cluster, "--json", "--again", *where)
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    file = Path(document["file"])
    assert file.stat().st_size == document["bytes"] > 10_000
    assert not document["already"]
    assert [one.name for one in file.parent.iterdir() if one.name not in (file.name, file.name + ".txt")] == []
    again = contained.run("image", "pull", layout, "--cluster", cluster, "--json")
    assert json.loads(again.stdout)["already"]
    done = contained.run("up", *H100, "--cluster", cluster)
    assert done.returncode == 0, done.stderr
    assert "the image is imported, which saves" in done.stderr
    assert len(servers(contained, f"APPTAINER_NAME={file.name}")) >= 16


def test_pyxis_gets_a_squashfs_by_enroot_under_its_own_name(contained: Home) -> None:
    """enroot is played by a script, which takes the same words; the file must look like one of its."""
    sandbox = sandbox_of(contained)
    shim, asked = sandbox.place.shims / "enroot", sandbox.place.shared / "asked"
    shim.write_text(f'#!/bin/sh\necho "$@" >{asked}\nprintf %s "$MAGIC" >"$3"\n'.replace("$MAGIC", "hsqs and more"))
    shim.chmod(0o755)
    words = ("image", "pull", "nvcr.io/nvidia/nemo:24.01.framework", "--runtime", "pyxis", "--json")
    try:
        done = contained.run(*words)
        assert done.returncode == 0, done.stderr
        file = Path(json.loads(done.stdout)["file"])
        assert file.read_text() == "hsqs and more"
        assert file.suffix == ".sqsh"
        _, output, _, image = asked.read_text().split()
        assert (output, image) == ("--output", "docker://nvcr.io#nvidia/nemo:24.01.framework")
        shim.write_text('#!/bin/sh\necho nonsense >"$3"\n')
        done = contained.run(*words, "--again")
        assert done.returncode == 12
        assert "what was made is no image" in done.stderr
        assert file.read_text() == "hsqs and more"  # the whole one is still there
    finally:
        shim.unlink()


def test_a_registry_that_wants_a_password_gets_it_and_nobody_else_does(
    contained: Home, registry: str, tmp_path: Path
) -> None:
    sandbox = sandbox_of(contained)
    place, seen = sandbox.place, tmp_path / "seen"
    shim = place.shims / "apptainer"
    look = f"cat /proc/[0-9]*/cmdline >{seen}; find {place.shared} -name credentials >>{seen}"
    shim.write_text(f'#!/bin/sh\n{look}\nAPPTAINER_NOHTTPS=1 exec {place.programs}/apptainer "$@"\n')
    shim.chmod(0o755)
    cluster = spoilt(contained, tmp_path, "registries", {REGISTRY: {"user": "$oauthtoken", "secret": "OWN_KEY"}})
    words = ("image", "pull", registry, "--again", "--cluster")
    try:
        without = contained.run(*words, "sandbox")
        assert without.returncode == 12
        assert "the registry refused" in without.stderr
        unset = contained.run(*words, cluster)
        assert (unset.returncode, "OWN_KEY" in unset.stderr) == (2, True)
        done = contained.run(*words, cluster, "--json", "--verbose", OWN_KEY="canary-91c2")
    finally:
        shim.unlink()
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["file"]).stat().st_size > 10_000
    assert "canary" not in done.stdout + done.stderr
    said = seen.read_bytes()
    assert b"import.sh" in said
    assert b"canary" not in said
    assert b"credentials" not in said, "the file is gone before the runtime is asked"
    kept = ["grep", "-rlF", "canary-91c2", str(place.root), str(contained.path), str(tmp_path)]
    assert subprocess.run(kept, capture_output=True, text=True, check=False).stdout == ""


@pytest.mark.parametrize("where", [(), ("--partition", "batch")])
def test_a_runtime_that_comes_by_a_module_imports_too(contained: Home, tmp_path: Path, where: tuple[str, ...]) -> None:
    program, module = tmp_path / "bin/apptainer", tmp_path / "modules/apptainer"
    for path in (program, module):
        path.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%32sSIF_MAGIC from a module" "" >"$3"\n')
    program.chmod(0o755)
    module.write_text(f"#%Module1.0\nprepend-path PATH {program.parent}\n")
    words = ("image", "pull", "docker://127.0.0.1:9/by/module:1", "--again", "--json", *where, "--cluster")
    document = yaml.safe_load((contained.config / "clusters/sandbox.yaml").read_text())
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(yaml.safe_dump(document | {"modules": [str(module)]}))
    done = contained.run(*words, str(cluster))
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["file"]).read_text().endswith("from a module")
    cluster.write_text(yaml.safe_dump(document | {"modules": ["no/such"]}))
    done = contained.run(*words, str(cluster))
    assert (done.returncode, "a module of the cluster file could not be loaded" in done.stderr) == (12, True)


def test_half_an_image_is_not_taken_for_one(contained: Home, layout: str, tmp_path: Path) -> None:
    cluster = spoilt(contained, tmp_path, "images", {"nemo-eval": layout})
    done = contained.run("image", "pull", layout, "--cluster", cluster, "--json", "--again")
    assert done.returncode == 0, done.stderr
    file = Path(json.loads(done.stdout)["file"])
    file.write_bytes(file.read_bytes()[:-1])
    done = contained.run("image", "pull", layout, "--cluster", cluster, "--json")
    assert not json.loads(done.stdout)["already"]


def test_two_at_once_import_it_once(contained: Home) -> None:
    sandbox = sandbox_of(contained)
    shim, calls = sandbox.place.shims / "apptainer", sandbox.place.shared / "calls"
    shim.write_text(f'#!/bin/sh\necho once >>{calls}; sleep 4; printf "%32sSIF_MAGIC and more" "" >"$3"\n')
    shim.chmod(0o755)
    words = ("image", "pull", "docker://127.0.0.1:5000/both:1", "--json")
    try:
        both = [contained.start(*words) for _ in range(2)]
        documents = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    finally:
        shim.unlink()
    assert documents[0] == documents[1]
    assert documents[0]["seconds"] >= 4
    assert calls.read_text() == "once\n"


@pytest.mark.parametrize("where", [(), ("--partition", "batch")])
def test_an_interrupted_import_is_ended_and_leaves_nothing(
    contained: Home, tmp_path: Path, where: tuple[str, ...]
) -> None:
    sandbox = sandbox_of(contained)
    shim = sandbox.place.shims / "apptainer"
    shim.write_text("#!/bin/sh\necho importing; exec sleep 4321\n")
    shim.chmod(0o755)
    try:
        process = contained.start_until("importing", "image", "pull", "docker://127.0.0.1:5000/slow:1", *where)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        contained.rest_of(process)
        assert process.returncode == 40
    finally:
        shim.unlink()
    assert list((sandbox.place.shared / "nemodeploy/images").glob("*slow*")) == []
    assert sandbox.exec("squeue", "--noheader").stdout == ""
    assert "sleep 4321" not in sandbox.exec("ps", "-eo", "args").stdout


def test_doctor_looks_at_the_nodes_own_container(contained: Home) -> None:
    done = contained.run("doctor", *H100, "--job")
    assert done.returncode == 0, done.stdout
