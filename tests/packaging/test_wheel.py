"""The wheel holds everything: commands work from `/`, far from any checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel; dependencies come from the environment that runs the tests."""
    directory = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(directory), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory / "site")
    return directory / "site"


def run(installed: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); from nemodeploy.cli.main import main; main()"
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = {**kept, "HOME": "/nonexistent", "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}
    return subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", "-c", code, *words],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_templates_and_configs_are_found_from_the_root_directory(installed: Path) -> None:
    done = run(installed, "plan", "--profile", "h100x16")
    assert done.returncode == 0, done.stderr
    assert "TP8 × PP2" in done.stdout


def test_scripts_are_rendered_from_the_root_directory(installed: Path, tmp_path: Path) -> None:
    done = run(installed, "render", "--profile", "h200x8", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "--nodes=1" in (tmp_path / "nemo_inference.sbatch").read_text()


def test_the_code_under_test_is_the_wheels(installed: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); import nemodeploy; print(nemodeploy.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(installed))


def test_the_sandboxes_program_and_weights_are_in_the_wheel(installed: Path) -> None:
    programs = installed / "nemodeploy/sandbox/programs"
    assert (programs / "megatron_gpt_eval.py").is_file()
    assert (programs.parent / "packs/nemo.txt").is_file()
    assert (programs / "tiny.gguf").stat().st_size > 1_000_000
    assert (installed / "nemodeploy/py.typed").exists()


def test_the_license_travels_along(installed: Path) -> None:
    assert list(installed.glob("nemodeploy-*.dist-info/licenses/LICENSE"))


@pytest.mark.sandbox
def test_the_whole_walk_works_from_the_wheel(
    installed: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directories = {f"XDG_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("CONFIG", "STATE", "DATA")}
    box = {"NEMODEPLOY_SANDBOX_DIR": str(tmp_path_factory.mktemp("wheel") / "box"), "HOME": str(tmp_path)}
    try:
        assert run(installed, "sandbox", "up", **directories, **box).returncode == 0
        done = run(installed, "up", "--profile", "h200x8", **directories, **box)
        assert done.returncode == 0, done.stderr
        assert "The capital of France is Paris." in done.stderr
    finally:
        assert run(installed, "sandbox", "down", **directories, **box).returncode == 0
