"""What must never be concluded from a question that failed, or from words that prove nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemodeploy.adapters.transports.local import LocalTransport
from nemodeploy.app import ending, submitting
from nemodeploy.app.down import Living, down, living
from nemodeploy.app.look import Look
from nemodeploy.app.site import Site
from nemodeploy.app.status import status
from nemodeploy.app.up import up
from nemodeploy.cli.status import View
from nemodeploy.core.patience import Budget
from nemodeploy.core.readiness import State, judge
from nemodeploy.core.submission import Receipt
from nemodeploy.errors import (
    AuthenticationFailed,
    BadInput,
    CancelledByUser,
    ClusterUnreachable,
    JobEnded,
    NemodeployError,
    OutcomeUnknown,
    PreflightFailed,
    StartupTimeout,
    SubmissionRefused,
)
from nemodeploy.values import Command, Completed, Token
from tests.unit.app.test_site import CANCELLED, FORGOTTEN, NO_ACCOUNTING, Login, accepted, gone_when_cancelled, login

__all__ = ["login"]
TOKEN = Token.make("demo", milliseconds=1, entropy=1)


class Breaking(LocalTransport):
    """A connection that breaks, with a given error, from a given call on."""

    def __init__(self, after: int, error: Exception) -> None:
        self.left, self.error = after, error

    def run(self, command: Command) -> Completed:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().run(command)


def run_up(login: Login, site: Site | None = None, *, startup_s: float = 60.0, queue_s: float | None = 60.0) -> None:
    login.count = 0
    budget = Budget(queue_s=queue_s, startup_s=startup_s)
    up(site or login.site(), login.ports(), login.request(budget))


def scripted_squeue(login: Login, *answers: str) -> None:
    """squeue gives these answers one after the other, the last one until scancel was called; then Slurm forgets."""
    for number, answer in enumerate(answers):
        (login.path / f"answer.{number}").write_text(answer)
    cancelled = login.path / "cancelled"
    login.slurm(
        scancel=f"touch {cancelled}",
        sacct=CANCELLED,
        squeue=f"""case "$*" in *--jobs*) {FORGOTTEN} ;; esac
