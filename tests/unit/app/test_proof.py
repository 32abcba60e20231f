"""When an end is believed, and whose job a row of the queue is: one witness is not enough."""

from __future__ import annotations

import json

import pytest

from nemodeploy.app import ending, status
from nemodeploy.app.down import living
from nemodeploy.app.logs import show
from nemodeploy.app.submitting import Submitted
from nemodeploy.app.up import up
from nemodeploy.core.patience import Budget
from nemodeploy.core.readiness import State
from nemodeploy.errors import ClusterUnreachable, OutcomeUnknown, PreflightFailed
from nemodeploy.values import Token
from tests.unit.app.test_site import FORGOTTEN, NO_ACCOUNTING, WIDTHS, Login, accepted, login

__all__ = ["login"]


def slurm_lists(login: Login, *, name: str, directory: str, state: str = "PENDING", alone: str = "") -> None:
    """Job 77 as squeue shows it until scancel is called: among all, and (`alone`: in another state) asked for by id."""
    values = {"JobID": "77", "RestartCnt": "0", "State": state, "Name": name, "WorkDir": directory}
    row = "".join(values.get(key, "").ljust(width) for key, width in WIDTHS.items())
    (login.path / "row").write_text(row + "\n")
    gone = f"[ -e {login.path}/cancelled ]"
    login.slurm(
        scancel=f"touch {login.path}/cancelled",
        squeue=f"""case "$*" in
  *"-o %Z"*) echo {directory} ;;
  *--jobs*) if {gone}; then {FORGOTTEN}; fi; echo "job|77|{alone or state}|$(id -u)|{directory}|{name}" ;;
  *) {gone} || cat {login.path}/row ;;
esac""",
        sacct=f'if {gone}; then echo "77|CANCELLED|x"; else {NO_ACCOUNTING}; fi',
    )


def place(login: Login, token: Token) -> str:
    return str(login.shared / "deployments/demo" / str(token))


def calls(login: Login, program: str) -> list[str]:
    return [line for line in (login.path / "calls").read_text().splitlines() if f"/{program} " in line]


def state(login: Login) -> status.Deployment:
    (found,) = status.status(login.site(), "demo")
    return found


def test_a_job_that_was_renamed_is_shown_and_ended_by_its_id(login: Login) -> None:
    token = accepted(login)
    slurm_lists(login, name="another", directory=place(login, token))
    assert state(login).verdict.state is State.QUEUED
    assert ending.end(login.site(), login.ports(), token).job_id == "77"
    assert any(line.endswith(" 77") for line in calls(login, "scancel"))


def test_a_job_that_was_renamed_is_adopted_and_nothing_is_submitted_twice(login: Login) -> None:
    token = accepted(login)
    slurm_lists(login, name="another", directory=place(login, token))
    with pytest.raises(OutcomeUnknown, match="is left alone"):
        up(login.site(), login.ports(), login.request(Budget(queue_s=1.0, startup_s=1.0)))
    assert login.submissions() == 1


def test_a_renamed_job_whose_run_directory_is_lost_keeps_its_name(login: Login) -> None:
    token = accepted(login)
    slurm_lists(login, name="another", directory=place(login, token))
    (login.shared / "deployments").rename(login.shared / "lost")
    assert [str(one) for one in living(login.site(), ("demo",)).tokens] == [str(token)]
    with pytest.raises(PreflightFailed, match="alive without its run directory"):
        up(login.site(), login.ports(), login.request(Budget(queue_s=1.0, startup_s=1.0)))


def test_a_job_that_runs_in_another_place_is_ours_by_its_name(login: Login) -> None:
    token = accepted(login)
    slurm_lists(login, name=str(token), directory="/moved")
    assert state(login).verdict.state is State.QUEUED


def test_a_job_with_our_id_alone_may_be_ours_and_is_not_cancelled(login: Login) -> None:
    token = accepted(login)
    slurm_lists(login, name="another", directory="/moved")
    found = state(login).verdict
    assert (found.state, found.gone) == (State.UNKNOWN, False)
    assert "another name and another directory" in found.reason
    assert [str(one) for one in living(login.site(), ("demo",)).tokens] == [str(token)]
    login.slurm(scancel="exit 0")
    with pytest.raises(OutcomeUnknown, match="77"):
        ending.end(login.site(), login.ports(), token)
    assert not any(line.endswith(" 77") for line in calls(login, "scancel"))


def test_an_id_is_no_refusal_whatever_else_was_said(login: Login) -> None:
    login.slurm(sbatch="echo 77; echo 'sbatch: error: site hook: cannot write the usage log' >&2; exit 1")
    login.row("77", "PENDING", Token.make("demo", milliseconds=1, entropy=1))
    result = login.submit()
    assert isinstance(result, Submitted)
    assert (result.job_id, login.submissions()) == ("77", 1)


