"""From what was seen to what is true: pure, total, and never more certain than the evidence."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Protocol

from nemodeploy.core import tempo
from nemodeploy.core.observation import Health, RunDirectory
from nemodeploy.core.witnesses import Trace, Word

# Ends that Slurm alone brings about: they count before what the job took its TERM for.
SLURMS_OWN = ("NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE", "TIMEOUT", "REVOKED")
# Ends of a run after which Slurm may start the same job again, where it may requeue it.
REQUEUED = ("preempted", "cancelled", "supervisor_ended")


class State(enum.Enum):
    """The life of a deployment."""

    SUBMITTING = "SUBMITTING"
    QUEUED = "QUEUED"
    STARTING = "STARTING"
    READY = "READY"
    DEGRADED = "DEGRADED"
    STOPPING = "STOPPING"
    ENDED = "ENDED"
    UNKNOWN = "UNKNOWN"


class Row(Protocol):
    """What a scheduler says of a job, in the words this module needs."""

    @property
    def job_id(self) -> str:
        """Its id."""

    @property
    def told_by(self) -> str:
        """The scheduler, as a sentence begins with it."""

    @property
    def restart(self) -> int:
        """How often it was requeued."""

    @property
    def state(self) -> str:
        """The scheduler's own word."""

    @property
    def kind(self) -> str:
        """waiting, running, paused, ending, ended or unknown."""

    @property
    def plain_reason(self) -> str:
        """Why it waits."""

    @property
    def elapsed_s(self) -> int | None:
        """How long it has been running."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One look at a deployment. `job_id` comes from the queue, the receipt or the accounting.

    `refused`: the submitter's own words prove that there never was a job.
    `row` None with `answered`: the scheduler listed no such job. `trace`: what its witnesses said, where they were
    asked. `gone`: they prove the end. `still`: its files have stopped changing, by the file system's own clock; asked
    for only where that matters. `told_by`: what the scheduler is called.
    """

    directory: RunDirectory
    answered: bool
    row: Row | None
    job_id: str = ""
    refused: bool = False
    trace: Trace = field(default_factory=Trace)
    gone: bool = False
    still: bool = False
    told_by: str = "Slurm"

    @property
    def account(self) -> str:
        """The accounting's own word; empty: it was not asked, or says nothing."""
        return self.trace.state

    @property
    def last_word(self) -> str:
        """The scheduler's on an end, in one line: its state, who cancelled it, what failed before it began; else what
        was kept when it was archived."""
        if self.directory.final:
            return self.directory.final.said
        state = self.row.state if self.row and self.row.kind == "ended" else ""
        if self.account and (not state or state == "CANCELLED"):  # sacct knows more than squeue
            state = self.account
        by = f" by {self.trace.by}" if self.trace.by and state == "CANCELLED" else ""
        failed = f": {self.trace.failed}" if self.trace.failed else ""
        return f"{state}{by}{failed}" if state else ""

    @property
    def last_state(self) -> str:
        """The state alone in that word; empty: there is none."""
        return self.last_word.partition(" ")[0].rstrip(":")

    @property
    def own_word(self) -> bool:
        """Whether the job itself has said that this run is over, and Slurm will not start another one of it. It is the
        word of the job that has claimed the token, whatever id the receipt holds: any other one ends at once."""
        ended, row = self.directory.exit, self.row
        if ended is None:
            return False
        if row is not None and ended.epoch.job_id == row.job_id and ended.epoch.restart < row.restart:
            return False
        comes_back = self.directory.plan.get("requeue") and not self.directory.revoked
        return not (comes_back and row is None and ended.cause in REQUEUED)

    @property
    def seems_ended(self) -> bool:
        """Whether the end has to be proven: the scheduler lists it in a final state, or does not list what it had."""
        if not self.answered or self.directory.withheld:
            return False
        if self.row is None:
            return bool(self.job_id) or self.directory.submitted
        return self.row.kind == "ended"

    @property
    def may_be_silent(self) -> bool:
        """Whether the job's own clock lags so far behind Slurm's that its files are worth a look. Slurm counts what
        comes before the batch script, too: a slow prolog, nodes that boot. So this is a question, not an answer."""
        row = self.row
        if row is None or row.kind != "running" or row.elapsed_s is None:
            return False
        health = current(self.directory, row.job_id, row.restart).health
        return health is not None and row.elapsed_s - health.elapsed_s > tempo.TEMPO.silent


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The state, and why in a few words. `gone` only when the scheduler says that nothing is held any more."""

    state: State
    reason: str = ""
    gone: bool = False


CAUSES = {
    "server_exited": "the server program ended",
    "step_ended": "the step ended before the server did",
    "cancelled": "cancelled",
    "time_limit": "the time limit was near",
    "lease_expired": "its lease ran out",
    "revoked": "taken back by its owner",
    "port_in_use": "the port was taken on its node",
    "supervisor_ended": "the batch script ended",
    "hung": "the server had not answered for longer than hang_timeout",
    "preempted": "Slurm had told it to end, as it does before a preemption",
    "node_silent": "a node had fallen silent, and the server answered no more",
}


def judge(seen: Seen) -> Verdict:
    """What is true of a deployment, as far as can be said."""
    if seen.directory.from_newer_version or (seen.row is not None and not seen.directory.plan):
        reason = seen.directory.illegible or "its run directory cannot be read"
        return Verdict(state=State.UNKNOWN, reason=reason, gone=seen.gone)
    if not seen.answered:
        return Verdict(state=State.UNKNOWN, reason=f"{seen.told_by} did not answer")
    if seen.row is None:
        return _judge_unlisted(seen)
    match seen.row.kind:
        case "waiting":
            return Verdict(state=State.QUEUED, reason=seen.row.plain_reason)
        case "running":
            return _judge_running(seen, seen.row)
        case "paused":
            return Verdict(state=State.DEGRADED, reason=f"{seen.row.told_by} has it {seen.row.state}")
        case "ending":
            return Verdict(state=State.STOPPING, reason=f"{seen.row.told_by} is still cleaning up")
        case "ended" if seen.gone:
            return Verdict(state=State.ENDED, reason=_why_ended(seen, seen.row), gone=True)
        case "ended":
            return Verdict(state=State.UNKNOWN, reason=f"{seen.row.told_by} lists it as {seen.row.state}{_doubt(seen)}")
        case _:
            own_words = seen.row.state in ("ELSEWHERE", "ORPHANED")  # of a host without a scheduler
            reason = seen.row.plain_reason if own_words else f"{seen.row.told_by} says {seen.row.state}"
            return Verdict(state=State.UNKNOWN, reason=reason)


def _judge_unlisted(seen: Seen) -> Verdict:
    directory = seen.directory
    if directory.withheld:
        return Verdict(state=State.ENDED, reason="never submitted", gone=True)
    if seen.job_id:
        if seen.gone:
            return Verdict(state=State.ENDED, reason=_why_ended(seen, None), gone=True)
        return Verdict(state=State.UNKNOWN, reason=f"{seen.told_by} does not list job {seen.job_id}{_doubt(seen)}")
    if seen.refused:
        return Verdict(state=State.ENDED, reason=f"{seen.told_by} refused it", gone=True)
    if directory.submit_status is not None:
        return Verdict(state=State.SUBMITTING, reason="the submission gave no clear answer")
    return Verdict(state=State.SUBMITTING, reason="no receipt yet" if directory.submitted else "not submitted")


def _doubt(seen: Seen) -> str:
    """What keeps an end from being believed."""
    trace = seen.trace
    if Word.ALIVE in (trace.queue, trace.account):
        who = "its accounting says" if trace.account is Word.ALIVE else "asked for it alone, it says"
        return f"; {who} {trace.state or 'that it lives'}"
    if trace.queue is Word.MAYBE:
        return f"; job {seen.job_id} has another name and another directory now"
    if trace.account is Word.SILENT:
        return "; its accounting (sacct) does not answer"
    if trace.account is Word.ENDED:
        return f"; its accounting says {trace.state}"
    return "; its files still change" if not trace.silence.is_long else "; nothing else confirms that"


def _judge_running(seen: Seen, row: Row) -> Verdict:
    directory = current(seen.directory, row.job_id, row.restart)
    if directory.exit:
        return Verdict(state=State.STOPPING, reason=CAUSES.get(directory.exit.cause, directory.exit.cause))
    health = directory.health
    if health is None:
        return Verdict(state=State.STARTING, reason="the job has begun")
    if health.phase == "stopping":
        return Verdict(state=State.STOPPING, reason="ending its ranks")
    if seen.still and seen.may_be_silent:
        return Verdict(state=State.DEGRADED, reason=f"no word from its node for over {tempo.TEMPO.silent:.0f} s")
    if health.phase == "degraded":
        return Verdict(
            state=State.DEGRADED, reason="the server does not answer" + _silence(health, "; ") + _holder(health, "; ")
        )
    if not health.generated:
        return Verdict(state=State.STARTING, reason=_phase(health) + _holder(health, "; "))
    served = seen.directory.plan.get("served") or seen.directory.plan.get("model")
    if directory.endpoint is None:
        return Verdict(state=State.STARTING, reason="it has answered, but its endpoint.json of this run cannot be read")
    if directory.endpoint.model != served:
        return Verdict(state=State.STARTING, reason=f"{directory.endpoint.model or 'no model'} answers, not {served}")
    return Verdict(state=State.READY, reason="; ".join(filter(None, (_silence(health), _holder(health)))))


def _silence(health: Health, before: str = "") -> str:
    """A node without a heartbeat, in words; that alone is no trouble while the server answers."""
    ranks = ", ".join(map(str, health.silent_ranks[:4])) + ("…" if len(health.silent_ranks) > 4 else "")
    return f"{before}no sign of life from the node of rank {ranks}" if ranks else ""


def _holder(health: Health, before: str = "") -> str:
    """Who holds its port, unless the job's own processes are shown to."""
    if health.port_held == "foreign":
        return f"{before}another program listens on its port"
    return f"{before}not proven that its port is its own" if health.port_held == "unproven" and health.generated else ""


