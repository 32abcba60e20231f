"""What goes wrong, in front of a user: one message, what to do, the right code, and nothing left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.configuration import SSH_ALIAS
from tests.conftest import NAME, Home, pid_of_rank

pytestmark = pytest.mark.sandbox


def refused(site: Home, code: int, *words: str, cluster: str = "sandbox") -> str:
    done = site.run("up", "--profile", "h100x16", "--cluster", cluster, *words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    assert done.stdout == ""
    return done.stderr


def variant(site: Home, name: str, **replaced: str) -> str:
    """A cluster file whose ssh configuration differs from the sandbox's."""
    original = Path(_ssh_config(site)).read_text()
    for old, new in replaced.items():
        key = next(line for line in original.splitlines() if line.strip().startswith(old + " "))
        original = original.replace(key, f"    {old} {new}")
    path = site.path / f"{name}.ssh"
    path.write_text(original)
    return site.cluster(name, ssh={"host": SSH_ALIAS, "config": str(path)})


def _ssh_config(site: Home) -> str:
    return f"{site.environment['NEMODEPLOY_SANDBOX_DIR']}/ssh/config"


def test_a_rank_that_dies_ends_the_job_and_the_log_line_is_shown(site: Home, sandbox: Sandbox) -> None:
    assert site.run("up", "--profile", "h100x16").returncode == 0
    sandbox.exec("kill", "-KILL", pid_of_rank(sandbox, 5))
    ended = site.wait_for("ENDED", 30)
    assert ended["reason"] == "the server program ended"
    assert ended["endpoint"] is None
    assert sandbox.exec("squeue", "--noheader").stdout == ""
    assert site.run("generate", NAME, "hello").returncode == 12


def test_a_rank_that_dies_during_the_start_up_is_exit_30(site: Home, sandbox: Sandbox) -> None:
    slow = site.cluster("slow", env={"STAND_IN_LOAD_SECONDS": "60"})
    starting = site.start_until("loading", "up", "--profile", "h100x16", "--cluster", slow)
    sandbox.exec("kill", "-KILL", pid_of_rank(sandbox, 9))
    rest = site.rest_of(starting)
    assert starting.returncode == 30, rest
    assert "the server program ended (rank 9)" in rest
    assert "exit 137" in rest
    assert sandbox.exec("squeue", "--noheader").stdout == ""


@pytest.mark.long
def test_a_node_that_dies_is_never_called_ready_again(site: Home, hosts: Sandbox) -> None:
    sandbox = hosts
    assert site.run("up", "--profile", "a100x16").returncode == 0
    sandbox.kill_node("a100-2")
    try:
        states = [site.wait_for("ENDED", patient=False)]
        deadline = time.monotonic() + 90
        while states[-1]["state"] != "ENDED" and time.monotonic() < deadline:
            states.append(site.wait_for("ENDED", patient=False))
        words = [seen["state"] for seen in states]
        assert words[-1] == "ENDED"
        assert "READY" not in words[words.index(next(word for word in words if word != "READY")) :]
        assert states[-1]["endpoint"] is None
    finally:
        sandbox.start_node("a100-2")
        deadline = time.monotonic() + 60
        while sandbox.node_states()["a100-2"] != "idle" and time.monotonic() < deadline:
            time.sleep(0.5)
    assert sandbox.node_states()["a100-2"] == "idle"
    assert sandbox.exec("squeue", "--noheader").stdout == ""


