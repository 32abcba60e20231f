"""Slurms that are not the machine's own: what is asked for, what is here, and what is said where one cannot be had."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nemodeploy.sandbox.slurms import MACHINE, RELEASES, SYSTEM_PATH, Slurms
from tests.conftest import Home


def with_source(home: Home, line: str) -> Home:
    """Somebody whose apt knows one package source only."""
    (home.path / "sources.list").write_text(line + "\n")
    (home.path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{home.path}/sources.list"; Dir::Etc::sourceparts "/dev/null"; Acquire::Retries "0";\n'
    )
    more = {"APT_CONFIG": str(home.path / "apt.conf"), "NEMODEPLOY_SLURM_DIR": str(home.path / "slurm")}
    return replace(home, environment={**home.environment, **more})


def test_the_machines_own_is_found_where_it_always_is() -> None:
    assert MACHINE.path == SYSTEM_PATH
    assert MACHINE.plugins == ""
    assert MACHINE.libraries == ""


@pytest.mark.parametrize("command", ["up --slurm", "install"])
def test_an_unknown_version_names_those_that_there_are(home: Home, command: str) -> None:
    done = home.run("sandbox", *command.split(), "24.1")
    assert done.returncode == 2
    assert "unknown Slurm '24.1'" in done.stderr
    assert "did you mean 24.11" in done.stderr


def test_one_that_is_not_here_names_the_command_that_gets_it(home: Home) -> None:
    done = home.run("sandbox", "up", "--slurm", "24.11", NEMODEPLOY_SLURM_DIR=str(home.path / "slurm"))
    assert done.returncode == 12
    assert "try  nemodeploy sandbox install 24.11" in done.stderr


def test_without_debian_among_the_package_sources_other_versions_cannot_be_had(home: Home) -> None:
    done = with_source(home, "deb http://127.0.0.1:9/ubuntu noble main").run("sandbox", "install", "24.11")
    assert done.returncode == 12
    assert "not Debian's" in done.stderr


@pytest.mark.parametrize("version", ["24.11", ""])
def test_without_a_network_nothing_half_made_is_taken_for_whole(home: Home, version: str) -> None:
    home = with_source(home, "deb http://127.0.0.1:9/debian bookworm main")
    done = home.run("sandbox", "install", *filter(None, [version]), "--json")
    assert done.returncode == 12, done.stderr
    assert "apt-get: " in json.loads(done.stdout)["error"]
    slurms = Slurms(home.path / "slurm")
    assert [name for name in RELEASES if slurms.find(name)] == []


def test_one_that_another_release_of_nemodeploy_made_is_not_here(tmp_path: Path) -> None:
    (tmp_path / "24.11").mkdir()
    (tmp_path / "24.11/installed").write_text("1 24.11 slurmctld\n24.11.5\n")
    assert Slurms(tmp_path).find("24.11") is None
    (tmp_path / "24.11/installed").write_text("")
    assert Slurms(tmp_path).find("24.11") is None


def test_a_directory_that_cannot_be_written_is_named(home: Home) -> None:
    done = home.run("sandbox", "install", "24.11", NEMODEPLOY_SLURM_DIR="/dev/null/slurm")
    assert done.returncode == 2
    assert "NEMODEPLOY_SLURM_DIR" in done.stderr