def _phase(health: Health) -> str:
    phase, joined, ranks = health.phase, health.ranks_joined, health.ranks
    words = {
        "starting": "starting the ranks",
        "joining": "joining",
        "loading": "loading weights",
        "warming_up": "warming up",
        "listening": "listening",
    }
    count = f" · {joined}/{ranks} ranks joined" if joined and phase in words else ""
    share = f" {min(health.progress, 100)} %" if phase == "loading" and health.progress is not None else ""
    return words.get(phase, phase.replace("_", " ")) + share + count


def _why_ended(seen: Seen, row: Row | None) -> str:
    ended, state = seen.directory.exit, seen.last_state
    if state in SLURMS_OWN and (ended is None or ended.cause in ("cancelled", "preempted", "time_limit")):
        return f"{row.told_by if row else seen.told_by} says {state}"
    if seen.directory.revoked_why and (ended is None or ended.cause in ("cancelled", "revoked")):
        return seen.directory.revoked_why
    if ended and (row is None or str(ended.epoch) == f"{row.job_id}.{row.restart}"):
        return CAUSES.get(ended.cause, ended.cause)
    if row:
        return f"{row.told_by} says {seen.last_word or row.state}"
    if seen.last_word:
        return f"{seen.told_by} says {seen.last_word}"
    return "nobody knows the job any more; it left no word of why"


def current(directory: RunDirectory, job_id: str, restart: int) -> RunDirectory:
    """The directory less every record of another epoch than the one Slurm reports."""
    epoch = f"{job_id}.{restart}"

    def keep(record: object) -> bool:
        return record is not None and str(getattr(record, "epoch", "")) == epoch

    return replace(
        directory,
        health=directory.health if keep(directory.health) else None,
        endpoint=directory.endpoint if keep(directory.endpoint) else None,
        exit=directory.exit if keep(directory.exit) else None,
    )