def test_a_wrong_key_is_exit_10(site: Home, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    text = refused(site, 10, cluster=variant(site, "stranger", IdentityFile=str(tmp_path / "other")))
    assert "refused to let us in" in text
    assert "try by hand: ssh -F" in text


def test_an_unknown_host_key_is_exit_10_and_nothing_is_sent(site: Home, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    text = refused(site, 10, cluster=variant(site, "unknown", UserKnownHostsFile=str(tmp_path / "empty")))
    assert "is unknown" in text
    assert (tmp_path / "empty").read_text() == ""


def test_a_changed_host_key_is_exit_10(site: Home, sandbox: Sandbox, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    host = (sandbox.place.root / "ssh/known_hosts").read_text().split()[0]
    (tmp_path / "known").write_text(f"{host} {(tmp_path / 'other.pub').read_text()}")
    text = refused(site, 10, cluster=variant(site, "changed", UserKnownHostsFile=str(tmp_path / "known")))
    assert "is not the recorded one; nothing was sent" in text


def test_a_refused_connection_is_exit_11_with_how_to_start_the_sandbox(site: Home) -> None:
    text = refused(site, 11, cluster=variant(site, "gone", Port="1"))
    assert "cannot connect" in text
    assert "try  nemodeploy sandbox up" in text
    done = site.run("status", "--cluster", str(site.path / "gone.yaml"))
    assert done.returncode == 11


@pytest.mark.parametrize(
    ("words", "what", "instead"),
    [
        (("--set", "slurm.partition=nosuch"), "there is no partition nosuch", "there is batch, short"),
        (
            ("--set", "slurm.partition=short", "--time", "2h"),
            "partition short allows 00:30:00, and the job asks for 02:00:00",
            "--time 00:30:00",
        ),
        (("--set", "gpus.h100.request=--gpus-per-node=b200:8"), "0 nodes with 8 b200, and the job needs 2", "h100:8"),
        (("--set", "gpus.h100.request=--constraint=fast"), "Slurm would refuse the job: Invalid feature", "constraint"),
        (("--set", "most_nodes=9", "--nodes", "4"), "2 nodes with 8 h100, and the job needs 4", "h100:8"),
    ],
)
def test_what_the_site_cannot_run_is_exit_12_before_anything_is_submitted(
    site: Home, sandbox: Sandbox, words: tuple[str, ...], what: str, instead: str
) -> None:
    before = sandbox.exec("squeue", "--noheader", "--states=all", "--me").stdout
    text = refused(site, 12, *words)
    assert what in text
    assert instead in text
    assert "nothing is up" in site.run("status").stdout
    assert sandbox.exec("squeue", "--noheader", "--states=all", "--me").stdout == before


def test_a_missing_server_program_is_exit_30_with_the_line_that_says_so(site: Home) -> None:
    cluster = site.cluster("missing", programs={"nemo-eval": ["/nonexistent/python", "/nonexistent/server.py"]})
    text = refused(site, 30, cluster=cluster)
    assert "/nonexistent/python: No such file or directory" in text
    assert "check the paths in the cluster file" in text


def test_a_server_that_dies_at_start_shows_its_own_last_words(site: Home) -> None:
    cluster = site.cluster("lost", checkpoints={NAME: "/nonexistent/model"})
    text = refused(site, 30, cluster=cluster)
    assert "FileNotFoundError: Can't find /nonexistent/model" in text
    assert "exit 1" in text


def test_a_server_that_ends_well_but_unasked_is_a_failure_too(site: Home, sandbox: Sandbox) -> None:
    cluster = site.cluster("brief", programs={"nemo-eval": ["/bin/true"]})
    text = refused(site, 30, cluster=cluster)
    assert "the server program ended" in text
    assert "Slurm says FAILED" in text
    assert "exit 0" in text


@pytest.mark.long
def test_f36_a_taken_port_is_said_before_any_weights_are_loaded(site: Home, sandbox: Sandbox) -> None:
    listener = "import socket,time; s=socket.create_server(('0.0.0.0',1424)); time.sleep(60)"
    squatter = sandbox.exec(
        "sbatch", "--parsable", "-w", "h100-1", "--mem=100", f'--wrap=/usr/bin/env python3 -c "{listener}"'
    ).stdout.strip()
    try:
        deadline = time.monotonic() + 20
        while "RUNNING" not in sandbox.exec("squeue", "-h", "-o", "%T").stdout and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(0.5)
        shared = ("--set", "slurm.exclusive=false", "--set", "port=1424")
        text = refused(site, 30, *shared)
        assert "port 1424 is in use" in text
        assert "try  --set port=auto" in text
        done = site.run("up", "--profile", "h100x16", *shared, "--set", "port=auto")
        assert done.returncode == 0, done.stderr
    finally:
        sandbox.exec("scancel", squatter)
        site.run("down", "--all")


@pytest.mark.parametrize("root", ["/proc/nemodeploy", "/dev/null/x"])
def test_a_run_directory_that_cannot_be_made_is_exit_12(site: Home, root: str) -> None:
    text = refused(site, 12, cluster=site.cluster("readonly", root=root))
    assert "cannot make the run directory" in text
    assert "set root:" in text


def test_a_secret_that_is_not_set_is_exit_2_before_any_connection(site: Home) -> None:
    text = refused(
        site, 2, cluster=site.cluster("secretive", secrets=["HF_TOKEN"], ssh={"host": "127.0.0.1", "port": 1})
    )
    assert "HF_TOKEN" in text


def test_a_secret_reaches_the_program_and_no_file_that_stays(site: Home, sandbox: Sandbox) -> None:
    cluster = site.cluster(
        "secretive", secrets=["HF_TOKEN"], programs={"nemo-eval": ["/bin/sh", "-c", "sleep 1; exit 4"]}
    )
    canary = "canary-5f1d'\"$x"
    done = site.run("up", "--profile", "h200x8", "--cluster", cluster, "--verbose", HF_TOKEN=canary)
    assert done.returncode == 30
    found = subprocess.run(
        ["grep", "-rlF", "canary-5f1d", str(sandbox.place.root), str(site.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""
    assert "canary" not in done.stderr + done.stdout


SHOW = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; scontrol show job; squeue --all -O ALL 2>&1; sacct -c -o ALL 2>&1"


def test_while_it_serves_a_secret_is_in_one_file_and_in_no_argv_queue_or_accounting(
    site: Home, sandbox: Sandbox, tmp_path: Path
) -> None:
    kept, temporary = tmp_path / "kept", tmp_path / "tmp"
    kept.write_text("canary-77ab\n")
    temporary.mkdir()
    cluster = site.cluster("secretive", secrets=["HF_TOKEN"])

    def files() -> list[Path]:
        words = ["grep", "-rlF", "canary-77ab", str(sandbox.place.root), str(site.path)]
        found = subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()
        return [path for path in map(Path, found) if path != kept]

    more = {"HF_TOKEN_FILE": str(kept), "TMPDIR": str(temporary)}
    up = site.up("--profile", "h200x8", "--cluster", cluster, **more)
    (secrets,) = files()
    assert (secrets.name, secrets.parent.name, secrets.stat().st_mode & 0o777) == ("secrets.env", up["token"], 0o600)
    assert "canary-77ab" not in sandbox.exec("sh", "-c", SHOW).stdout
    assert site.run("down", "--all").returncode == 0
    assert "canary-77ab" not in sandbox.exec("sh", "-c", SHOW).stdout
    assert files() == []


def test_a_secrets_file_that_cannot_be_read_is_told_and_nothing_is_sent(site: Home) -> None:
    cluster = site.cluster("secretive", secrets=["HF_TOKEN"], ssh={"host": "127.0.0.1", "port": 1})
    done = site.run("up", "--profile", "h200x8", "--cluster", cluster, HF_TOKEN_FILE="/no/such")
    assert (done.returncode, "HF_TOKEN_FILE=/no/such cannot be read" in done.stderr) == (2, True), done.stderr


@pytest.mark.long
def test_a_controller_that_stalls_is_unknown_not_gone(site: Home, sandbox: Sandbox) -> None:
    assert site.run("up", "--profile", "h200x8").returncode == 0
    sandbox.signal_daemon("slurmctld", signal.SIGSTOP)
    try:
        done = site.run("status", "--json")
        assert json.loads(done.stdout)["deployments"][0]["state"] == "UNKNOWN"
    finally:
        sandbox.signal_daemon("slurmctld", signal.SIGCONT)
    assert site.wait_for("READY")["name"] == NAME


@pytest.mark.long
def test_a_submission_that_times_out_is_found_and_not_repeated(site: Home, sandbox: Sandbox) -> None:
    starting = None
    sandbox.signal_daemon("slurmctld", signal.SIGSTOP)
    try:
        starting = site.start("up", "--profile", "h200x8", "--json")
        time.sleep(12)
    finally:
        sandbox.signal_daemon("slurmctld", signal.SIGCONT)
    out, error = starting.communicate(timeout=90)
    assert starting.returncode == 0, error
    assert json.loads(out)["state"] == "READY"
    assert (
        len(sandbox.exec("squeue", "--noheader", "--states=all", "-n", json.loads(out)["token"]).stdout.splitlines())
        == 1
    )


@pytest.mark.long
def test_one_broken_cluster_file_hides_no_other_cluster(site: Home) -> None:
    assert site.run("up", "--profile", "h200x8").returncode == 0
    (site.config / "clusters/zz.yaml").write_text("")
    done = site.run("status")
    assert done.returncode == 0
    assert "READY" in done.stdout
    assert "zz: UNKNOWN" in done.stderr
    assert json.loads(site.run("status", "--json").stdout)["unknown"][0]["cluster"] == "zz"
    assert site.run("down", NAME).returncode == 0


@pytest.mark.long
def test_a_manifest_that_was_damaged_is_unknown_and_hides_no_other(site: Home, sandbox: Sandbox) -> None:
    token = json.loads(site.run("up", "--profile", "h200x8", "--json").stdout)["token"]
    manifest = sandbox.place.shared / "nemodeploy/deployments" / NAME / token / "manifest.json"
    good = json.loads(manifest.read_text())
    for damage in ("", "[]", '{"plan": 1}', json.dumps({**good, "plan": {**good["plan"], "layout": 3}})):
        manifest.write_text(damage)
        seen = json.loads(site.run("status", "--json").stdout)["deployments"][0]
        assert (seen["state"], seen["endpoint"]) == ("UNKNOWN", None)
    assert site.run("down", NAME).returncode == 0
    assert sandbox.exec("squeue", "--noheader").stdout == ""


def test_a_run_directory_removed_by_hand_does_not_hide_its_job(site: Home, sandbox: Sandbox) -> None:
    assert site.run("up", "--profile", "h200x8").returncode == 0
    sandbox.exec("rm", "-rf", str(sandbox.place.shared / "nemodeploy/deployments" / NAME))
    assert json.loads(site.run("status", "--json").stdout)["deployments"][0]["state"] == "UNKNOWN"
    assert site.run("down", NAME).returncode == 0
    assert sandbox.exec("squeue", "--noheader").stdout == ""


def test_a_watcher_whose_reader_goes_away_finishes_all_the_same(site: Home) -> None:
    starting = site.start("up", "--profile", "h200x8", "--json")
    assert starting.stderr is not None
    starting.stderr.readline()
    starting.stderr.close()
    assert starting.stdout is not None
    assert json.loads(starting.stdout.read())["state"] == "READY"
    assert starting.wait(30) == 0
    starting.stdout.close()


def test_ctrl_c_twice_still_cancels(site: Home, sandbox: Sandbox) -> None:
    starting = site.start(
        "up", "--profile", "h200x8", "--cluster", site.cluster("s", env={"STAND_IN_LOAD_SECONDS": "60"})
    )
    assert starting.stderr is not None
    for line in starting.stderr:
        if " starting " in line:
            break
    starting.send_signal(signal.SIGINT)
    time.sleep(0.1)
    starting.send_signal(signal.SIGINT)
    rest = site.rest_of(starting)
    assert starting.returncode == 40, rest
    assert sandbox.exec("squeue", "--noheader").stdout == ""


def test_a_late_interrupt_of_down_names_the_job(site: Home) -> None:
    assert site.run("up", "--profile", "h200x8").returncode == 0
    ending = site.start("down", NAME)
    assert ending.stderr is not None
    ending.stderr.readline()
    ending.send_signal(signal.SIGINT)
    rest = ending.communicate(timeout=30)[1]
    assert ending.returncode in (0, 50), rest
    assert site.run("down", NAME).returncode == 0
