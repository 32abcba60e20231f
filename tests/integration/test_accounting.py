"""A sandbox with accounting: accounts, QOS and limits are Slurm's own, and sacct can be slow or down."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nemodeploy.sandbox import processes
from nemodeploy.sandbox.accounting import GRACE_S
from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.place import Place
from tests.conftest import Home, add_user, make_home

pytestmark = [pytest.mark.sandbox, pytest.mark.long]
GUEST = "nemodeploy-guest"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start jobs of other users")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One sandbox with accounting; for root, a guest may log in, so it lies where other accounts can go."""
    directory = Path(tempfile.mkdtemp(prefix="nd-acct-", dir="/tmp"))
    directory.chmod(0o711)
    place = Place(directory / "box")
    home = make_home(tmp_path_factory.mktemp("owner"), NEMODEPLOY_SANDBOX_DIR=str(place.root))
    guest = ("--user", GUEST) if os.geteuid() == 0 else ()
    if guest:
        add_user(GUEST)
    try:
        done = home.run("sandbox", "up", "--accounting", *guest)
        assert done.returncode == 0, done.stderr
        assert ", accounting" in done.stdout
        with one_connection(Sandbox(place)) as sandbox:
            yield sandbox
        ended(home, place)
    finally:
        home.run("sandbox", "down")
        shutil.rmtree(directory)
        if guest:
            subprocess.run(["userdel", GUEST], check=False, capture_output=True)


def ended(home: Home, place: Place) -> None:
    """Take the sandbox down: both daemons were asked to end, did so in order, and nothing is left."""
    logs = {name: place.root / f"log/{name}.log" for name in ("slurmdbd", "mariadbd")}
    assert home.run("sandbox", "down").returncode == 0
    assert processes.marked(place) == frozenset()
    assert "Terminate signal" in logs["slurmdbd"].read_text().splitlines()[-1]
    assert "Shutdown complete" in logs["mariadbd"].read_text().splitlines()[-1]


@contextlib.contextmanager
def one_connection(sandbox: Sandbox) -> Iterator[Sandbox]:
    """A sandbox whose commands share one SSH connection: they take 0.02 s instead of 0.2 s."""
    with sandbox.place.ssh_config.open("a") as config:
        config.write(f"    ControlPath {sandbox.place.root}/ssh/%r\n")
    nothing = subprocess.DEVNULL
    master = subprocess.Popen(sandbox.ssh_words("-M", "-N"), stdin=nothing, stdout=nothing, stderr=nothing)
    try:
        yield sandbox
    finally:
        master.terminate()
        master.wait()


@pytest.fixture
def cleared(sandbox: Sandbox) -> Iterator[None]:
    """Jobs that a test leaves behind are cancelled after it."""
    yield
    sandbox.exec("scancel", "--user", str(os.getuid()))


def submit(sandbox: Sandbox, *words: str, wrap: str = "sleep 60", user: str = "") -> str:
    """The id of a job that Slurm has accepted."""
    done = sandbox.exec("sbatch", "--parsable", "--output=/dev/null", *words, f"--wrap={wrap}", user=user)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def row(sandbox: Sandbox, job: str, columns: str = "State") -> str:
    """What sacct says of a job; empty where slurmdbd does not know it yet."""
    done = sandbox.exec("sacct", "-n", "-P", "-X", "-j", job, "-o", columns)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def queued(sandbox: Sandbox, job: str) -> str:
    """State and reason of a job, as squeue has them."""
    return sandbox.exec("squeue", "-h", "-t", "all", "-j", job, "-o", "%T %r").stdout.strip()


def until(condition: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.1)


def test_sacctmgr_knows_the_accounts_and_the_limits(sandbox: Sandbox) -> None:
    words = ("sacctmgr", "-n", "-P", "show", "assoc", f"user={getpass.getuser()}", "format=account")
    assert set(sandbox.exec(*words).stdout.split()) - {"root"} == {"research", "other"}
    limits = sandbox.exec("sacctmgr", "-n", "-P", "show", "qos", "format=name,maxwall,maxtresperuser,preempt").stdout
    assert limits.splitlines() == [
        "normal|||",
        "short|00:10:00||",
        "small||gres/gpu=8|",
        "strict||gres/gpu=8|",
        "urgent|||normal,short",
    ]


