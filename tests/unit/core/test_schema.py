"""The JSON Schemas that editors use, against the files and against the code that reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from nemodeploy.adapters import resources
from nemodeploy.adapters.yaml_files import load, parse
from nemodeploy.assembly import plugins
from nemodeploy.core.schema import KINDS, schema

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "configs").glob("*/*.yaml"))


def errors(kind: str, data: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema(kind, plugins()))
    return [error.message for error in validator.iter_errors(data)]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_schema(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(kind, plugins()))


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_every_shipped_file_is_right(path: Path) -> None:
    assert not errors(path.parent.name[:-1], load(path).data)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("profile", "colour: red"),
        ("profile", "layout: {tensor_paralel: 8}"),
        ("profile", "nodes: 0"),
        ("profile", "nodes: '2'"),
        ("profile", "engine: nemoeval"),
        ("profile", "ssh: {host: x}"),
        ("profile", "options: {vllm: {gpu_memory_utilization: 1.5}}"),
        ("cluster", "root: /x"),
        ("cluster", "ssh: {host: '-oProxyCommand=x'}"),
        ("cluster", "ssh: {host: x}\nmounts: [relative]"),
        ("cluster", "ssh: {host: x}\nenv: {LD_PRELOAD: x}"),
        ("cluster", "ssh: {host: x}\ncheckpoints: {tiny: 5}"),
        ("model", "layers: 3"),
    ],
)
def test_what_the_code_refuses_the_schema_refuses(kind: str, text: str) -> None:
    assert errors(kind, parse(text, "f").data)


def test_what_may_be_of_two_forms_may_be_of_both() -> None:
    assert not errors("profile", {"port": "auto"})
    assert not errors("profile", {"port": 2000})
    assert not errors("cluster", {"ssh": {"host": "x"}, "checkpoints": {"a": "/x", "b": {"nemo": "/y"}}})


def keys(found: dict[str, Any], prefix: str = "") -> set[str]:
    """Every key with a name of its own, dotted."""
    names = set()
    for name, below in found.get("properties", {}).items():
        names.add(prefix + name)
        names |= keys(below, f"{prefix}{name}.") if isinstance(below, dict) else set()
    return names


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_in_the_reference_and_every_key_of_the_reference_exists(kind: str) -> None:
    text = (ROOT / "docs/files.md").read_text()
    section = text.split(f"## A {kind}\n")[1].split("\n## ")[0]
    # A profile may say what a cluster says and the other way round, so one of the two references is enough.
    everywhere = text if kind != "model" else section
    known = {key for key in keys(schema(kind, plugins())) if not key.startswith("defaults.")}
    words = set(re.findall(r"[a-z_0-9A-Z-]+", everywhere))
    assert not {key for key in known if key.rpartition(".")[2] not in words}
    written = set(re.findall(r"^\| `([a-z_]+)", section, re.M))
    assert written
    assert not written - {key.partition(".")[0] for key in known}


def test_a_profile_may_extend_another(tmp_path: Path) -> None:
    from nemodeploy.app import profiles

    (tmp_path / "base.yaml").write_text("extends: h100x16\nmodel: nemotron-4-340b-base\ntime: 1h\n")
    (tmp_path / "mine.yaml").write_text("extends: ./base.yaml\ntime: 2h\nserving: {max_batch: 4}\n")
    found = profiles.load(str(tmp_path / "mine.yaml"))
    assert found.data["most_nodes"] == 2, "h100x16 counts its nodes for its own model"
    assert (found.data["model"], found.data["time"]) == ("nemotron-4-340b-base", "2h")
    assert found.origin(("time",)).exact.endswith("mine.yaml:2:1")
    assert found.origin(("gpu", "type")).source == "configs/profiles/h100x16.yaml"


def test_what_a_lower_profile_decided_for_its_own_model_does_not_count_for_another(tmp_path: Path) -> None:
    from nemodeploy.app import profiles

    (tmp_path / "base.yaml").write_text(
        "extends: h100x16\nengine: nemo-eval\nlayout: {tensor_parallel: 8, pipeline_parallel: 2}\n"
    )
    (tmp_path / "mine.yaml").write_text("extends: ./base.yaml\nmodel: llama-3.1-nemotron-70b-instruct\n")
    found = profiles.load(str(tmp_path / "mine.yaml")).data
    assert "layout" not in found
    assert "engine" not in found
    assert found["most_nodes"] == 2
    assert "nemotron-4-340b-instruct" in resources.names("models")


def test_ones_own_profile_may_extend_the_shipped_one_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemodeploy.app import profiles

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own = tmp_path / "nemodeploy/profiles/h100x16.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("extends: h100x16\ntime: 2h\n")
    found = profiles.load("h100x16")
    assert (found.data["time"], found.data["nodes"]) == ("2h", 2)


def test_a_model_named_by_a_relative_path_is_looked_for_beside_its_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemodeploy.app import profiles

    (tmp_path / "there").mkdir()
    (tmp_path / "there/base.yaml").write_text("extends: h100x1\nmodel: ./mine.yaml\n")
    (tmp_path / "here.yaml").write_text("extends: ./there/base.yaml\n")
    monkeypatch.chdir(tmp_path)
    for name in ("here.yaml", "./there/base.yaml"):
        assert profiles.load(name).data["model"] == str(tmp_path / "there/mine.yaml")
