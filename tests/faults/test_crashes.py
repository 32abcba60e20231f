"""Rows F05 and F06 of the fault matrix: the client dies by SIGKILL at any of its steps."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.rig import Rig, only_once
from tests.faults.test_submitting import UP, up

pytestmark = [pytest.mark.sandbox, pytest.mark.long]
TTL_S = 4
IN_CI = 6


def crash(rig: Rig, step: int, log: Path) -> int:
    """`up` that dies at a step; returns its exit status."""
    words = [sys.executable, str(ROOT / "tests/faults/crash.py"), str(step), str(log), *UP, "--ttl", f"{TTL_S}s"]
    return subprocess.run(
        words, env=dict(rig.site.environment), capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=120
    ).returncode


def steps(rig: Rig) -> list[str]:
    """Every step of an `up` that goes well."""
    log = rig.site.path / "steps"
    assert crash(rig, 0, log) == 0
    assert rig.site.run("down", "--all").returncode == 0
    return log.read_text().splitlines()


def some(rig: Rig, whole: int) -> list[int]:
    """With `--times` above 1 every step, else a few drawn anew each time."""
    return sorted(random.Random(time.time_ns()).sample(range(1, whole + 1), IN_CI))


def test_f05_the_next_up_adopts_or_starts_it_and_down_cleans(rig: Rig) -> None:
    every = steps(rig)
    for step in some(rig, len(every)):
        code = crash(rig, step, rig.site.path / "log")
        assert code == -9, f"step {step}"
        up(rig, "--ttl", "60s")
        assert len(rig.alive()) == 1, f"killed at {every[step - 1]}"
        assert rig.site.run("down", "--all").returncode == 0
        assert rig.alive() == []
        assert rig.notes() == [], f"killed at {every[step - 1]}: a note was left"
        only_once(rig.jobs())


def test_f06_when_nobody_comes_back_the_lease_ends_it(rig: Rig) -> None:
    every = steps(rig)
    for step in some(rig, len(every)):
        crash(rig, step, rig.site.path / "log")
        rig.await_none_alive(TTL_S + 30)
