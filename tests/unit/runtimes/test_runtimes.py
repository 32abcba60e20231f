from __future__ import annotations

from dataclasses import replace

import pytest

from nemodeploy.runtimes import RUNTIMES
from tests.unit.core.test_decode import spec


def test_pyxis_wants_a_hash_between_registry_and_image() -> None:
    wrong = replace(spec(), image="nvcr.io/nvidia/nemo:24.01.framework")
    key, _, instead = RUNTIMES["pyxis"].rules(wrong)[0]
    assert (key, instead) == ("images.nemo-eval", "write nvcr.io#nvidia/nemo:24.01.framework")


def test_pyxis_takes_squashfs_paths_and_plain_images() -> None:
    for image in ("/shared/nemo.sqsh", "./nemo.sqsh", "nvcr.io#nvidia/nemo:24.01.framework", "ubuntu:22.04"):
        assert not RUNTIMES["pyxis"].rules(replace(spec(), image=image))


def test_pyxis_mounts_the_checkpoint_read_only() -> None:
    assert RUNTIMES["pyxis"].mounts(spec())[0] == "/models/340b:/model:ro"
    assert RUNTIMES["pyxis"].rules(replace(spec(), checkpoint_paths={"*": "/a:b"}))


def test_without_a_container_the_site_says_where_the_program_is() -> None:
    assert RUNTIMES["none"].rules(spec())[0][0] == "programs.nemo-eval"
    assert RUNTIMES["none"].program(replace(spec(), program=("python", "x.py")), ("inside",)) == ("python", "x.py")


PLAIN = "nvcr.io/nvidia/nemo:24.05.llama3.1"


@pytest.mark.parametrize(
    ("runtime", "image", "instead"),
    [
        ("pyxis", "nemo.sqsh", "write /path/on/shared/storage/nemo.sqsh"),
        ("pyxis", f"docker://{PLAIN}", "write nvcr.io#nvidia/nemo:24.05.llama3.1"),
        ("apptainer", PLAIN, f"write docker://{PLAIN}"),
        ("apptainer", "nvcr.io#nvidia/nemo:24.05.llama3.1", f"write docker://{PLAIN}"),
        ("docker", "nvcr.io#nvidia/nemo:24.05.llama3.1", f"write {PLAIN}"),
        ("docker", "/shared/nemo.sqsh", f"write an image of a registry, such as {PLAIN}"),
        ("docker", "nemo.sif", f"write an image of a registry, such as {PLAIN}"),
        ("pyxis", "docker://vllm/vllm-openai:v1", "write vllm/vllm-openai:v1"),
        ("apptainer", "nemo.sif", "write /path/on/shared/storage/nemo.sif"),
        ("podman", f"docker://{PLAIN}", f"write {PLAIN}"),
    ],
)
def test_an_image_written_for_another_runtime_is_refused_with_this_ones_way(
    runtime: str, image: str, instead: str
) -> None:
    assert [rule[2] for rule in RUNTIMES[runtime].rules(replace(spec(), image=image))] == [instead]


@pytest.mark.parametrize(
    ("runtime", "image"),
    [
        ("apptainer", f"docker://{PLAIN}"),
        ("apptainer", "/shared/nemo.sif"),
        ("docker", PLAIN),
        ("docker", "ubuntu"),
        ("podman", PLAIN),
    ],
)
def test_an_image_in_the_runtimes_own_way_is_taken(runtime: str, image: str) -> None:
    assert not RUNTIMES[runtime].rules(replace(spec(), image=image))


def test_pyxis_needs_slurm() -> None:
    host = replace(spec(), cluster=replace(spec().cluster, scheduler="none"))
    assert [rule[0] for rule in RUNTIMES["pyxis"].rules(host)] == ["runtime"]
