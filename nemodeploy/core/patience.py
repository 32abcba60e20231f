"""How long a client waits: two clocks, for the queue and for the start-up, which stand while Slurm suspends the job."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nemodeploy.core.observation import Health
from nemodeploy.core.readiness import Seen, State, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Two clocks, in seconds; None: no limit. Start-up is extended by progress, up to a stall."""

    queue_s: float | None
    startup_s: float
    stall_s: float = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Clocks:
    """When the waiting began, when the start-up of an epoch began, and when it last moved; None: not yet.

    `loading`: when a percentage was first seen, and which. `looked`: when it was last looked at.
    """

    began: float
    started: float | None = None
    moved: float | None = None
    loading: tuple[float, int] | None = None
    epoch: str = ""
    mark: str = ""
    looked: float | None = None


LOADED_ENOUGH = 5  # per cent, to tell a speed by
# Whatever runs and has not answered this client yet is starting up, as far as its patience goes.
_STARTING_UP = (State.STARTING, State.DEGRADED, State.READY)


def turn(clocks: Clocks, seen: Seen, verdict: Verdict, now: float) -> Clocks:
    """The clocks after a look: a changed phase or number of ranks is progress, and a requeued job begins afresh."""
    if seen.row is not None and seen.row.kind == "paused" and clocks.looked is not None:
        clocks = _later(clocks, now - clocks.looked)
    clocks = replace(clocks, looked=now)
    if verdict.state is State.QUEUED and clocks.started is not None:
        return Clocks(began=now, looked=now)
    if verdict.state not in _STARTING_UP:
        return clocks
    health = seen.directory.health
    epoch = f"{seen.row.job_id}.{seen.row.restart}" if seen.row else clocks.epoch
    mark = f"{health.phase} {health.ranks_joined} {health.progress}" if health else ""
    if clocks.started is None or epoch != clocks.epoch:
        return replace(clocks, started=now, moved=now, epoch=epoch, mark=mark, loading=None)
    if health and health.progress is not None and (clocks.loading is None or health.progress < clocks.loading[1]):
        clocks = replace(clocks, loading=(now, health.progress))
    return replace(clocks, moved=now, mark=mark) if mark != clocks.mark else clocks


def _later(clocks: Clocks, seconds: float) -> Clocks:
    """The clocks of a start-up that Slurm has suspended for so long: they stand."""
    started, moved, loading = clocks.started, clocks.moved, clocks.loading
    return replace(
        clocks,
        started=None if started is None else started + seconds,
        moved=None if moved is None else moved + seconds,
        loading=None if loading is None else (loading[0] + seconds, loading[1]),
    )


def loaded_in(clocks: Clocks, health: Health | None, now: float) -> float | None:
    """In how many seconds the weights will be loaded at the speed so far; None while that would be a guess."""
    if clocks.loading is None or clocks.moved is None or health is None or health.progress is None:
        return None
    since, first = clocks.loading
    done, rest = health.progress - first, 100 - health.progress
    if health.phase != "loading" or done < LOADED_ENOUGH or rest <= 0:
        return None
    return max((clocks.moved - since) * rest / done - (now - clocks.moved), 0.0)


def overdue(clocks: Clocks, verdict: Verdict, budget: Budget, now: float) -> str:
    """`queue` or `startup` when that clock has run out, otherwise empty."""
    if verdict.state in (State.SUBMITTING, State.QUEUED) and clocks.started is None:
        return "queue" if budget.queue_s is not None and now - clocks.began > budget.queue_s else ""
    if verdict.state in _STARTING_UP and clocks.started is not None and clocks.moved is not None:
        over = now - clocks.started > budget.startup_s and now - clocks.moved > min(budget.stall_s, budget.startup_s)
        return "startup" if over else ""
    return ""
