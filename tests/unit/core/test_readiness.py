from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from nemodeploy.core.observation import Exit, Final, Health, RunDirectory
from nemodeploy.core.patience import Budget, Clocks, loaded_in, overdue, turn
from nemodeploy.core.readiness import Seen, State, Verdict, judge
from nemodeploy.core.witnesses import Trace, Word
from nemodeploy.schedulers.slurm import LIFE, Life, QueueRow
from nemodeploy.values import Endpoint, Epoch, Token

TOKEN = Token.make("demo", milliseconds=1, entropy=2)
PLAN = {"model": "m", "layout": {"gpus": 16}, "prompting": {"stop": []}}
EPOCH = Epoch("7", 0)


def row(state: str, reason: str = "None", restart: int = 0) -> QueueRow:
    return QueueRow(
        job_id="7",
        restart=restart,
        state=state,
        reason=reason,
        elapsed_s=1,
        left_s=9,
        start="",
        name=str(TOKEN),
        nodes="a",
    )


def health(phase: str = "serving", generated: bool = True, epoch: Epoch = EPOCH) -> Health:
    return Health(epoch=epoch, phase=phase, elapsed_s=1, ranks_joined=3, ranks=16, generated=generated)


def endpoint(epoch: Epoch = EPOCH, model: str = "m") -> Endpoint:
    return Endpoint(host="a", port=1424, protocol="p", model=model, epoch=epoch, nonce="n")


def directory(**facts: Any) -> RunDirectory:
    return RunDirectory(token=TOKEN, manifest={"plan": PLAN}, submitted=True, **facts)


@dataclass(frozen=True)
class Case:
    says: str
    seen: Seen
    state: State
    gone: bool = False


def seen(row: QueueRow | None, answered: bool = True, **facts: Any) -> Seen:
    job_id = facts.pop("job_id", "7" if row else "")
    kept = {key: facts.pop(key) for key in ("trace", "gone", "still", "refused") if key in facts}
    return Seen(directory=directory(**facts), answered=answered, row=row, job_id=job_id, **kept)