def test_status_tells_of_it_and_up_without_it_is_refused(sandbox: Sandbox, home: Home) -> None:
    here = str(sandbox.place.root)
    assert json.loads(home.run("sandbox", "status", "--json", NEMODEPLOY_SANDBOX_DIR=here).stdout)["accounting"] is True
    refused = home.run("sandbox", "up", NEMODEPLOY_SANDBOX_DIR=here)
    assert (refused.returncode, "runs already, with accounting" in refused.stderr) == (12, True), refused.stderr


def test_more_accounts_are_made_by_hand(sandbox: Sandbox) -> None:
    changes = f"add account extra\nadd user {getpass.getuser()} account=extra\n"
    assert sandbox.exec("sacctmgr", "-i", stdin=changes).returncode == 0
    job = submit(sandbox, "-A", "extra", wrap="true")
    until(lambda: row(sandbox, job, "State,Account") == "COMPLETED|extra")
    assert sandbox.exec("sacctmgr", "-i", "delete", "account", "extra").returncode == 0  # other tests list them all


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-A closed", "Invalid account or account/partition combination specified"),
        ("-q nosuch", "Invalid qos specification"),
        ("-q strict -N2 --gpus-per-node=h100:8", "Job violates accounting/QOS policy"),
    ],
)
def test_slurm_refuses_what_the_accounts_do_not_allow(sandbox: Sandbox, words: str, said: str) -> None:
    done = sandbox.exec("sbatch", "--output=/dev/null", *words.split(), "--wrap=true")
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr


@pytest.mark.usefixtures("cleared")
@pytest.mark.parametrize(
    ("words", "says", "instead"),
    [
        (("--set", "slurm.qos=short", "--time", "00:20:00"), "QOSMaxWallDurationPerJobLimit: more time than", "--time"),
        (("--set", "slurm.qos=small"), "QOSMaxGRESPerUser: 16 gres/gpu are asked for, and 8 allowed", "fewer GPUs"),
    ],
)
def test_a_job_that_a_limit_will_never_let_start_is_31_at_once(
    sandbox: Sandbox, site: Home, words: tuple[str, ...], says: str, instead: str
) -> None:
    done = site.run("up", "--profile", "h100x16", "--name", "limited", *words)
    assert (done.returncode, says in done.stderr) == (31, True), done.stderr
    assert instead in done.stderr.partition(" try ")[2]
    assert sandbox.exec("squeue", "-h").stdout == ""


REFUSING = """\
function slurm_job_submit(job, partitions, uid)
  if job.account ~= nil then return slurm.SUCCESS end
  slurm.log_user("You must specify an account")
  slurm.log_user("see docs.example.org")
  return slurm.ERROR
end
function slurm_job_modify(job, record, partitions, uid) return slurm.SUCCESS end
return slurm.SUCCESS
"""


@contextlib.contextmanager
def configured(sandbox: Sandbox, line: str) -> Iterator[None]:
    """Slurm with one more line in slurm.conf."""
    conf = sandbox.place.slurm_conf
    before = conf.read_text()
    try:
        conf.write_text(f"{before}{line}\n")
        assert sandbox.exec("scontrol", "reconfigure").returncode == 0
        yield
    finally:
        conf.write_text(before)
        sandbox.exec("scontrol", "reconfigure")


def test_the_words_of_a_sites_plug_in_are_shown_with_the_key_and_the_choices(sandbox: Sandbox, site: Home) -> None:
    (sandbox.place.slurm_conf.parent / "job_submit.lua").write_text(REFUSING)
    with configured(sandbox, "JobSubmitPlugins=lua"):
        done = site.run("up", "--profile", "cpu", "--name", "refused")
    assert done.returncode == 12
    assert "You must specify an account; see docs.example.org; Unspecified error" in done.stderr
    assert "set slurm.account in the cluster file: one of research, other" in done.stderr


