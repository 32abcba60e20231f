"""The use cases against a login host whose Slurm commands are small scripts: the transport and the shell are real."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from nemodeploy.adapters.journal import Journal
from nemodeploy.adapters.transports.local import LocalTransport
from nemodeploy.app import ending, reap, status, submitting, waiting
from nemodeploy.app.logs import show
from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site
from nemodeploy.app.submitting import Submitted, Taken
from nemodeploy.app.up import IfTaken, Request, obtain, up
from nemodeploy.app.wanted import Wanted, Wish, resolve
from nemodeploy.core.patience import Budget
from nemodeploy.core.readiness import State, judge
from nemodeploy.core.submission import receipt_script
from nemodeploy.errors import (
    BadInput,
    ClusterUnreachable,
    JobEnded,
    OutcomeUnknown,
    PreflightFailed,
    QueueTimeout,
    StartupTimeout,
    SubmissionRefused,
)
from nemodeploy.schedulers import slurm_questions
from nemodeploy.values import Command, Completed, Secret, Token

WIDTHS = dict(slurm_questions._COLUMNS)
FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
NO_ACCOUNTING = "echo 'Slurm accounting storage is disabled' >&2; exit 1"
WHO = subprocess.run(["sh", "-c", "id -un 1000 || echo uid"], capture_output=True, text=True).stdout.strip() + " (1000)"
CANCELLED = 'for word; do case $word in --name=*) echo "77|CANCELLED by 1000|${word#--name=}" ;; esac; done'


class TurnedClock:
    """A clock that only moves when somebody sleeps on it."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class Listener:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, phase: str, text: str) -> None:
        self.lines.append(f"{phase} {text}")

    def live(self, phase: str, text: str) -> None:
        pass

    def wants_cancel(self, token: str) -> bool:
        return True


