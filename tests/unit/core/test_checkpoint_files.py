"""What lies at a path, told by real files and a real shell, and what a checkpoint of each form wants."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from nemodeploy.core.checkpoint_files import Listing, flaws, parse, script
from nemodeploy.core.sections import Section

SOURCE = "https://huggingface.co/acme/big"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4\n"
BIG = "x" * 5000


def looked(path: Path) -> Listing:
    done = subprocess.run(["sh"], input=script(str(path)), capture_output=True, text=True, check=False)
    found = parse(Section(done.returncode, done.stdout))
    assert found is not None, done.stderr
    return found


def said(path: Path, kind: str, size_gb: float = 0.0) -> list[str]:
    return [flaw.what for flaw in flaws(looked(path), kind=kind, path=str(path), size_gb=size_gb, source=SOURCE)]


def lay(path: Path, **files: str) -> Path:
    for name, text in files.items():
        place = path / name.replace("__", "/").replace("_", ".")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return path


INDEX = json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}})
GOOD = {"config_json": "{}", "m-1_safetensors": BIG, "m-2_safetensors": BIG, "model_safetensors_index_json": INDEX}


def test_a_whole_one_has_no_flaw(tmp_path: Path) -> None:
    assert said(lay(tmp_path / "a b'c", **GOOD), "hf") == []
    assert said(lay(tmp_path / "8", **GOOD), "hf-fp8", size_gb=1e-5) == []
    (tmp_path / "n/model_weights").mkdir(parents=True)
    (tmp_path / "n/model_config.yaml").write_text("x")
    (tmp_path / "n/model_weights/w").write_text("x")
    assert said(tmp_path / "n", "nemo") == []
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x03\0\0\0")
    assert said(tmp_path / "m.gguf", "gguf") == []


@pytest.mark.parametrize(
    ("files", "kind", "words"),
    [
        (
            {**GOOD, "m-2_safetensors": POINTER},
            "hf",
            "1 files are git-lfs pointers instead of weights, m-2",
        ),
        ({key: text for key, text in GOOD.items() if key != "m-2_safetensors"}, "hf", "1 of 2 files are missing"),
        ({key: text for key, text in GOOD.items() if key != "config_json"}, "hf", "has no config.json"),
        ({**GOOD, "model_safetensors_index_json": "{"}, "hf", "cannot be read"),
        ({**GOOD, "sub__x_incomplete": "x"}, "hf", "half downloaded"),
        ({"config_json": "{}"}, "hf", "has no weights"),
        ({"big_nemo": "x"}, "nemo", "holds the archive big.nemo"),
        ({"x_txt": "x"}, "nemo", "no model_config.yaml"),
        ({"x_txt": "x"}, "gguf", "is a directory"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, files: dict[str, str], kind: str, words: str) -> None:
    found = said(lay(tmp_path / "here", **files), kind)
    assert any(words in one for one in found), found


def test_nothing_an_archive_and_a_file_of_another_kind(tmp_path: Path) -> None:
    assert said(tmp_path / "no", "hf") == [f"there is nothing at {tmp_path}/no"]
    (tmp_path / "x.nemo").write_text("x")
    (flaw,) = flaws(looked(tmp_path / "x.nemo"), kind="nemo", path="/a/x.nemo", size_gb=0, source="")
    assert flaw.commands == ("mkdir -p /a/x", "tar -xf /a/x.nemo -C /a/x")
    (tmp_path / "m").write_text("hello")
    assert said(tmp_path / "m", "gguf") == [f"{tmp_path}/m is no GGUF file"]


def test_the_size_and_the_room_count(tmp_path: Path) -> None:
    found = said(lay(tmp_path / "here", **GOOD), "hf", size_gb=1e9)
    assert any("GB are missing" in one for one in found)
    assert any("and the model has 1e+09 GB" in one for one in found)


def test_names_that_are_hard_to_quote_are_files_like_others(tmp_path: Path) -> None:
    (tmp_path / "odd name $(x) é").mkdir()
    (tmp_path / "odd name $(x) é/f\"'.bin").write_text(BIG)
    assert looked(tmp_path).sizes == {"odd name $(x) é/f\"'.bin": 5000}


def test_no_answer_is_none() -> None:
    assert parse(Section(1, "kind directory")) is None
    assert parse(Section(0, " \n")) is None