[ ! -e {cancelled} ] || exit 0
n=$(cat {login.path}/asked 2>/dev/null || echo 0)
echo $((n + 1)) >{login.path}/asked
[ -e {login.path}/answer.$n ] || n={len(answers) - 1}
. {login.path}/answer.$n""",
    )


def test_one_failed_question_while_it_runs_cancels_nothing(login: Login) -> None:
    login.row("77", "RUNNING", TOKEN)
    row = f"cat {login.path}/row"
    scripted_squeue(login, row, row, row, row, row, "exit 1", row)
    with pytest.raises(StartupTimeout, match="no answer within 100 s"):
        run_up(login, startup_s=100.0, queue_s=30.0)
    assert login.clock.time > 100, "the queue clock does not run once the job has started"
    assert [line for line in login.listener.lines if line.startswith("unknown")] == [
        "unknown Slurm does not answer; asking again"
    ]
    assert len([line for line in login.listener.lines if line.startswith("known answered again after")]) == 1


def test_a_connection_lost_for_good_while_watching_is_50_with_the_token(login: Login) -> None:
    login.row("77", "RUNNING", TOKEN)
    site = Site(login.wanted.cluster, Breaking(4, ClusterUnreachable("gone")), login.nonce)
    with pytest.raises(OutcomeUnknown) as caught:
        run_up(login, site)
    assert caught.value.token == str(TOKEN)


def test_a_login_that_is_refused_while_watching_is_50_not_10(login: Login) -> None:
    login.row("77", "RUNNING", TOKEN)
    site = Site(login.wanted.cluster, Breaking(3, AuthenticationFailed("no")), login.nonce)
    with pytest.raises(OutcomeUnknown):
        run_up(login, site)


@pytest.mark.long
def test_an_accounting_that_does_not_answer_is_named_at_once_by_up_and_in_the_end_by_down(login: Login) -> None:
    login.row("77", "RUNNING", TOKEN)
    silent = "echo 'sacct: error: slurm_persist_conn_open: Connection refused' >&2; exit 1"
    scripted_squeue(login, f"cat {login.path}/row", f"cat {login.path}/row", "exit 0")
    login.slurm(sacct=silent)
    why = "Slurm does not list job 77; its accounting \\(sacct\\) does not answer"
    with pytest.raises(OutcomeUnknown, match=why):
        run_up(login, startup_s=9999.0, queue_s=None)
    told = [line for line in login.listener.lines if line.startswith("unknown")]
    assert told[0] == f"unknown {why.replace(chr(92), '')}; asking again"
    assert len(told) < 12
    with pytest.raises(OutcomeUnknown, match=why):
        ending.end(login.site(), login.ports(), TOKEN)


@pytest.mark.long
def test_a_controller_that_never_answers_again_is_50(login: Login) -> None:
    login.row("77", "RUNNING", TOKEN)
    scripted_squeue(login, f"cat {login.path}/row", "exit 1")
    with pytest.raises(OutcomeUnknown, match="Slurm does not answer"):
        run_up(login, startup_s=9999.0, queue_s=None)
    told = [line for line in login.listener.lines if line.startswith("unknown")]
    assert 8 <= len(told) <= 11, "a line a minute for ten minutes"


def test_an_sbatch_that_was_killed_proves_nothing(login: Login) -> None:
    login.slurm(sbatch="echo Terminated >&2; exit 143")
    with pytest.raises(OutcomeUnknown):
        login.submit()
    assert login.submissions() == 1


def test_a_controller_that_cannot_be_reached_is_11(login: Login) -> None:
    said = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"
    login.slurm(sbatch=f"echo '{said}' >&2; exit 1")
    with pytest.raises(ClusterUnreachable, match="nothing was submitted"):
        login.submit()


def test_a_one_shot_that_vanished_does_not_block_the_name_for_ever(login: Login) -> None:
    token = accepted(login)
    directory = login.shared / "deployments/demo" / str(token)
    for name in ("sbatch.rc", "sbatch.out", "sbatch.err"):
        (directory / "submit" / name).unlink()
    ended = ending.end(login.site(), login.ports(), token)
    assert not ended.submitted
    assert login.clock.time >= ending.NO_SHOW_AFTER_S
    assert (login.shared / "archive" / str(token) / "revoked").exists(), "a job that comes after all ends at once"


def test_a_job_without_a_run_directory_is_seen_and_ended(login: Login) -> None:
    login.row("77", "RUNNING", TOKEN)
    (login.path / "later").rename(login.path / "row")
    look = login.site().look()
    (stray,) = look.directories
    assert judge(login.site().see(look, stray)).state is State.UNKNOWN
    gone_when_cancelled(login)
    (end,) = down(login.site(), login.ports(), living(login.site(), ("demo",))).values()
    assert isinstance(end, ending.Ended)
    assert end.job_id == "77"


def test_a_newer_versions_deployment_is_unknown_and_can_be_ended(login: Login) -> None:
    token = accepted(login)
    path = login.shared / "deployments/demo" / str(token) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": "nemodeploy/manifest@9"}))
    login.row("77", "RUNNING", token)
    look = login.site().look()
    assert judge(login.site().see(look, look.directory(token))).state is State.UNKNOWN
    gone_when_cancelled(login)
    assert ending.end(login.site(), login.ports(), token).job_id == "77"


def test_one_that_cannot_be_ended_does_not_save_the_others(login: Login) -> None:
    token = accepted(login)
    login.row("77", "COMPLETING", token)
    other = Token.make("other", milliseconds=5, entropy=5)
    results = down(login.site(), login.ports(), Living(tokens=(token, other), look=login.site().look()))
    assert {one: type(result) for one, result in results.items()} == {token: OutcomeUnknown, other: ending.Ended}


def test_a_full_journal_after_the_submission_changes_nothing(login: Login) -> None:
    journal = login.path / "state/journal"
    journal.mkdir(parents=True)
    login.slurm(sbatch=f"rm -rf {journal}; echo no >{journal}; echo 77")
    assert str(accepted(login)).startswith("nd-demo-")


def test_an_adopting_clients_patience_ends_nobody_elses_job(login: Login) -> None:
    token = accepted(login)
    login.row("77", "PENDING", token, "Priority")
    budget = Budget(queue_s=5.0, startup_s=5.0)
    with pytest.raises(OutcomeUnknown, match="is left alone"):
        up(login.site(), login.ports(), login.request(budget))
    assert "scancel" not in (login.path / "calls").read_text()


def test_a_job_that_is_ending_is_waited_for_and_then_followed(login: Login) -> None:
    token = accepted(login)
    login.row("77", "COMPLETING", token)
    row = f"cat {login.path}/row"
    scripted_squeue(login, row, row, "exit 0")
    budget = Budget(queue_s=60.0, startup_s=60.0)
    with pytest.raises(JobEnded):
        up(login.site(), login.ports(), login.request(budget))
    assert login.submissions() == 2
    assert (login.shared / "archive" / str(token)).is_dir()


@pytest.mark.parametrize("key", ["root", "ssh", "transport"])
def test_where_a_deployment_lives_is_said_in_the_cluster_file_only(login: Login, key: str) -> None:
    with pytest.raises(BadInput, match="belongs in the cluster file"):
        login.want(login.path / "here.yaml", **{key: "/elsewhere"})


def test_a_file_system_without_links_is_said_so(login: Login, tmp_path: Path) -> None:
    login.slurm(ln="exit 1")
    with pytest.raises(PreflightFailed, match="no symbolic link can be made"):
        login.submit()
    assert login.submissions() == 0


def test_a_long_grace_is_waited_for_and_then_the_job_is_killed(login: Login) -> None:
    token = accepted(login)
    path = login.shared / "deployments/demo" / str(token) / "manifest.json"
    document = json.loads(path.read_text())
    document["plan"]["grace_s"] = 300
    path.write_text(json.dumps(document))
    login.row("77", "RUNNING", token)
    login.slurm(scancel="exit 0")
    with pytest.raises(OutcomeUnknown):
        ending.end(login.site(), login.ports(), token)
    calls = [line for line in (login.path / "calls").read_text().splitlines() if "/scancel " in line]
    assert "--signal=TERM" in calls[0]
    assert "--signal=TERM" not in calls[-1]
    assert login.clock.time > 300


def test_what_somebody_else_took_down_while_nobody_looked_has_ended(login: Login) -> None:
    login.row("77", "RUNNING", TOKEN)
    row, where = f"cat {login.path}/row", login.shared
    moved = f"mkdir -p {where}/archive; mv {where}/deployments/demo/{TOKEN} {where}/archive/ 2>/dev/null; exit 0"
    scripted_squeue(login, row, row, row, moved)
    with pytest.raises(JobEnded, match="job 77 ended"):
        run_up(login, startup_s=9999.0)


@pytest.mark.parametrize(("looks", "error"), [(3, JobEnded), (0, OutcomeUnknown)])
def test_a_run_directory_that_is_lost_is_not_watched_for_ever(
    login: Login, looks: int, error: type[NemodeployError]
) -> None:
    """Its job's id is known after a look; without that nobody can say what became of it."""
    login.row("77", "RUNNING", TOKEN)
    row = f"cat {login.path}/row"
    scripted_squeue(login, *[row] * looks, f"rm -rf {login.shared}/deployments/demo; exit 0")
    login.slurm(sacct=NO_ACCOUNTING)
    with pytest.raises(error) as caught:
        run_up(login, startup_s=99999.0, queue_s=None)
    assert caught.value.token == str(TOKEN)


