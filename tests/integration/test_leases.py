"""Leases from the client's side, and what `reap` does with what somebody left."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import Any

import pytest

from nemodeploy.sandbox.cluster import Sandbox
from tests.conftest import Home

pytestmark = pytest.mark.sandbox


def up(site: Home, *words: str, **more: str) -> dict[str, Any]:
    return site.up("--profile", "cpu", *words, **more)


def found(site: Home, *words: str, **more: str) -> dict[str, tuple[str, str]]:
    """What `reap` says of each name: action and reason."""
    done = site.run("reap", "--json", *words, **more)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    return {one["name"]: (one["action"], one["why"]) for one in json.loads(done.stdout)["found"]}


@pytest.mark.long
def test_a_lease_is_kept_changed_and_runs_out(site: Home, sandbox: Sandbox) -> None:
    assert up(site, "--ttl", "8s")["ttl_s"] == 8
    for _ in range(3):
        time.sleep(3)
        assert "stays up for 00:00:08" in site.run("keep", "tiny").stdout
    time.sleep(3)
    assert site.run("generate", "tiny", "hello").returncode == 0, "which renews it, too"
    assert "has no lease" in site.run("keep", "tiny", "--no-ttl").stdout
    time.sleep(10)
    assert site.wait_for("READY")["ttl_s"] is None
    assert json.loads(site.run("keep", "tiny", "--ttl", "3s", "--json").stdout)["ttl_s"] == 3
    assert site.wait_for("ENDED", 20)["reason"] == "its lease ran out"
    done = site.run("keep", "tiny")
    assert done.returncode == 12, "what has ended is not kept"


@pytest.mark.long
def test_under_ci_there_is_a_lease_and_an_adopted_one_keeps_its_own(site: Home, sandbox: Sandbox) -> None:
    assert up(site, CI="true")["ttl_s"] == 7200
    assert up(site)["ttl_s"] == 7200, "unasked, it stays as it is"
    assert up(site, "--ttl", "90s")["ttl_s"] == 90
    assert up(site, "--no-ttl")["ttl_s"] is None


@pytest.mark.long
def test_a_watching_client_renews_a_lease_that_is_shorter_than_the_start(site: Home, sandbox: Sandbox) -> None:
    slow = site.cluster("slow", env={"STAND_IN_LOAD_SECONDS": "8"})
    assert up(site, "--ttl", "3s", "--cluster", slow)["state"] == "READY"


@pytest.mark.long
def test_reap_ends_what_nobody_keeps_and_says_why_it_keeps_the_rest(site: Home, sandbox: Sandbox) -> None:
    run = {"NEMODEPLOY_OWNER": "https://ci/run/7"}
    up(site, "--name", "leased", "--ttl", "10m", **run)
    up(site, "--name", "left", **run)
    up(site, "--name", "another")
    dry = found(site, **run)
    assert {name: action for name, (action, _) in dry.items()} == {"leased": "keep", "left": "end"}
    assert "its lease is renewed" in dry["leased"][1]
    assert len(sandbox.exec("squeue", "-h").stdout.splitlines()) == 3, "nothing is done without --yes"
    assert found(site, "--yes", **run)["left"][0] == "end"
    names = sandbox.exec("squeue", "-h", "-o", "%j").stdout
    assert "nd-left-" not in names
    assert "nd-leased-" in names
    assert "nd-another-" in names


def test_reap_clears_away_what_ended_and_what_was_broken_off(site: Home, sandbox: Sandbox) -> None:
    token = up(site)["token"]
    root = sandbox.place.shared / "nemodeploy"
    directory = root / "deployments/tiny" / token
    assert site.run("down", "tiny").returncode == 0
    broken = directory.with_name(token[:-1] + ("y" if token.endswith("x") else "x"))
    shutil.copytree(root / "archive" / token, broken, symlinks=True)
    (broken.parent / "active").unlink()
    nowhere = site.cluster("nowhere", ssh={"host": "127.0.0.1", "port": 1})
    shutil.move(nowhere, site.config / "clusters/nowhere.yaml")
    done = site.run("reap", "--json")
    document = json.loads(done.stdout)  # one document, whatever did not answer
    assert (done.returncode, len(document["found"]), len(document["failures"])) == (11, 1, 1)
    (site.config / "clusters/nowhere.yaml").unlink()
    assert found(site) == {"tiny": ("keep", "a submission that was broken off 0 minutes ago; it may still go on")}
    for path in (broken, root / "archive" / token):
        os.utime(path, (1, 1))
    assert found(site, "--yes")["tiny"][0] == "remove"
    assert not broken.exists()
    assert not (root / "archive" / token).exists()
    assert found(site) == {}


def test_a_run_directory_without_an_owner_is_kept(site: Home, sandbox: Sandbox) -> None:
    token = up(site)["token"]
    manifest = sandbox.place.shared / f"nemodeploy/deployments/tiny/{token}/manifest.json"
    kept = manifest.read_text()
    manifest.write_text("{")
    assert found(site)["tiny"][0] == "keep"
    assert found(site, "--yes")["tiny"][0] == "keep"
    manifest.write_text(kept)
    assert site.wait_for("READY")["token"] == token


@pytest.mark.long
def test_a_leased_job_whose_directory_is_gone_is_not_ended_by_that_and_is_still_found(
    site: Home, sandbox: Sandbox
) -> None:
    """A path that cannot be read is no sign that nobody wants the job: the file system may be away for a while."""
    token = up(site, "--ttl", "4s")["token"]
    shutil.rmtree(sandbox.place.shared / f"nemodeploy/deployments/tiny/{token}")
    time.sleep(8)
    assert len(sandbox.exec("squeue", "-h").stdout.splitlines()) == 1
    assert site.wait_for("UNKNOWN")["token"] == token
    assert site.run("down", "tiny").returncode == 0
    assert sandbox.exec("squeue", "-h").stdout == ""
