"""The shipped profiles render to exactly these files; `pytest tests/golden --update-golden` writes them afresh."""

from __future__ import annotations

import difflib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from nemodeploy.app.wanted import Wish, resolve
from nemodeploy.assembly import with_manifest

HERE = Path(__file__).parent
SCRIPTS = ("nemo_inference.sh", "nemo_inference.sbatch", "submit.sh")
SITE = str(HERE / "site.yaml")
BARE = str(HERE / "bare.yaml")
CASES = (
    ("h100x16", "h100x16", SITE),
    ("a100x16", "a100x16", SITE),
    ("h200x8", "h200x8", SITE),
    ("h100x16-without-container", "h100x16", BARE),
)


def render(profile: str, cluster: str) -> Mapping[str, str]:
    wanted = resolve(Wish(profile=profile, name=None, cluster=cluster, settings=()), {}, needs_site=False)
    return with_manifest(wanted.plan, wanted.bundle)


@pytest.mark.parametrize(("directory", "profile", "cluster"), CASES, ids=[case[0] for case in CASES])
def test_the_scripts_are_as_they_were_agreed(
    directory: str, profile: str, cluster: str, request: pytest.FixtureRequest
) -> None:
    files = render(profile, cluster)
    if request.config.getoption("--update-golden"):
        (HERE / directory).mkdir(exist_ok=True)
        for name, text in files.items():
            (HERE / directory / name).write_text(text)
    for name, text in files.items():
        golden = (HERE / directory / name).read_text()
        lines = difflib.unified_diff(golden.splitlines(), text.splitlines(), f"golden/{name}", name, lineterm="")
        assert text == golden, "\n".join(lines)


@pytest.mark.parametrize(("directory", "profile", "cluster"), CASES, ids=[case[0] for case in CASES])
def test_rendering_twice_gives_the_same_bytes(directory: str, profile: str, cluster: str) -> None:
    assert render(profile, cluster) == render(profile, cluster)


@pytest.mark.parametrize(("directory", "profile", "cluster"), CASES, ids=[case[0] for case in CASES])
def test_the_scripts_are_clean(directory: str, profile: str, cluster: str, tmp_path: Path) -> None:
    files = render(profile, cluster)
    for name in SCRIPTS:
        (tmp_path / name).write_text(files[name])
    paths = [str(tmp_path / name) for name in SCRIPTS]
    for path in paths:
        subprocess.run(["bash", "-n", path], check=True)
    assert shutil.which("shellcheck"), "shellcheck is not installed; scripts/test installs it"
    done = subprocess.run(["shellcheck", "-S", "warning", *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_sbatch_lines_hold_typed_words_only() -> None:
    lines = [
        line for line in render("h100x16", SITE)["nemo_inference.sbatch"].splitlines() if line.startswith("#SBATCH")
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
    text = render("h100x16", SITE)["submit.sh"]
    assert "'--account=it'\"'\"'s $HOME; #x'" in text


def test_neither_token_nor_secret_is_in_the_bundle() -> None:
    whole = "".join(render("h100x16", SITE).values())
    assert "HF_TOKEN" not in "".join(render("h100x16", SITE)[name] for name in SCRIPTS)
    assert "nd-nemotron-4-340b-instruct-0" not in whole
