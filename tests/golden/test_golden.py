"""The shipped profiles render to exactly these files; `pytest tests/golden --update-golden` writes them afresh."""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from nemodeploy.app.wanted import Wish, resolve
from nemodeploy.assembly import with_manifest
from tests.combinations import Site, every

HERE = Path(__file__).parent
SCRIPTS = ("nemo_inference.sh", "nemo_inference.sbatch", "submit.sh")
SITE = str(HERE / "site.yaml")
BARE = str(HERE / "bare.yaml")
L70, L51, N8 = "llama-3.1-nemotron-70b-instruct", "llama-3.1-nemotron-51b-instruct", "nemotron-3-8b-chat-4k-rlhf"
PYXIS = Site("pyxis")


@dataclass(frozen=True)
class Case:
    """A directory of golden files, and what they are rendered from."""

    directory: str
    profile: str
    cluster: str | Site = PYXIS
    model: str = ""
    engine: str = ""


CASES = (
    # The rows of the cards.
    Case("h100x16", "h100x16", SITE),
    Case("a100x16", "a100x16", SITE),
    Case("h200x8", "h200x8", SITE),
    Case("base-h100x16", "h100x16", model="nemotron-4-340b-base"),
    Case("70b-h100x2", "h100x2", model=L70),
    Case("70b-a100x2", "a100x2"),
    Case("70b-a100-40gx4", "a100-40gx4"),
    Case("51b-h100x1", "h100x1"),
    Case("51b-h100x2", "h100x2"),
    Case("51b-a100x2", "a100x2", model=L51),
    Case("8b-h100x1", "h100x1", model=N8),
    Case("8b-a100x1", "a100x1"),
    Case("8b-a100-40gx1", "a100-40gx1"),
    # Engines that are nobody's default there.
    Case("vllm-two-nodes", "h100x16", engine="vllm"),
    Case("transformers", "h100x2", model=L70, engine="transformers"),
    Case("hf-triton", "h100x2", model=L70, engine="nemo-hf-triton"),
    Case("trtllm-early", "h100x1", model=N8, engine="nemo-trtllm-early"),
    Case("cpu", "cpu", Site("none")),
    # Runtimes and hosts without a scheduler.
    Case("h100x16-without-container", "h100x16", BARE),
    Case("h100x16-apptainer", "h100x16", Site("apptainer")),
    Case("70b-docker", "a100x2", Site("docker")),
    Case("70b-podman", "a100x2", Site("podman")),
    Case("70b-plain-host-docker", "a100x2", Site("docker", "none")),
    Case("cpu-plain-host", "cpu", Site("none", "none")),
)
IDS = [case.directory for case in CASES]


def render(case: Case, directory: Path) -> Mapping[str, str]:
    cluster = case.cluster
    if isinstance(cluster, Site):
        path = directory / f"{cluster.scheduler}-{cluster.runtime}.yaml"
        path.write_text(cluster.text)
        cluster = str(path)
    chosen = (("model", case.model, "flag --model"), ("engine", case.engine, "flag --engine"))
    settings = tuple(setting for setting in chosen if setting[1])
    wanted = resolve(Wish(profile=case.profile, name=None, cluster=cluster, settings=settings), {}, needs_site=False)
    return with_manifest(wanted.plan, wanted.bundle)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_scripts_are_as_they_were_agreed(case: Case, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    files = render(case, tmp_path)
    golden = HERE / case.directory
    if request.config.getoption("--update-golden"):
        shutil.rmtree(golden, ignore_errors=True)
        golden.mkdir()
        for name, text in files.items():
            (golden / name).write_text(text)
    assert {path.name for path in golden.iterdir()} == set(files)
    for name, text in files.items():
        agreed = (golden / name).read_text()
        lines = difflib.unified_diff(agreed.splitlines(), text.splitlines(), f"golden/{name}", name, lineterm="")
        assert text == agreed, "\n".join(lines)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_rendering_twice_gives_the_same_bytes(case: Case, tmp_path: Path) -> None:
    assert render(case, tmp_path) == render(case, tmp_path)


def scripts_of(files: Mapping[str, str], directory: Path) -> list[str]:
    """The scripts among the files, written to a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    names = [name for name in files if not name.endswith(".json")]
    for name in names:
        (directory / name).write_text(files[name])
    return [str(directory / name) for name in names]


def shellcheck(paths: list[str]) -> str:
    """What is wrong with scripts; empty: nothing."""
    assert shutil.which("shellcheck"), "shellcheck is not installed; scripts/test installs it"
    for path in paths:
        subprocess.run(["bash", "-n", path], check=True)
    words = ["shellcheck", "--shell=bash", "-S", "warning", *paths]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def test_the_scripts_are_clean(tmp_path: Path) -> None:
    paths = [path for case in CASES for path in scripts_of(render(case, tmp_path), tmp_path / case.directory)]
    assert shellcheck(paths) == ""


def with_every_line(texts: set[str]) -> list[str]:
    """Some of the texts, so that each line of any, whatever its numbers, stands in one of them."""
    seen: set[str] = set()
    chosen = []
    for text in sorted(texts):
        lines = {re.sub(r"\d+", "0", line) for line in text.splitlines()}
        if not lines <= seen:
            seen |= lines
            chosen.append(text)
    return chosen


@pytest.mark.long
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.minutes)])
def test_the_scripts_of_every_combination_are_clean(tmp_path: Path, whole: bool) -> None:
    different = {text for _, wanted in every(tmp_path) for text in wanted.bundle.files.values()}
    assert len(different) > 500
    chosen = sorted(different) if whole else with_every_line(different)
    paths = [tmp_path / f"{number}.sh" for number in range(len(chosen))]
    for path, text in zip(paths, chosen, strict=True):
        path.write_text(text)
    groups = [[str(path) for path in paths[start : start + 20]] for start in range(0, len(paths), 20)]
    with ThreadPoolExecutor(2) as pool:
        assert "".join(pool.map(shellcheck, groups)) == ""


def test_sbatch_lines_hold_typed_words_only() -> None:
    lines = [
        line for line in render(CASES[0], HERE)["nemo_inference.sbatch"].splitlines() if line.startswith("#SBATCH")
    ]
    assert lines == [
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=8",
        "#SBATCH --time=04:00:00",
        "#SBATCH --signal=B:USR1@120",
        "#SBATCH --mem=0",
        "#SBATCH --exclusive",
        "#SBATCH --no-requeue",
    ]


def test_free_text_reaches_submit_sh_quoted() -> None:
    text = render(CASES[0], HERE)["submit.sh"]
    assert "'--account=it'\"'\"'s $HOME; #x'" in text


def test_neither_token_nor_secret_is_in_the_bundle() -> None:
    whole = "".join(render(CASES[0], HERE).values())
    assert "HF_TOKEN" not in "".join(render(CASES[0], HERE)[name] for name in SCRIPTS)
    assert "nd-nemotron-4-340b-instruct-0" not in whole
