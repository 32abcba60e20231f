from __future__ import annotations

from dataclasses import replace

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
    assert RUNTIMES["pyxis"].rules(replace(spec(), checkpoint="/a:b"))


def test_without_a_container_the_site_says_where_the_program_is() -> None:
    assert RUNTIMES["none"].rules(spec())[0][0] == "programs.nemo-eval"
    assert RUNTIMES["none"].program(replace(spec(), program=("python", "x.py")), ("inside",)) == ("python", "x.py")
