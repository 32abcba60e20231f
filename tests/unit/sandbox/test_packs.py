"""Engine packs: what is here, what is asked for, and what is said where one cannot be built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemodeploy.engines import ENGINES
from nemodeploy.errors import PreflightFailed
from nemodeploy.sandbox import software
from nemodeploy.sandbox.packs import PACKS, Packs, find_python, version_of
from nemodeploy.sandbox.programs import CHECKPOINTS
from tests.conftest import Home, make_home

NO_INDEX = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_CONFIG_FILE": "/dev/null",
}


def test_every_engine_is_in_one_pack() -> None:
    assert sorted(engine for pack in PACKS.values() for engine in pack.engines) == sorted(ENGINES)


def test_every_package_of_a_pack_has_its_version() -> None:
    for pack in PACKS.values():
        if not pack.always:
            lines = [line for line in pack.requirements.read_text().splitlines() if not line.startswith("#")]
            assert len(lines) > 50
            assert all(line.count("==") == 1 for line in lines)
            assert not [line for line in lines if line.startswith("torch==")]


def test_what_is_half_built_or_of_another_release_is_not_here(tmp_path: Path) -> None:
    packs = Packs(tmp_path)
    (tmp_path / "nemo").mkdir()
    assert not packs.installed(PACKS["nemo"])
    (tmp_path / "nemo/installed").write_text("another")
    assert not packs.installed(PACKS["nemo"])
    assert set(packs.programs()) == {"llamacpp"}


def test_without_packs_the_real_sandbox_says_which_are_stand_ins(tmp_path: Path) -> None:
    found = software.real(Packs(tmp_path))
    assert "nemo-eval" in found.notice.partition("stand-ins")[0]
    assert set(found.programs) == set(ENGINES)
    assert found.checkpoints["nemotron-4-340b-instruct"] == software.TINY


def test_every_shipped_model_has_a_tiny_checkpoint() -> None:
    assert set(CHECKPOINTS) <= set(software.stand_ins().checkpoints)


def test_an_unknown_pack_is_bad_input(home: Home) -> None:
    done = home.run("sandbox", "engines", "install", "nemmo")
    assert done.returncode == 2
    assert "unknown pack 'nemmo'" in done.stderr
    assert "nemo" in done.stderr.partition("try")[2]


def test_the_list_says_what_is_here(home: Home) -> None:
    document = json.loads(home.run("sandbox", "engines", "list", "--json").stdout)
    assert {row["name"]: row["installed"] for row in document["packs"]} == {
        "llamacpp": True,
        "nemo": False,
        "vllm": False,
    }


def test_without_a_network_it_says_so_and_leaves_nothing_that_counts(tmp_path: Path) -> None:
    try:
        assert version_of(find_python())
    except PreflightFailed:
        pytest.skip("no Python here that a pack could be built with")
    alone = make_home(tmp_path, NEMODEPLOY_ENGINES_DIR=str(tmp_path / "e"), **NO_INDEX)
    done = alone.run("sandbox", "engines", "install", "vllm")
    assert done.returncode == 12, done.stderr
    assert "2.5 GB" in done.stderr, "its size is said beforehand"
    assert "package index, which cannot be reached" in done.stderr
    assert not Packs(tmp_path / "e").installed(PACKS["vllm"])
