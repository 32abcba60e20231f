"""Waiting until somebody's deployment is what one wants: it is watched, and never touched."""

from __future__ import annotations

from nemodeploy.app.explaining import explain
from nemodeploy.app.newer import illegible
from nemodeploy.app.outage import Outage
from nemodeploy.app.pace import SOON_S, WATCHER_S
from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site, unknown_outcome
from nemodeploy.app.status import Deployment, archived_as, only, status
from nemodeploy.core.observation import RunDirectory
from nemodeploy.core.readiness import State
from nemodeploy.errors import ClusterUnreachable, JobEnded, NemodeployError, QueueTimeout, StartupTimeout

READY, ENDED, GONE = GOALS = ("ready", "ended", "gone")
PEEK_S = 1.0  # when the job says a word, Slurm is asked at once


def wait(site: Site, ports: Ports, first: Deployment, goal: str, *, timeout_s: float | None) -> Deployment | None:
    """Return the deployment as soon as the goal holds; None when it ended and is no longer listed.

    Raises JobEnded when it can no longer become ready, PreflightFailed when this version could not tell. When the time
    is over: QueueTimeout or StartupTimeout for what it was at then, OutcomeUnknown when that cannot be told.
    """
    begun, pace, said = ports.clock.now(), list(SOON_S), ""
    last, problem, outage = first, "", Outage(ports.reporter.say, ports.clock.now)
    while True:
        try:
            with outage.waiting(f"cluster {site.cluster.name}"):
                found = status(site, first.name) or archived_as(site, last.token)
            now, problem = only(found, first.name) if found else None, ""
        except ClusterUnreachable as error:  # it leaves everything open
            now, problem = last, error.message
        if not problem and (now is None or now.verdict.gone):
            if goal != READY:
                return now
            raise _ended(site, now or last)
        last = now or last
        if goal == READY and not problem and last.verdict.state is State.READY:
            return last
        unread = last.verdict.state is State.UNKNOWN and bool(last.seen.directory.illegible)
        if goal == READY and not problem and unread:
            raise illegible(last.seen.directory, site.cluster)
        if problem or (last.verdict.state is State.UNKNOWN and not unread):
            outage.broke(problem or last.verdict.reason)
            text = said
        else:
            outage.over()
            text = f"{last.verdict.state.value} {last.verdict.reason}".strip()
        if text != said:
            ports.reporter.say("waiting", text)
            said = text
        left = None if timeout_s is None else begun + timeout_s - ports.clock.now()
        if left is not None and left <= 0:
            raise _late(site, last, goal, timeout_s or 0.0, problem)
        pause = pace.pop(0) if pace else WATCHER_S
        _doze(site, ports, last, pause if left is None else min(pause, left), outage)


def _doze(site: Site, ports: Ports, last: Deployment, pause_s: float, outage: Outage) -> None:
    """Sleep, but not while the job says something new: to read its directory asks no controller."""
    until, before = ports.clock.now() + pause_s, _words(last.seen.directory)
    while (left := until - ports.clock.now()) > 0:
        ports.clock.sleep(min(PEEK_S, left))
        try:
            with outage.waiting(f"cluster {site.cluster.name}"):
                look = site.look(controller=False, name=last.name)
            if _words(look.directory(last.token)) != before:
                return
        except ClusterUnreachable as error:
            outage.broke(error.message)


def _words(directory: RunDirectory) -> tuple[object, ...]:
    health = directory.health
    return (health and (health.epoch, health.phase, health.generated), directory.exit, bool(directory.manifest))


def _ended(site: Site, last: Deployment) -> NemodeployError:
    why = explain(site, last.seen).text if last.verdict.gone else "it is no longer up"
    hint = site.cluster.command("status", last.name)
    return JobEnded(f"{last.name} has ended: {why}", hint=hint, token=str(last.token))


def _late(site: Site, last: Deployment, goal: str, timeout_s: float, problem: str) -> NemodeployError:
    state, token = last.verdict.state, str(last.token)
    if problem or state is State.UNKNOWN:
        return unknown_outcome(last.token, site.cluster, problem or last.verdict.reason)
    text = f"{last.name} is not {goal} after {timeout_s:.0f} s: {state.value} {last.verdict.reason}".rstrip()
    kind = QueueTimeout if state in (State.SUBMITTING, State.QUEUED) else StartupTimeout
    return kind(text, hint=site.cluster.command("status", last.name), token=token)