def test_nothing_found_while_slurm_is_silent_is_no_answer(login: Login) -> None:
    login.slurm(squeue="exit 1")
    with pytest.raises(ClusterUnreachable, match="nobody can say that nothing is up"):
        status(login.site(), "demo")
    with pytest.raises(ClusterUnreachable, match="nobody can say that nothing is up"):
        living(login.site(), ("demo",))


def test_who_watches_is_not_told_of_an_older_end_when_nobody_answered() -> None:
    def silent(*_: object, **__: object) -> None:
        raise ClusterUnreachable("no answer")

    def older(**_: object) -> None:
        raise AssertionError("it is not asked for what has ended")

    site: Any = SimpleNamespace(cluster=SimpleNamespace(name="c", option=""), look=silent, archived=older)
    view = View(sites=[site], broken=[], name="demo", back_s=None, as_json=False, utc=True)
    assert view.once(keep_on=True) == "c: UNKNOWN, no answer"
    with pytest.raises(ClusterUnreachable):
        view.once()


def test_a_second_interrupt_while_somebody_is_asked_is_a_yes(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(LocalTransport):
        left = 4

        def run(self, command: Command) -> Completed:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return super().run(command)

    def again(_: str) -> bool:
        raise KeyboardInterrupt

    login.row("77", "RUNNING", TOKEN)
    gone_when_cancelled(login)
    monkeypatch.setattr(login.listener, "wants_cancel", again)
    with pytest.raises(CancelledByUser, match="job 77 is verified gone"):
        run_up(login, Site(login.wanted.cluster, Interrupted(), login.nonce))


def test_a_host_without_a_scheduler_is_called_the_host(login: Login) -> None:
    site = Site(replace(login.wanted.cluster, scheduler="none"), LocalTransport(), login.nonce)
    error = "nothing was started: setsid is not installed here"
    with pytest.raises(SubmissionRefused, match=r"^The host refused the job: nothing was started"):
        submitting.read_receipt(site, login.ports(), TOKEN, Receipt(status=1, out="", error=error))
    looks = Look(answered=False, rows={}, directories=(), told_by=site.scheduler.called)
    with pytest.raises(ClusterUnreachable, match=r"^the host does not answer"):
        looks.named(None)