def occupied(sandbox: Sandbox, qos: str, *words: str, wrap: str = "sleep 60") -> str:
    """A running job that has one node for itself."""
    job = submit(sandbox, "-w", "h200-1", "--exclusive", "--no-requeue", "-q", qos, *words, wrap=wrap)
    until(lambda: queued(sandbox, job).startswith("RUNNING"))
    return job


def urgent(sandbox: Sandbox, node: str = "h200-1") -> str:
    return submit(sandbox, "-w", node, "--exclusive", "-q", "urgent")


def why(site: Home, name: str = "tiny") -> str:
    """Why a deployment ended, as `status NAME` has it."""
    done = site.run("status", name, "--json")
    (told,) = json.loads(done.stdout)["deployments"]
    return str(told["why"]["text"])


@pytest.mark.usefixtures("cleared")
def test_an_urgent_job_preempts_a_deployment_without_a_grace_time_at_once(sandbox: Sandbox, site: Home) -> None:
    job = str(site.up("--profile", "cpu", "--set", "slurm.qos=short", "--time", "00:05:00")["job_id"])
    urgent_job = urgent(sandbox, row(sandbox, job, "NodeList"))
    until(lambda: row(sandbox, job) == "PREEMPTED")
    until(lambda: queued(sandbox, urgent_job).startswith("RUNNING"))
    assert why(site) == "a job of higher priority took its nodes, Slurm says PREEMPTED"
    sandbox.exec("scancel", urgent_job)
    until(lambda: sandbox.exec("squeue", "-h").stdout == "")


def test_a_node_that_is_lost_is_named_as_the_cause(sandbox: Sandbox, site: Home) -> None:
    job = str(site.up("--profile", "cpu")["job_id"])
    node = row(sandbox, job, "NodeList")
    assert sandbox.exec("scontrol", "update", f"nodename={node}", "state=down", "reason=lost").returncode == 0
    try:
        until(lambda: row(sandbox, job) == "NODE_FAIL")
        assert why(site) == "a node failed, Slurm says NODE_FAIL"
    finally:
        sandbox.exec("scontrol", "update", f"nodename={node}", "state=resume")


def test_a_prolog_that_fails_is_named_with_its_node(sandbox: Sandbox, site: Home) -> None:
    resume = 'scontrol update nodename="$(sinfo -h -t drain -o %n | sort -u | paste -sd, -)" state=resume'
    try:
        with configured(sandbox, "Prolog=/bin/false"):
            done = site.run("up", "--profile", "cpu", "--name", "unbegun")
        (node,) = set(sandbox.exec("sinfo", "-h", "-N", "-t", "drain", "-o", "%N").stdout.split())
    finally:
        sandbox.exec("sh", "-c", resume)
    says = f"it never began: {node}: Prolog error, Slurm says CANCELLED"
    assert (done.returncode, says in done.stderr) == (30, True), done.stderr
    assert why(site, "unbegun") == says


@pytest.mark.usefixtures("cleared")
def test_a_job_with_a_grace_time_is_told_before_it_is_preempted(sandbox: Sandbox) -> None:
    said = sandbox.place.home / "said"
    # A loop, since Slurm tells the shell's child, too, and often before the shell.
    step = (
        f"trap 'echo told >{said}; sleep 1; echo saved >>{said}; exit 0' TERM; touch {said}; while :; do sleep 1; done"
    )
    # Without a grace time Slurm kills the job's own shell, too, which then says nothing.
    occupied(sandbox, "normal", wrap=f'srun sh -c "{step}"; echo over >>{said}')
    until(said.exists)
    urgent_job = urgent(sandbox)
    until(lambda: queued(sandbox, urgent_job).startswith("RUNNING"))
    assert said.read_text().split() == ["told", "saved", "over"]


@pytest.mark.usefixtures("cleared")
def test_a_job_that_outstays_its_grace_time_is_preempted(sandbox: Sandbox) -> None:
    """Slurm looks for those every 30 s, or when it next tries to start the urgent job."""
    job, begun = occupied(sandbox, "normal"), time.monotonic()
    urgent_job = urgent(sandbox)
    until(lambda: row(sandbox, job) == "PREEMPTED", within_s=60)
    assert time.monotonic() - begun > GRACE_S
    until(lambda: queued(sandbox, urgent_job).startswith("RUNNING"))


