"""On a real Slurm: a login that defines our words, a job that was renamed, and a controller with one wrong row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemodeploy.sandbox.cluster import Sandbox
from tests.conftest import Home

pytestmark = pytest.mark.sandbox
FUNCTIONS = """\
export PATH="$HOME/shim:$PATH"
cd() { builtin cd "$@" && ls; }
echo() { builtin echo "noise from a function"; }
squeue() { :; }
readlink() { :; }
export -f cd echo squeue readlink
export BASH_ENV=$HOME/.bashrc
"""


@pytest.fixture
def files(sandbox: Sandbox) -> Iterator[Path]:
    """The login's home; what a test puts there goes."""
    home = sandbox.place.home
    yield home
    (home / ".bashrc").unlink(missing_ok=True)
    for shim in (home / "shim").glob("*"):
        shim.unlink()


def shim(files: Path, name: str, text: str) -> None:
    program = files / "shim" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(text)
    program.chmod(0o755)


@pytest.fixture
def bash_as_sh(sandbox: Sandbox) -> Iterator[None]:
    """/bin/sh is bash on the login host, as on the RHEL family. Its mounts are its own."""
    state = sandbox.state()
    if os.geteuid() or state is None or state.mode != "namespaces":
        pytest.skip("mounting in the sandbox's login host needs root")
    (login,) = Path(f"/proc/{state.pid}/task/{state.pid}/children").read_text().split()
    inside = ("nsenter", "--target", login, "--mount", "--pid", "--")
    subprocess.run([*inside, "mount", "--bind", "/bin/bash", str(Path("/bin/sh").resolve())], check=True)
    yield
    subprocess.run([*inside, "umount", "--lazy", str(Path("/bin/sh").resolve())], check=True)


@pytest.mark.usefixtures("bash_as_sh")
def test_a_login_that_defines_our_words_hides_nothing(site: Home, sandbox: Sandbox, files: Path) -> None:
    assert "bash" in sandbox.exec("/bin/sh", "-c", "echo $BASH_VERSION | sed s/^/bash/").stdout
    (files / ".bashrc").write_text(FUNCTIONS)
    document = site.up("--profile", "cpu", "--name", "words")
    assert site.wait_for("READY")["name"] == "words"
    assert site.run("reap").returncode == 0
    assert str(document["job_id"]) in site.run("status", "words").stdout
    down = site.run("down", "words", "--json")
    assert json.loads(down.stdout)["gone"][0]["job_id"] == str(document["job_id"])
    assert sandbox.exec("env", "squeue", "--noheader").stdout == ""


def pending(sandbox: Sandbox) -> Iterator[None]:
    sandbox.exec("scontrol", "update", "partitionname=batch", "state=down")
    yield
    sandbox.exec("scontrol", "update", "partitionname=batch", "state=up")


@pytest.fixture
def closed_partition(sandbox: Sandbox) -> Iterator[None]:
    yield from pending(sandbox)


@pytest.mark.long
@pytest.mark.usefixtures("closed_partition")
def test_a_pending_job_that_was_renamed_is_found_adopted_and_ended(site: Home, sandbox: Sandbox) -> None:
    client = site.start_until("PartitionDown", "up", "--profile", "cpu", "--name", "renamed")
    client.send_signal(signal.SIGKILL)
    site.rest_of(client)
    job = site.wait_for("QUEUED")["job_id"]
    assert sandbox.exec("scontrol", "update", f"jobid={job}", "jobname=another").returncode == 0
    assert site.wait_for("QUEUED")["job_id"] == job
    again = site.run("up", "--profile", "cpu", "--name", "renamed", "--queue-timeout", "2s", "--json")
    assert (again.returncode, json.loads(again.stdout)["exit_code"]) == (50, 50), "it is not this command's to cancel"
    assert len(sandbox.exec("squeue", "--noheader").stdout.splitlines()) == 1, "nothing was submitted twice"
    assert site.run("down", "renamed").returncode == 0
    assert sandbox.exec("squeue", "--noheader").stdout == ""


def test_one_wrong_row_of_a_running_job_ends_nothing(site: Home, sandbox: Sandbox, files: Path) -> None:
    job = str(site.up("--profile", "cpu", "--name", "wrong")["job_id"])
    (files / ".bashrc").write_text('export PATH="$HOME/shim:$PATH"\n')
    told = "case \"$*\" in *--me*) sed 's/RUNNING  /COMPLETED/' ;; *) cat ;; esac"
    real = 'PATH=${PATH#*/shim:}; rows=$(mktemp)\nsqueue "$@" >$rows 2>&1; s=$?'
    shim(files, "squeue", f"#!/bin/sh\n{real}\n({told}) <$rows; rm $rows; exit $s\n")
    (seen,) = json.loads(site.run("status", "--json").stdout)["deployments"]
    assert (seen["state"], seen["job_id"]) == ("UNKNOWN", job)
    assert "COMPLETED" in seen["reason"]
    down = site.start("down", "wrong")
    time.sleep(2)
    (files / "shim/squeue").unlink()
    said = site.rest_of(down)
    assert down.returncode == 0, said
    assert sandbox.exec("squeue", "--noheader").stdout == ""