OLD = Epoch("7", 0)
ENDED = Exit(epoch=EPOCH, cause="server_exited", rank=3, rank_status=1, status=1, port=1424, elapsed_s=5)
CASES = (
    Case("a failed question is not an answer", seen(None, answered=False, job_id="7"), State.UNKNOWN),
    Case("an absent row is not an end", seen(None, job_id="7"), State.UNKNOWN),
    Case("an end that is proven is", seen(None, job_id="7", gone=True), State.ENDED, True),
    Case("a row of an ended job alone is not", seen(row("COMPLETED")), State.UNKNOWN),
    Case("no receipt, no row", seen(None), State.SUBMITTING),
    Case("withheld before it was submitted", seen(None, withheld=True), State.ENDED, True),
    Case("refused by sbatch", seen(None, submit_status=1, refused=True), State.ENDED, True),
    Case("no clear answer of sbatch", seen(None, submit_status=1), State.SUBMITTING),
    Case("pending", seen(row("PENDING", "Priority")), State.QUEUED),
    Case("running says nothing", seen(row("RUNNING")), State.STARTING),
    Case("an open port says nothing", seen(row("RUNNING"), health=health("listening", False)), State.STARTING),
    Case("generated, but no endpoint", seen(row("RUNNING"), health=health()), State.STARTING),
    Case("generated, with an endpoint", seen(row("RUNNING"), health=health(), endpoint=endpoint()), State.READY),
    Case("another model answers", seen(row("RUNNING"), health=health(), endpoint=endpoint(model="x")), State.STARTING),
    Case(
        "records of the run before a requeue",
        seen(row("RUNNING", restart=1), health=health(epoch=OLD), endpoint=endpoint(OLD)),
        State.STARTING,
    ),
    Case("queued again after a requeue", seen(row("PENDING"), health=health(), endpoint=endpoint()), State.QUEUED),
    Case("misses", seen(row("RUNNING"), health=health("degraded"), endpoint=endpoint()), State.DEGRADED),
    Case("its supervisor is ending it", seen(row("RUNNING"), health=health("stopping", False)), State.STOPPING),
    Case("exit.json, but Slurm still has it", seen(row("RUNNING"), exit=ENDED), State.STOPPING),
    Case("completing is not gone", seen(row("COMPLETING"), exit=ENDED), State.STOPPING),
    Case("suspended", seen(row("SUSPENDED"), health=health(), endpoint=endpoint()), State.DEGRADED),
    Case("failed", seen(row("FAILED"), exit=ENDED, gone=True), State.ENDED, True),
    Case("a state nobody knows is alive", seen(row("FLYING")), State.UNKNOWN),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_what_is_seen_is_judged(case: Case) -> None:
    verdict = judge(case.seen)
    assert (verdict.state, verdict.gone) == (case.state, case.gone)


def test_why_it_is_not_ready_is_said() -> None:
    generated = seen(row("RUNNING"), health=health())
    assert judge(generated).reason == "it has answered, but its endpoint.json of this run cannot be read"
    other = seen(row("RUNNING"), health=health(), endpoint=endpoint(model="x"))
    assert judge(other).reason.startswith("x answers, not ")


def test_a_silent_node_is_told_and_changes_nothing_by_itself() -> None:
    silent = replace(health(), silent_ranks=(8, 9, 10, 11, 12))
    told = judge(seen(row("RUNNING"), health=silent, endpoint=endpoint()))
    assert (told.state, told.reason) == (State.READY, "no sign of life from the node of rank 8, 9, 10, 11…")
    sick = judge(seen(row("RUNNING"), health=replace(silent, phase="degraded", silent_ranks=(8,)), endpoint=endpoint()))
    assert sick.reason == "the server does not answer; no sign of life from the node of rank 8"


def test_only_an_end_is_gone() -> None:
    assert all(judge(case.seen).state is State.ENDED for case in CASES if judge(case.seen).gone)


def test_every_slurm_state_gets_a_verdict() -> None:
    for state, life in LIFE.items():
        assert judge(seen(row(state), gone=True)).gone == (life is Life.ENDED)
        assert not judge(seen(row(state))).gone


def test_a_newer_versions_directory_is_unknown() -> None:
    newer = RunDirectory(token=TOKEN, manifest={"schema": "nemodeploy/manifest@9"})
    assert judge(Seen(directory=newer, answered=True, row=row("RUNNING"), job_id="7")).state is State.UNKNOWN


def test_the_reason_for_an_end_is_the_jobs_own_word() -> None:
    assert judge(seen(row("FAILED"), exit=ENDED, gone=True)).reason == "the server program ended"
    assert judge(seen(row("TIMEOUT"), gone=True)).reason == "Slurm says TIMEOUT"
    for cause in ("cancelled", "preempted", "time_limit"):  # its TERM was Slurm's, whatever the job took it for
        ended = replace(ENDED, cause=cause)
        assert judge(seen(row("PREEMPTED"), exit=ended, gone=True)).reason == "Slurm says PREEMPTED"


@pytest.mark.parametrize(
    ("trace", "why"),
    [
        (Trace(queue=Word.ENDED, account=Word.ALIVE, state="RUNNING"), "its accounting says RUNNING"),
        (Trace(queue=Word.ALIVE, account=Word.MISSING), "asked for it alone, it says that it lives"),
        (Trace(queue=Word.ABSENT, account=Word.SILENT), "its accounting (sacct) does not answer"),
        (Trace(queue=Word.ABSENT, account=Word.MISSING), "its files still change"),
        (Trace(queue=Word.MAYBE, account=Word.MISSING), "job 7 has another name and another directory now"),
    ],
)
def test_what_keeps_an_end_from_being_believed_is_said(trace: Trace, why: str) -> None:
    for one in (seen(row("COMPLETED"), trace=trace), seen(None, job_id="7", trace=trace)):
        assert judge(one).state is State.UNKNOWN
        assert judge(one).reason.endswith(why)


def ends(plan: dict[str, Any], cause: str, queue: QueueRow | None, *, revoked: bool = False) -> bool:
    directory = RunDirectory(
        token=TOKEN, manifest={"plan": {**PLAN, **plan}}, exit=replace(ENDED, cause=cause), revoked=revoked
    )
    return Seen(directory=directory, answered=True, row=queue, job_id="7").own_word


def test_a_jobs_last_word_counts_unless_slurm_may_start_it_again() -> None:
    assert ends({}, "preempted", None)
    assert not ends({"requeue": True}, "preempted", None)
    assert not ends({"requeue": True}, "cancelled", None)
    assert ends({"requeue": True}, "cancelled", None, revoked=True)
    assert ends({"requeue": True}, "server_exited", None)
    assert not ends({}, "server_exited", row("COMPLETED", restart=1)), "that was the run before"


STARTING = Verdict(state=State.STARTING)
QUEUED = Verdict(state=State.QUEUED)
BUDGET = Budget(queue_s=100.0, startup_s=60.0, stall_s=20.0)


def joined(ranks: int) -> Seen:
    return seen(row("RUNNING"), health=replace(health("joining", False), ranks_joined=ranks))


def test_queue_time_is_not_start_up_time() -> None:
    clocks = turn(Clocks(began=0.0), seen(row("PENDING")), QUEUED, 99.0)
    assert overdue(clocks, QUEUED, BUDGET, 99.0) == ""
    assert overdue(clocks, QUEUED, BUDGET, 101.0) == "queue"
    clocks = turn(clocks, joined(0), STARTING, 101.0)
    assert overdue(clocks, STARTING, BUDGET, 150.0) == ""


def test_start_up_is_extended_by_progress_and_ended_by_a_stall() -> None:
    clocks = turn(Clocks(began=0.0), joined(1), STARTING, 0.0)
    clocks = turn(clocks, joined(9), STARTING, 55.0)
    assert overdue(clocks, STARTING, BUDGET, 70.0) == ""
    clocks = turn(clocks, joined(9), STARTING, 70.0)
    assert overdue(clocks, STARTING, BUDGET, 76.0) == "startup"


def test_how_long_loading_will_take_is_told_once_its_speed_is_known() -> None:
    def at(percent: int, now: float, clocks: Clocks) -> tuple[Clocks, float | None]:
        told = seen(row("RUNNING"), health=replace(health("loading", False), progress=percent))
        clocks = turn(clocks, told, STARTING, now)
        return clocks, loaded_in(clocks, told.directory.health, now)

    clocks, left = at(10, 0.0, Clocks(began=0.0))
    clocks, left = at(10, 1.0, clocks)
    assert left is None
    clocks, left = at(12, 11.0, clocks)
    assert left is None, "two per cent are no speed"
    clocks, left = at(40, 61.0, clocks)
    assert left == pytest.approx(120.0)
    clocks, left = at(0, 70.0, clocks)
    assert left is None, "it began afresh"
    clocks, left = at(30, 80.0, clocks)
    assert left == pytest.approx(10 * 70 / 30)
    clocks, left = at(30, 85.0, clocks)
    assert left == pytest.approx(10 * 70 / 30 - 5)
    clocks, left = at(100, 90.0, clocks)
    assert left is None


def test_a_state_that_comes_and_goes_is_no_progress() -> None:
    clocks = turn(Clocks(began=0.0), joined(9), STARTING, 0.0)
    for second in range(1, 77, 5):
        clocks = turn(clocks, joined(9), Verdict(state=State.DEGRADED, reason=f"for {second} s"), float(second))
        clocks = turn(clocks, joined(9), STARTING, float(second))
    assert overdue(clocks, STARTING, BUDGET, 76.0) == "startup"


def test_a_requeued_job_gets_its_start_up_time_again() -> None:
    clocks = turn(Clocks(began=0.0), joined(9), STARTING, 0.0)
    queued = turn(clocks, seen(row("PENDING", restart=1)), QUEUED, 500.0)
    assert overdue(queued, QUEUED, BUDGET, 590.0) == ""
    assert overdue(queued, QUEUED, BUDGET, 601.0) == "queue"
    for before in (clocks, queued):  # whether the queue was seen or not
        again = turn(before, seen(row("RUNNING", restart=1)), STARTING, 700.0)
        assert overdue(again, STARTING, BUDGET, 759.0) == ""
        assert overdue(again, STARTING, BUDGET, 761.0) == "startup"


def test_a_job_is_silent_when_its_files_are_and_not_when_slurm_counts_a_prolog() -> None:
    late = replace(row("RUNNING"), elapsed_s=400)
    slow = seen(late, health=health(), endpoint=endpoint())
    assert slow.may_be_silent, "its clock is 399 s behind Slurm's"
    assert judge(slow).state is State.READY
    assert judge(replace(slow, still=True)).state is State.DEGRADED


def test_no_queue_limit_waits_for_ever() -> None:
    assert overdue(Clocks(began=0.0), QUEUED, Budget(queue_s=None, startup_s=1.0), 1e9) == ""


@pytest.mark.parametrize(
    "seen",
    [
        Seen(directory=RunDirectory(token=TOKEN, manifest={"plan": PLAN}), answered=answered, row=None, **more)
        for answered, more in (
            (False, {}),
            (True, {"refused": True}),
            (True, {"job_id": "7"}),
            (True, {"job_id": "7", "gone": True, "trace": Trace(state="FAILED", queue=Word.ENDED)}),
        )
    ],
)
def test_a_scheduler_is_called_by_its_own_name(seen: Seen) -> None:
    assert "Slurm" in judge(seen).reason, "this verdict names no scheduler"
    reason = judge(replace(seen, told_by="the host")).reason
    assert ("the host" in reason, "Slurm" in reason) == (True, False), reason


def test_the_clocks_of_a_start_up_stand_while_slurm_suspends_it() -> None:
    begun = turn(Clocks(began=0), joined(1), judge(joined(1)), 10)
    held = seen(row("SUSPENDED"), health=health("joining", generated=False))
    first = turn(begun, held, judge(held), 20)
    later = turn(first, held, judge(held), 4020)
    assert later.started == (begun.started or 0) + 4010
    assert overdue(later, judge(held), Budget(queue_s=None, startup_s=60, stall_s=60), 4021) == ""


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE", "TIMEOUT"])
def test_slurms_own_end_counts_before_the_jobs_cancelled(state: str) -> None:
    told = replace(ENDED, cause="cancelled")
    assert judge(seen(row(state), exit=told, gone=True)).reason == f"Slurm says {state}"
    kept = Final(job_id="7", restart=0, told_by="Slurm", state=state, said=state, nodes="", elapsed_s=None)
    archived = seen(None, exit=told, gone=True, job_id="7", final=kept)
    assert judge(archived).reason == f"Slurm says {state}"


def test_why_it_was_taken_back_is_told() -> None:
    told = replace(ENDED, cause="cancelled")
    why = "no answer within 60 s of start-up"
    assert judge(seen(row("COMPLETED"), exit=told, gone=True, revoked=True, revoked_why=why)).reason == why