def test_of_two_ids_the_queue_tells_which_one_is_ours(login: Login) -> None:
    login.slurm(sbatch="echo 77; echo Submitted batch job 4242")
    token = Token.make("demo", milliseconds=1, entropy=1)
    login.row("78", "PENDING", token)
    result = login.submit()
    assert isinstance(result, Submitted)
    assert (result.job_id, login.submissions()) == ("78", 1)
    assert login.site().look().directory(token).submit_out == "78", "whoever looks later is not misled"


def test_logs_of_a_root_that_cannot_be_read_are_not_missing(login: Login) -> None:
    (login.shared / "archive").parent.mkdir(exist_ok=True)
    (login.shared / "archive").symlink_to("archive")
    with pytest.raises(ClusterUnreachable, match="symbolic links"):
        show(login.site(), "demo", print, sleep=lambda _: None)


def test_one_wrong_row_of_an_ended_job_is_no_end(login: Login) -> None:
    token = accepted(login)
    slurm_lists(login, name=str(token), directory=place(login, token), state="COMPLETED", alone="RUNNING")
    found = state(login).verdict
    assert (found.state, found.gone) == (State.UNKNOWN, False)
    assert found.reason == "Slurm lists it as COMPLETED; asked for it alone, it says that it lives"
    assert ending.end(login.site(), login.ports(), token).job_id == "77"
    assert calls(login, "scancel"), "it was cancelled, not only archived"


def test_the_accounting_overrules_a_wrong_row(login: Login) -> None:
    token = accepted(login)
    slurm_lists(login, name=str(token), directory=place(login, token), state="COMPLETED")
    login.slurm(sacct=f'echo "77|RUNNING|{token}"')
    assert state(login).verdict.reason == "Slurm lists it as COMPLETED; its accounting says RUNNING"


def test_the_only_witness_of_a_site_is_asked_twice_by_separate_commands(login: Login) -> None:
    token = accepted(login)
    slurm_lists(login, name=str(token), directory=place(login, token), state="FAILED")
    login.slurm(sleep=f'[ "$1" != 10 ] || echo 10 >>{login.path}/pauses; exec /bin/sleep 0.02')
    assert state(login).verdict.gone
    assert (login.path / "pauses").read_text() == "10\n"
    assert sum("--jobs=77" in line for line in calls(login, "squeue")) == 2


def test_an_end_that_the_job_itself_tells_needs_no_second_question(login: Login) -> None:
    token = accepted(login)
    slurm_lists(login, name=str(token), directory=place(login, token), state="FAILED")
    epoch = login.shared / "deployments/demo" / str(token) / "epochs/77.0"
    epoch.mkdir(parents=True)
    (epoch / "exit.json").write_text(json.dumps({"epoch": "77.0", "cause": "server_exited", "status": 1}))
    (epoch.parents[1] / "current").symlink_to("epochs/77.0")
    assert state(login).verdict.gone
    assert not any("--jobs" in line for line in calls(login, "squeue"))


def test_a_root_that_cannot_be_read_is_no_empty_root(login: Login) -> None:
    accepted(login)
    deployments = login.shared / "deployments"
    deployments.rename(login.shared / "elsewhere")
    assert status.status(login.site()) == ()
    deployments.symlink_to("deployments")  # a loop: as good as a stale file handle
    with pytest.raises(ClusterUnreachable, match=r"cannot be read: .*symbolic links"):
        status.status(login.site())
    deployments.unlink()
    deployments.write_text("")
    with pytest.raises(ClusterUnreachable, match="is not a directory"):
        status.status(login.site())


def test_an_archive_that_cannot_be_read_is_not_empty(login: Login) -> None:
    accepted(login)
    archive = login.shared / "archive"
    archive.rmdir()
    assert status.last_ended(login.site(), "demo") == ()
    archive.symlink_to("archive")
    for ask in (lambda: status.last_ended(login.site(), "demo"), lambda: status.ended(login.site(), within_s=9)):
        with pytest.raises(ClusterUnreachable, match="symbolic links"):
            ask()


def test_one_name_is_found_among_thousands_of_archived_runs(login: Login) -> None:
    archive = login.shared / "archive"
    tokens = [Token.make(f"other-{number % 7}", milliseconds=number, entropy=number) for number in range(3000)]
    wanted = Token.make("demo", milliseconds=1, entropy=1)
    for token in (*tokens, wanted):
        (archive / str(token) / "submit/go").mkdir(parents=True)
    (found,) = status.last_ended(login.site(), "demo")
    assert found.token == wanted
    shown, left_out = status.ended(login.site(), within_s=3600)
    assert (len(shown), left_out) == (500, 2501)
    assert shown[-1].token == tokens[-1], "the newest are shown, the latest last"


def test_an_answer_that_was_cut_is_a_failure_and_no_empty_answer(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted(login)
    monkeypatch.setattr("nemodeploy.adapters.transports.local.OUTPUT_CAP", 300)
    with pytest.raises(ClusterUnreachable, match="and was cut"):
        status.status(login.site())