def test_sacct_tells_how_a_deployment_on_a_named_cluster_ended(sandbox: Sandbox, site: Home) -> None:
    file = site.config / "clusters/sandbox.yaml"
    plain = file.read_text()
    file.write_text(plain.replace("slurm: {", "slurm: {cluster: elsewhere, "))
    assert site.run("status").returncode == 11, "a cluster that slurmdbd does not know is not the local one"
    file.write_text(plain.replace("slurm: {", "slurm: {cluster: sandbox, "))
    job = str(site.up("--profile", "cpu")["job_id"])
    until(lambda: row(sandbox, job, "State,Account,QOS") == "RUNNING|research|normal")
    assert sandbox.exec("scancel", job).returncode == 0
    until(lambda: row(sandbox, job) == f"CANCELLED by {os.getuid()}")
    who = f"{getpass.getuser()} ({os.getuid()})"
    assert why(site) == f"cancelled by {who}, not through nemodeploy, Slurm says CANCELLED"


@needs_root
@pytest.mark.usefixtures("cleared")
def test_a_user_who_is_not_slurms_runs_jobs_of_its_own(sandbox: Sandbox) -> None:
    said = sandbox.place.home_of(GUEST) / "said"
    job = submit(sandbox, wrap=f"id -un >{said}", user=GUEST)
    until(lambda: row(sandbox, job, "State,User,Account") == f"COMPLETED|{GUEST}|research")
    assert said.read_text() == f"{GUEST}\n"
    refused = sandbox.exec("sbatch", "-A", "other", "--wrap=true", user=GUEST)
    assert "Invalid account" in refused.stderr
    mine = submit(sandbox)
    assert "Access/permission denied" in sandbox.exec("scancel", mine, user=GUEST).stderr
    secret = ("ssh/id_ed25519", "munge/key", "etc/slurmdbd.conf", "run/control", "database/ibdata1")
    look = "".join(f"test -r {sandbox.place.root / file} && echo {file}; " for file in secret)
    assert sandbox.exec("sh", "-c", look, user=GUEST).stdout == ""


def test_sacct_hangs_while_slurmdbd_is_stalled_and_squeue_does_not(sandbox: Sandbox) -> None:
    sandbox.signal_daemon("slurmdbd", signal.SIGSTOP)
    try:
        job = submit(sandbox, wrap="true")
        assert sandbox.exec("timeout", "1", "sacct").returncode == 124
        assert queued(sandbox, job) != ""
    finally:
        sandbox.signal_daemon("slurmdbd", signal.SIGCONT)
    until(lambda: row(sandbox, job) == "COMPLETED")


def test_sacct_fails_while_accounting_is_down_and_learns_afterwards_what_it_missed(
    sandbox: Sandbox, site: Home
) -> None:
    for daemon in ("slurmdbd", "mariadbd"):
        sandbox.signal_daemon(daemon, signal.SIGKILL)
    try:
        done = sandbox.exec("sacct")
        assert (done.returncode, "Connection refused" in done.stderr) == (1, True), done.stderr
        job = submit(sandbox, wrap="true")
        until(lambda: queued(sandbox, job).startswith("COMPLETED"))
        assert "the site has accounting, and sacct does not answer" in site.run("doctor").stdout
    finally:
        sandbox.start_dbd()
    until(lambda: row(sandbox, job) == "COMPLETED")


def test_it_works_side_by_side_too_and_leaves_nothing(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = Place(tmp_path_factory.mktemp("own") / "box")
    home = make_home(tmp_path, NEMODEPLOY_SANDBOX_DIR=str(place.root))
    try:
        done = home.run("sandbox", "up", "--accounting", "--mode", "plain")
        assert done.returncode == 0, done.stderr
        assert "Invalid account" in Sandbox(place).exec("sbatch", "-A", "closed", "--wrap=true").stderr
        daemons = {int((place.root / f"run/{name}.pid").read_text()) for name in ("slurmdbd", "mariadbd")}
        assert daemons <= processes.marked(place)
        ended(home, place)
    finally:
        home.run("sandbox", "down")
