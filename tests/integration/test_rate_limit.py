"""Row F09 of the fault matrix: a controller that lets an account ask only so often, as Slurm can since 23.02."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.place import Place
from tests.conftest import Home, add_user, make_home

USER = "nemodeploy-guest"
SINCE = (23, 2)
LIMITS = "SlurmctldParameters=rl_enable,rl_bucket_size=2,rl_refill_rate=1,rl_refill_period=1\n"

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's own account is exempt, so it takes a second one"),
]


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory that other accounts can read; pytest closes its own ones anew whenever another pytest starts."""
    with tempfile.TemporaryDirectory(prefix="nemodeploy-") as directory:
        yield Path(directory)


@pytest.fixture
def guest(outside: Path, tmp_path: Path) -> Iterator[Home]:
    """An ordinary account on a cluster that is run by root and limits how often it may ask."""
    place = Place(outside / "box")
    home, sandbox = make_home(tmp_path, NEMODEPLOY_SANDBOX_DIR=str(place.root)), Sandbox(place)
    add_user(USER)
    try:
        assert home.run("sandbox", "up").returncode == 0
        state = sandbox.state()
        version = sandbox.exec("sinfo", "--version").stdout.split()[-1]
        if state is None or state.mode != "namespaces" or tuple(map(int, version.split(".")[:2])) < SINCE:
            pytest.skip(f"Slurm {version} has no rate limit; `make test-slurms` has some that do")
        _let_in(home, place)
        if subprocess.run(_as_guest("ls", state.path.partition(":")[0]), capture_output=True, check=False).returncode:
            pytest.skip(f"other accounts cannot read {state.path.partition(':')[0]}")
        place.slurm_conf.write_text(LIMITS + place.slurm_conf.read_text())
        assert sandbox.exec("scontrol", "reconfigure").returncode == 0
        yield home
    finally:
        home.run("sandbox", "down")
        subprocess.run(["userdel", USER], check=False)


def _as_guest(*words: str) -> list[str]:
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", "--reset-env", *words]


def _let_in(home: Home, place: Place) -> None:
    """The key that opens root's door opens every account's; its files must be readable, and it needs a place."""
    for path in (place.root, place.root.parent):
        path.chmod(path.stat().st_mode | 0o055)
    own = place.shared / "guest"
    own.mkdir()
    shutil.chown(own, USER)
    file = home.config / "clusters/sandbox.yaml"
    document = yaml.safe_load(file.read_text())
    document["ssh"]["user"] = USER
    document["root"] = str(own / "nemodeploy")
    file.write_text(yaml.safe_dump(document))


def test_f09_whoever_may_ask_seldom_waits_and_hears_nothing_wrong(guest: Home) -> None:
    guest.up("--profile", "cpu", timeout=240)
    seen = [json.loads(guest.run("status", "--json").stdout)["deployments"][0]["state"] for _ in range(4)]
    assert set(seen) <= {"READY", "UNKNOWN"}
    assert "READY" in seen
    done = guest.run("down", "--all", timeout=240)
    assert done.returncode == 0, done.stderr
    assert "gone" in done.stdout
    log = Path(guest.environment["NEMODEPLOY_SANDBOX_DIR"]) / "log/slurmctld.log"
    assert "RPC rate limit exceeded by uid" in log.read_text()
