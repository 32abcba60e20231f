"""What scripts/test and scripts/demo do to an environment that somebody is using."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Stands for the environment's Python: `-m pip` notes what is there while it installs.
PYTHON = '#!/bin/sh\n[ "$1" = -m ] || exit {usable}\nls "${{0%/*}}" >"${{0%/*}}/../during"\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/common.sh", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text("changed\n")
    environment = tmp_path / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "nemodeploy.stamp").write_text("of an older pyproject.toml\n")
    (environment / "bin/nemodeploy").write_text("in use\n")
    return tmp_path


def install(checkout: Path) -> subprocess.CompletedProcess[str]:
    words = ["sh", "-c", '. "$(dirname "$0")/common.sh"; need_environment dev', str(checkout / "scripts/test")]
    kept = {name: value for name, value in os.environ.items() if name != "NEMODEPLOY_VENV"}
    return subprocess.run(words, env=kept, capture_output=True, text=True, check=False)


def test_the_command_is_there_while_the_environment_is_installed_into(checkout: Path) -> None:
    python = checkout / ".venv/bin/python"
    python.write_text(PYTHON.format(usable=0))
    python.chmod(0o755)
    done = install(checkout)
    assert done.returncode == 0, done.stderr
    assert "nemodeploy" in (checkout / ".venv/during").read_text().split()
    assert (checkout / ".venv/nemodeploy.stamp").read_text().endswith("dev\n")
    (checkout / ".venv/during").unlink()
    assert install(checkout).returncode == 0
    assert not (checkout / ".venv/during").exists(), "nothing has changed since"


def test_an_environment_that_is_not_ours_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv/nemodeploy.stamp").unlink()
    done = install(checkout)
    assert (done.returncode, "is not ours" in done.stderr) == (1, True)
    assert (checkout / ".venv/bin/nemodeploy").read_text() == "in use\n"