class Login:
    """A login host: its shared directory, and what its Slurm says."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.shared = path, path / "shared"
        (path / "bin").mkdir()
        monkeypatch.setenv("PATH", f"{path / 'bin'}:{os.environ['PATH']}")
        cluster = path / "here.yaml"
        cluster.write_text(
            f"ssh: {{host: localhost}}\ntransport: local\nroot: {self.shared}\nruntime: none\n"
            "programs: {nemo-eval: [python3, server.py]}\ncheckpoints: {nemotron-4-340b-instruct: /models/340b}\n"
        )
        self.wanted = self.want(cluster)
        self.clock, self.listener = TurnedClock(), Listener()
        self.count = 0
        (path / "row").write_text("")
        self.slurm(sbatch="echo 77", squeue="exit 0", scancel="exit 0", sacct=NO_ACCOUNTING)
        self.slurm(sleep="exec /bin/sleep 0.02")  # its clock is turned, too

    @staticmethod
    def want(cluster: Path, **settings: object) -> Wanted:
        flags = [(key, value, "test") for key, value in settings.items()]
        return resolve(Wish(profile="h100x16", name="demo", cluster=str(cluster), settings=flags), {}, needs_site=True)

    def slurm(self, **commands: str) -> None:
        # A job is listed from its submission on.
        first = f'case "$*" in *--test-only*) ;; *) mv {self.path}/later {self.path}/row 2>/dev/null ;; esac\n'
        for name, body in commands.items():
            file = self.path / "bin" / name
            file.write_text(f'#!/bin/sh\necho "$0 $*" >>{self.path}/calls\n{first if name == "sbatch" else ""}{body}\n')
            file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def row(self, job_id: str, state: str, token: Token, reason: str = "None", directory: str = "") -> None:
        cells = {"JobID": job_id, "RestartCnt": "0", "State": state, "Reason": reason, "Name": str(token)}
        cells["WorkDir"] = directory or f"{self.shared}/deployments/{token.name}/{token}"
        (self.path / ("row" if self.submissions() else "later")).write_text(
            "".join(cells.get(name, "").ljust(width) for name, width in WIDTHS.items()) + "\n"
        )
        one = f"job|{job_id}|{state}|$(id -u)|{cells['WorkDir']}|{token}"
        self.slurm(squeue=f'case "$*" in *--jobs*) echo "{one}" ;; *) cat {self.path}/row ;; esac')

    def site(self) -> Site:
        return Site(self.wanted.cluster, LocalTransport(), self.nonce)

    def nonce(self) -> str:
        self.count += 1
        return f"nonce{self.count}"

    def token(self, name: str) -> Token:
        self.count += 1
        return Token.make(name, milliseconds=self.count, entropy=self.count)

    def ports(self) -> Ports:
        return Ports(
            clock=self.clock,
            journal=Journal(self.path / "state"),
            reporter=self.listener,
            new_token=self.token,
            nonce=self.nonce,
            key=lambda _: Secret("k"),
            wall_clock=lambda: "2026-11-21T00:00:00Z",
            owner="me@here",
            version="0",
        )

    def request(self, budget: Budget | None = None) -> Request:
        budget = budget or Budget(queue_s=None, startup_s=60.0)
        return Request(plan=self.wanted.plan, bundle=self.wanted.bundle, secrets={}, budget=budget)

    def submit(self, **more: Token | None) -> Submitted | Taken:
        token = self.token("demo")
        self.ports().journal.note(token, step="intent")
        return submitting.take_and_submit(
            self.site(), self.ports(), token, self.wanted.plan, self.wanted.bundle, secrets={}, after=more.get("after")
        )

    def submissions(self) -> int:
        calls = (self.path / "calls").read_text() if (self.path / "calls").exists() else ""
        return sum("/sbatch " in line and "--test-only" not in line for line in calls.splitlines())

    def notes(self) -> Mapping[str, str]:
        return {path.stem: path.read_text() for path in (self.path / "state/journal").glob("*.json")}


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Login:
    return Login(tmp_path, monkeypatch)


def accepted(login: Login) -> Token:
    result = login.submit()
    assert isinstance(result, Submitted)
    return result.token


def test_a_submission_leaves_what_the_job_needs(login: Login) -> None:
    token = accepted(login)
    directory = login.shared / "deployments/demo" / str(token)
    assert (directory / "submit/sbatch.rc").read_text() == "0\n"
    assert (directory / "nemo_inference.sbatch").read_text() == login.wanted.bundle.files["nemo_inference.sbatch"]
    manifest = json.loads((directory / "manifest.json").read_text())
    assert (manifest["token"], manifest["owner"], manifest["digest"]) == (
        str(token),
        "me@here",
        login.wanted.bundle.digest,
    )
    assert (directory.parent / "active").readlink() == Path(str(token))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert "submitted" in login.notes()[str(token)]


def test_a_taken_name_is_not_submitted_again(login: Login) -> None:
    token = accepted(login)
    assert login.submit() == Taken(token=token)
    assert login.submissions() == 1
    assert (
        len(
            [
                entry
                for entry in (login.shared / "deployments/demo").iterdir()
                if entry.is_dir() and not entry.is_symlink()
            ]
        )
        == 1
    )


def test_a_client_that_died_before_sbatch_is_finished_by_the_next(login: Login) -> None:
    token = accepted(login)
    directory = login.shared / "deployments/demo" / str(token)
    for name in ("sbatch.rc", "sbatch.out", "sbatch.err"):
        (directory / "submit" / name).unlink()
    (directory / "submit/go").rmdir()
    assert submitting.finish(login.site(), login.ports(), token) is True, "it was this call that submitted it"
    assert submitting.finish(login.site(), login.ports(), token) is False, "and not this one"
    assert login.submissions() == 2, "once by the client that died, once by the next, and not a third time"


def test_no_journal_no_network(login: Login) -> None:
    (login.path / "state").write_text("a file where the directory should be")
    opened = []

    class Watched(LocalTransport):
        def open(self) -> None:
            opened.append(True)

    site = Site(login.wanted.cluster, Watched(), login.nonce)
    budget = Budget(queue_s=1.0, startup_s=1.0)
    with pytest.raises(BadInput, match="cannot read the journal"):
        up(site, login.ports(), login.request(budget))
    assert opened == []
    assert login.submissions() == 0


def test_a_secret_does_not_stay_when_the_job_never_ran(login: Login) -> None:
    login.slurm(sbatch="echo 'sbatch: error: Invalid qos specification' >&2; exit 1")
    secrets = {"HF_TOKEN": Secret("canary")}
    token = login.token("demo")
    with pytest.raises(SubmissionRefused):
        submitting.take_and_submit(
            login.site(), login.ports(), token, login.wanted.plan, login.wanted.bundle, secrets=secrets
        )
    assert (login.shared / "archive" / str(token) / "manifest.json").exists()
    assert not (login.shared / "archive" / str(token) / "secrets.env").exists()


def test_a_look_takes_away_the_secrets_of_what_has_ended(login: Login) -> None:
    token = archived(login)  # its supervisor was killed outright: nothing has cleaned up
    directory = login.shared / "deployments/demo" / str(token)
    (login.shared / "archive" / str(token)).rename(directory)
    (directory / "secrets.env").write_text("HF_TOKEN=hf_canary\n")
    log = directory / "epochs/77.0/logs/h100-1.0.log"
    log.write_text("dying with hf_canary\n")
    login.row("77", "RUNNING", token)
    (found,) = status.status(login.site())
    assert login.site().logs_of(token)["h100-1.0.log"].strip() == "dying with ********"
    assert (directory / "secrets.env").exists(), "it still runs"
    login.row("77", "FAILED", token)
    (found,) = status.status(login.site())
    assert found.verdict.gone
    assert not directory.exists()
    put_away = login.shared / "archive" / str(token)
    assert not (put_away / "secrets.env").exists()
    assert (put_away / "epochs/77.0/logs/h100-1.0.log").read_text() == "dying with ******** \n"


def test_secrets_that_are_known_here_are_hidden_in_whatever_a_server_wrote(login: Login) -> None:
    token = accepted(login)
    epoch = login.shared / "deployments/demo" / str(token) / "epochs/77.0"
    (epoch / "logs").mkdir(parents=True)
    (epoch / "logs/a.0.log").write_text("with hf_canary\n")
    record = {"epoch": "77.0", "phase": "loading", "elapsed_s": 1, "said": "a.0: hf_canary"}
    (epoch / "health.json").write_text(json.dumps(record))
    (epoch / "probe.body").write_text("401\nhf_canary\n")
    (epoch.parents[1] / "current").symlink_to("epochs/77.0")
    site = Site(login.wanted.cluster, LocalTransport(), login.nonce, hidden=("hf_canary",))
    directory = site.look(name="demo").directory(token)
    assert directory.health is not None
    assert (directory.health.said, directory.answer.strip()) == ("a.0: ********", "401\n********")
    assert site.logs_of(token)["a.0.log"].strip() == "with ********"
    lines: list[str] = []
    show(site, "demo", lines.append, sleep=lambda _: None)
    assert "a.0 | with ********" in lines


def test_a_proven_end_is_followed_by_exactly_one(login: Login) -> None:
    old = accepted(login)
    new = login.submit(after=old)
    assert isinstance(new, Submitted)
    assert login.submit(after=old) == Taken(token=new.token)
    assert (login.shared / "archive" / str(old)).is_dir()
    assert (login.shared / "deployments/demo/active").readlink() == Path(str(new.token))


def test_a_link_that_was_set_back_still_leads_to_the_last(login: Login) -> None:
    old = accepted(login)
    new = login.submit(after=old)
    active = login.shared / "deployments/demo/active"
    active.unlink()
    active.symlink_to(str(old))
    assert login.submit() == Taken(token=new.token)


def test_a_refusal_is_in_slurms_words_and_leaves_nothing_live(login: Login) -> None:
    login.slurm(
        sbatch="echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2; exit 1"
    )
    with pytest.raises(SubmissionRefused, match="Invalid partition name specified"):
        login.submit()
    assert login.site().look().directories == ()
    assert login.notes() == {}


def test_no_sbatch_at_all_is_a_preflight_failure(login: Login) -> None:
    login.slurm(sbatch="exit 127")
    with pytest.raises(PreflightFailed, match="sbatch is not found"):
        login.submit()


def test_a_lost_reply_is_looked_up_by_name_and_adopted(login: Login) -> None:
    login.slurm(sbatch="echo 'Socket timed out on send/recv operation' >&2; exit 1")
    token = Token.make("demo", milliseconds=1, entropy=1)
    login.row("78", "PENDING", token)
    login.count = 0
    result = login.submit()
    assert result == Submitted(token=token, job_id="78")
    assert login.submissions() == 1


def test_a_lost_reply_that_nobody_can_find_is_unknown_and_never_repeated(login: Login) -> None:
    login.slurm(sbatch="echo 'Socket timed out on send/recv operation' >&2; exit 1")
    with pytest.raises(OutcomeUnknown, match="may be queued or running"):
        login.submit()
    assert login.submissions() == 1


def test_withholding_keeps_everyone_from_submitting(login: Login) -> None:
    site, token = login.site(), login.token("demo")
    assert site.withhold(token)
    assert site.withhold(token)
    late = submitting.take_and_submit
    with pytest.raises(PreflightFailed):
        late(site, login.ports(), token, login.wanted.plan, login.wanted.bundle, secrets={})
    assert login.submissions() == 0


def test_a_submitted_token_cannot_be_withheld(login: Login) -> None:
    assert not login.site().withhold(accepted(login))


def test_an_absent_row_is_unknown_until_slurm_says_it_holds_nothing(login: Login) -> None:
    token = accepted(login)
    site = login.site()
    look = site.look()
    assert judge(site.see(look, look.directory(token))).state is State.UNKNOWN
    login.slurm(squeue=f'case "$*" in *--jobs*) {FORGOTTEN} ;; esac')
    look = site.look()
    assert not judge(site.see(look, look.directory(token))).gone, "its files are fresh, so it may well be alive"
    manifest = login.shared / "deployments/demo" / str(token) / "manifest.json"
    os.utime(manifest, (1, 1))
    assert judge(site.see(look, look.directory(token))).gone


def test_what_a_look_has_proven_is_archived_with_slurms_word_and_never_proven_again(login: Login) -> None:
    token = accepted(login)
    login.slurm(squeue=f'case "$*" in *--jobs*) {FORGOTTEN} ;; esac', sacct=CANCELLED)
    (found,) = status.status(login.site())
    assert (found.verdict.gone, found.verdict.reason) == (True, f"Slurm says CANCELLED by {WHO}")
    login.slurm(squeue="exit 0", sacct="echo 'sacct: error: not asked again' >&2; exit 1")
    assert status.status(login.site()) == ()
    (kept,) = status.last_ended(login.site(), "demo")
    assert (kept.token, kept.verdict, kept.as_json()["job_id"]) == (token, found.verdict, "77")


def test_accounting_that_does_not_answer_leaves_it_unknown(login: Login) -> None:
    token = accepted(login)
    os.utime(login.shared / "deployments/demo" / str(token) / "manifest.json", (1, 1))
    login.slurm(
        squeue=f'case "$*" in *--jobs*) {FORGOTTEN} ;; esac',
        sacct="echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1",
    )
    look = login.site().look()
    assert judge(login.site().see(look, look.directory(token))).state is State.UNKNOWN
    with pytest.raises(OutcomeUnknown):
        ending.end(login.site(), login.ports(), token)


def test_a_job_that_came_and_went_without_a_receipt_is_found_in_the_accounting(login: Login) -> None:
    login.slurm(
        sbatch="echo 'sbatch: error: Batch job submission failed: Socket timed out' >&2; exit 1", sacct=CANCELLED
    )
    result = login.submit()
    assert isinstance(result, Submitted)
    assert result.job_id == "77"


def test_a_controller_that_does_not_answer_is_unknown(login: Login) -> None:
    token = accepted(login)
    login.slurm(squeue="echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    site = login.site()
    look = site.look()
    assert look.answered is False
    assert judge(site.see(look, look.directory(token))).state is State.UNKNOWN


def gone_when_cancelled(login: Login) -> None:
    """Slurm lists the row until scancel was called, and then says that it holds nothing."""
    cancelled = login.path / "cancelled"
    login.slurm(scancel=f"touch {cancelled}", sacct=CANCELLED)
    login.slurm(
        squeue=f'if [ -e {cancelled} ]; then case "$*" in *--jobs*) {FORGOTTEN} ;; esac; else cat {login.path}/row; fi'
    )


def test_ending_goes_on_until_slurm_says_gone(login: Login) -> None:
    token = accepted(login)
    login.row("77", "PENDING", token)
    gone_when_cancelled(login)
    ended = ending.end(login.site(), login.ports(), token)
    assert (ended.job_id, ended.submitted) == ("77", True)
    assert (login.shared / "archive" / str(token)).is_dir()


def test_ending_that_cannot_be_shown_is_unknown_with_the_token(login: Login) -> None:
    token = accepted(login)
    login.row("77", "COMPLETING", token)
    with pytest.raises(OutcomeUnknown) as caught:
        ending.end(login.site(), login.ports(), token)
    assert caught.value.token == str(token)
    assert "nemodeploy status demo" in caught.value.hint


def test_a_watcher_asks_the_controller_at_most_four_times_a_minute(login: Login) -> None:
    token = Token.make("demo", milliseconds=1, entropy=1)
    login.row("77", "PENDING", token, "Priority")
    gone_when_cancelled(login)
    budget = Budget(queue_s=600.0, startup_s=60.0)
    with pytest.raises(QueueTimeout, match="no nodes within 600 s"):
        up(login.site(), login.ports(), login.request(budget))
    asked = (login.path / "calls").read_text().count("squeue --me")
    assert 40 <= asked <= 5 + 600 / 15 + 5
    assert any("queued Priority: other jobs come first" in line for line in login.listener.lines)


def test_a_queue_reason_that_never_heals_ends_the_wait_at_once(login: Login) -> None:
    login.row("77", "PENDING", Token.make("demo", milliseconds=1, entropy=1), "PartitionTimeLimit")
    gone_when_cancelled(login)
    budget = Budget(queue_s=None, startup_s=60.0)
    with pytest.raises(QueueTimeout, match="would have waited for ever: PartitionTimeLimit"):
        up(login.site(), login.ports(), login.request(budget))
    assert login.clock.time < 10


def test_a_take_that_was_held_up_until_its_token_was_withheld_submits_nothing(login: Login) -> None:
    token = login.token("demo")
    assert login.site().withhold(token)
    login.site().archive({token: ""})
    late = login.site().take(token, dict(login.wanted.bundle.files), None)
    assert "was taken back" in late.problem
    assert login.submissions() == 0
    assert not (login.shared / "deployments/demo" / str(token)).exists()


def test_finishing_anothers_submission_does_not_make_it_ours(login: Login) -> None:
    token = accepted(login)
    submit = login.shared / "deployments/demo" / str(token) / "submit"
    for name in ("sbatch.rc", "sbatch.out", "sbatch.err"):
        (submit / name).unlink()  # its sbatch is still at it
    ours: list[Token] = []
    login.slurm(sleep=f"cd {submit}; echo 77 >sbatch.out; >sbatch.err; echo 0 >sbatch.rc; exec /bin/sleep 0.02")
    found = obtain(login.site(), login.ports(), login.request(), ours, IfTaken.ADOPT)
    assert (found, ours) == ((token, False), [])
    assert login.submissions() == 1


def test_a_stray_of_another_root_is_not_ours(login: Login) -> None:
    ours, token = accepted(login), login.token("demo")
    elsewhere = login.path / "elsewhere/deployments/demo" / str(token)
    elsewhere.mkdir(parents=True)
    login.row("78", "RUNNING", token, directory=str(elsewhere))
    assert [found.token for found in login.site().look().directories] == [ours]
    for place in (f"{login.shared}/deployments/demo/{token}", f"/not/there/deployments/demo/{token}", "/elsewhere"):
        login.row("78", "RUNNING", token, directory=place)
        assert [found.token for found in login.site().look().directories] == [ours, token], place


def test_a_name_whose_run_directory_is_gone_is_not_free_while_its_job_lives(login: Login) -> None:
    token = accepted(login)
    directory = login.shared / "deployments/demo" / str(token)
    login.row("77", "RUNNING", token, directory=str(directory))
    shutil.rmtree(directory)
    with pytest.raises(PreflightFailed, match="alive without its run directory") as told:
        up(login.site(), login.ports(), login.request(Budget(queue_s=None, startup_s=9.0)))
    assert "nemodeploy down demo" in told.value.hint
    assert login.submissions() == 1


def test_a_renewal_that_cannot_be_written_is_told(login: Login) -> None:
    token = accepted(login)
    directory = login.shared / "deployments/demo" / str(token)
    assert login.site().renew(token) is None
    assert login.site().renew(token, 60) == 60
    login.slurm(mv='echo "no space left" >&2; exit 1')
    with pytest.raises(ClusterUnreachable, match=r"lease of .* cannot be written .*no space left"):
        login.site().renew(token, 600)
    assert (directory / "lease").read_text().startswith("60 ")
    assert not list(directory.glob("lease.*"))


@pytest.mark.parametrize(
    ("meanwhile", "left"), [("rm -f {}", None), ("echo 600 other >{}", "600 other\n")], ids=["no-ttl", "ttl"]
)
def test_a_renewal_undoes_nothing_that_keep_did_meanwhile(login: Login, meanwhile: str, left: str | None) -> None:
    """`keep` comes between the reading and the writing of a renewal."""
    token = accepted(login)
    lease = login.shared / "deployments/demo" / str(token) / "lease"
    login.site().renew(token, 60)
    login.slurm(mv=f'{meanwhile.format(lease)}; exec /bin/mv "$@"')
    assert login.site().renew(token) == (None if left is None else 600)
    assert (lease.read_text() if lease.exists() else None) == left


def test_a_renewal_makes_a_lease_young(login: Login) -> None:
    token = accepted(login)
    login.site().renew(token, 60)
    os.utime(login.shared / "deployments/demo" / str(token) / "lease", (1, 1))
    assert login.site().renew(token) == 60
    assert login.site().remains().renewed[token] < 60


def test_an_archived_directory_is_as_old_as_its_archiving(login: Login) -> None:
    token = accepted(login)
    os.utime(login.shared / "deployments/demo" / str(token), (1, 1))
    login.site().archive({token: ""})
    assert login.site().remains().archived[token] < 60


def test_ages_are_by_the_file_systems_clock(login: Login) -> None:
    token = accepted(login)
    login.site().renew(token, 60)
    login.slurm(date='[ "$1" = +%s ] && echo 4000000000 || exec /bin/date "$@"')
    assert login.site().remains().renewed[token] < 60


def test_a_pipe_in_a_run_directory_does_not_block_a_look(login: Login) -> None:
    token = accepted(login)
    manifest = login.shared / "deployments/demo" / str(token) / "manifest.json"
    manifest.unlink()
    os.mkfifo(manifest)
    found = login.site().look().directories
    assert [one.token for one in found] == [token]


def test_a_connection_that_breaks_after_the_job_was_found_is_no_failure(
    login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    login.slurm(sbatch="echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1")
    token = login.token("demo")
    login.row("77", "PENDING", token)
    login.ports().journal.note(token, step="intent")

    def breaks(*_: object) -> None:
        raise ClusterUnreachable("cut")

    monkeypatch.setattr(Site, "keep_job_id", breaks)
    site, plan, bundle = login.site(), login.wanted.plan, login.wanted.bundle
    assert submitting.take_and_submit(site, login.ports(), token, plan, bundle, secrets={}) == Submitted(
        token=token, job_id="77"
    )


def test_sbatch_is_out_of_reach_of_an_interrupt_at_this_terminal(login: Login) -> None:
    login.slurm(sbatch=f"ps -o sid= -p $$ >{login.path}/session; echo 77")
    accepted(login)
    assert int((login.path / "session").read_text()) != os.getsid(0)


def test_what_its_owner_came_back_to_is_not_reaped(login: Login) -> None:
    token = accepted(login)
    login.row("77", "RUNNING", token)
    site, ports = login.site(), login.ports()
    ports.journal.forget(token)  # the command that started it is over
    site.renew(token, 60)
    lease = login.shared / "deployments/demo" / str(token) / "lease"
    for file in (lease, lease.with_name("renewed")):
        os.utime(file, (1, 1))
    found = reap.survey(site, ports, "me@here", older_than_s=9e9)
    assert [(one.token, one.action) for one in found] == [(token, reap.END)]
    site.renew(token)
    assert reap.act(site, ports, found, "me@here", older_than_s=9e9) == []
    assert lease.exists()
    assert "scancel" not in (login.path / "calls").read_text()
    for file in (lease, lease.with_name("renewed")):
        os.utime(file, (1, 1))
    gone_when_cancelled(login)
    assert reap.act(site, ports, found, "me@here", older_than_s=9e9) == []
    assert not lease.exists()


def archived(login: Login) -> Token:
    """One that was submitted, ran, and was taken down."""
    token = accepted(login)
    directory = login.shared / "deployments/demo" / str(token)
    epoch = directory / "epochs/77.0"
    (epoch / "logs").mkdir(parents=True)
    (epoch / "logs/h100-1.3.log").write_text("loading\nCUDA out of memory. Tried to allocate 2 GiB\n")
    record = {"epoch": "77.0", "cause": "server_exited", "rank": 3, "rank_status": 1, "status": 1, "elapsed_s": 90}
    (epoch / "exit.json").write_text(json.dumps(record))
    (epoch / "events.jsonl").write_text('{"at": 1000, "elapsed_s": 0, "phase": "starting", "cause": ""}\n')
    (directory / "current").symlink_to("epochs/77.0")
    login.site().archive({token: ""})
    return token


def test_what_has_ended_is_still_told_with_its_cost_and_its_cause(login: Login) -> None:
    token = archived(login)
    assert status.status(login.site()) == ()
    (found,), left_out = status.ended(login.site(), within_s=3600)
    assert left_out == 0
    assert (found.token, found.verdict.state, found.verdict.reason) == (token, State.ENDED, "the server program ended")
    told = status.detail(login.site(), found)
    assert told.gpu_hours == told.gpu_hours_before_ready == round(16 * 90 / 3600, 3)
    assert {State.STARTING, State.ENDED} < {event.state for event in told.events}
    assert told.directory == str(login.shared / "archive" / str(token))
    assert told.why is not None
    assert told.why.text == "the server program ended (rank 3), exit 1: the GPU ran out of memory"
    assert told.why.shown.line == "CUDA out of memory. Tried to allocate 2 GiB"
    os.utime(login.shared / "archive" / str(token), (1, 1))
    assert status.ended(login.site(), within_s=3600) == ((), 0)
    assert [one.token for one in status.last_ended(login.site(), "demo")] == [token]


def waited(login: Login, goal: str, timeout_s: float | None = 60.0) -> status.Deployment | None:
    (first,) = status.status(login.site()) or status.last_ended(login.site(), "demo")
    return waiting.wait(login.site(), login.ports(), first, goal, timeout_s=timeout_s)


def test_waiting_says_what_it_was_at_when_the_time_was_over(login: Login) -> None:
    token = accepted(login)
    login.row("77", "PENDING", token, "Priority")
    with pytest.raises(QueueTimeout, match="is not ready after 60 s: QUEUED Priority"):
        waited(login, waiting.READY)
    login.row("77", "RUNNING", token)
    with pytest.raises(StartupTimeout, match="STARTING the job has begun"):
        waited(login, waiting.READY)
    asked = (login.path / "calls").read_text().count("squeue --me")
    assert asked <= 2 * (1 + 4 + 60 / 15 + 1) + 3
    login.slurm(squeue="exit 1")
    with pytest.raises(OutcomeUnknown, match="Slurm did not answer"):
        waited(login, waiting.READY)


def test_waiting_for_the_end_is_over_with_it(login: Login) -> None:
    token = accepted(login)
    login.row("77", "FAILED", token)
    found = waited(login, waiting.ENDED)
    assert found is not None
    assert found.verdict.gone
    with pytest.raises(JobEnded, match="Slurm says FAILED: its cause is unknown"):
        waited(login, waiting.READY)


def test_the_intent_is_on_disk_before_anything_is_sent(login: Login) -> None:
    noted: list[Mapping[str, str]] = []

    class Noting(LocalTransport):
        def open(self) -> None:
            noted.append(login.notes())

        def run(self, command: Command) -> Completed:
            noted.append(login.notes())
            return super().run(command)

    site = Site(login.wanted.cluster, Noting(), login.nonce)
    token, made = obtain(site, login.ports(), login.request(), [], IfTaken.ADOPT)
    assert made
    assert len(noted) > 2
    assert all(str(token) in notes and '"intent"' in notes[str(token)] for notes in noted)


@pytest.mark.parametrize(
    ("state", "meaning"),
    [
        ("OUT_OF_MEMORY", "the memory of a node ran out"),
        ("NODE_FAIL", "a node failed"),
        ("PREEMPTED", "a job of higher priority took its nodes"),
        ("TIMEOUT", "its time limit was reached"),
        ("FAILED", "the GPU ran out of memory"),
    ],
)
def test_f27_slurms_own_word_for_an_end_comes_before_any_log_line(login: Login, state: str, meaning: str) -> None:
    token = archived(login)
    shutil.move(login.shared / "archive" / str(token), login.shared / "deployments/demo")
    login.row("77", state, token)
    (found,) = status.status(login.site())
    told = status.detail(login.site(), found)
    assert told.why is not None
    assert told.why.text == f"the server program ended (rank 3), exit 1, Slurm says {state}: {meaning}"


def test_whoever_made_go_submits_even_when_nobody_reads_any_more(login: Login) -> None:
    token = accepted(login)
    directory = login.shared / "deployments/demo" / str(token)
    for name in ("sbatch.rc", "sbatch.out", "sbatch.err"):
        (directory / "submit" / name).unlink()
    (directory / "submit/go").rmdir()
    reader, writer = os.pipe()
    os.close(reader)  # the connection is gone
    script = receipt_script(str(directory), token)
    with subprocess.Popen(["sh", "-s"], stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.DEVNULL) as shell:
        os.close(writer)
        shell.communicate(script.encode(), timeout=30)
    for _ in range(100):
        if (directory / "submit/sbatch.rc").exists():
            break
        time.sleep(0.05)
    assert login.submissions() == 2


def test_a_link_that_leads_to_no_deployment_is_told(login: Login) -> None:
    (login.shared / "deployments/demo").mkdir(parents=True)
    (login.shared / "deployments/demo/active").symlink_to("..")
    with pytest.raises(PreflightFailed, match="active leads to no deployment of ours"):
        login.submit()
    assert login.submissions() == 0


def test_after_the_last_of_a_name_nothing_of_the_name_is_left(login: Login) -> None:
    first = archived(login)
    (login.shared / "archive" / f"{first}-of-another").mkdir()
    login.site().remove(first)
    assert [path.name for path in (login.shared / "archive").iterdir()] == [f"{first}-of-another"]
    assert list((login.shared / "deployments").iterdir()) == []
    assert login.site().look().directories == ()


def test_what_is_up_is_not_removed_and_neither_is_its_name(login: Login) -> None:
    first = archived(login)
    second = login.submit(after=first)
    assert isinstance(second, Submitted)
    for token in (first, second.token):
        login.site().remove(token)
        assert [one.token for one in login.site().look().directories] == [second.token]
    assert not (login.shared / "archive" / str(first)).exists()


def test_what_slurm_granted_is_told_of_one_that_runs(login: Login) -> None:
    token = accepted(login)
    login.slurm(scontrol="echo '   JOB_GRES=gpu:a100:16'")
    login.row("77", "RUNNING", token)
    (one,) = status.status(login.site())
    assert status.detail(login.site(), one).as_json()["granted_gpus"] == [{"type": "a100", "count": 16}]
    login.row("77", "PENDING", token)
    (one,) = status.status(login.site())
    assert status.detail(login.site(), one).as_json()["granted_gpus"] == []
