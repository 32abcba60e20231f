"""Whoever runs the tests changes nothing by what they have set or have in their home."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

from nemodeploy.adapters import resources
from tests.conftest import ROOT
from tests.environment import clean, is_theirs

HOSTILE = {
    "NEMODEPLOY_CLUSTER": "mine",
    "NEMODEPLOY_SLURM__PARTITION": "mine",
    "SSH_AUTH_SOCK": "/mine",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "SLURM_JOB_ID": "7",
    "GITHUB_ACTIONS": "true",
    "CI": "true",
    "OPENAI_API_KEY": "mine",
}


def test_the_users_files_are_not_where_tests_look() -> None:
    """It runs once more below, with everything of a user's set."""
    real = pwd.getpwuid(os.getuid()).pw_dir
    assert Path.home() != Path(real)
    for directory in (resources.config_directory(), resources.state_directory(), resources.sandbox_directory()):
        assert directory.is_relative_to(Path.home()), directory
    assert [name for name in os.environ if is_theirs(name) and name not in clean({}, "/x")] == []
    assert resources.names("clusters") == ()


def test_whatever_a_user_has_set_stays_out(tmp_path: Path) -> None:
    clusters = tmp_path / "nemodeploy/clusters"
    clusters.mkdir(parents=True)
    (clusters / "mine.yaml").write_text("not: [a cluster\n")
    xdg = {f"XDG_{kind}_HOME": str(tmp_path) for kind in ("CONFIG", "STATE", "DATA", "CACHE")}
    one = f"{__file__}::{test_the_users_files_are_not_where_tests_look.__name__}"
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", one]
    environment = os.environ | HOSTILE | xdg | {"HOME": pwd.getpwuid(os.getuid()).pw_dir}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
