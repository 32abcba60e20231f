"""Watching one deployment until it has answered or has ended: when to ask whom, and when to give up."""

from __future__ import annotations

import contextlib
import itertools
import re
from dataclasses import dataclass, replace
from typing import NoReturn

from nemodeploy.app import asking, ending
from nemodeploy.app.archive import archived
from nemodeploy.app.explaining import explain
from nemodeploy.app.failed_start import what_shows, why_late, why_mute
from nemodeploy.app.holding import Held
from nemodeploy.app.hopeless import Hopeless
from nemodeploy.app.look import Look
from nemodeploy.app.outage import Outage
from nemodeploy.app.pace import RENEWALS_A_LEASE, SOON_S, WATCHER_S, in_short
from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site, unknown_outcome
from nemodeploy.core import patience, readiness
from nemodeploy.core.diagnosis import Diagnosis
from nemodeploy.core.observation import RunDirectory
from nemodeploy.core.patience import Budget, Clocks
from nemodeploy.core.readiness import Seen, State, Verdict
from nemodeploy.errors import (
    AuthenticationFailed,
    ClusterUnreachable,
    ForwardingRefused,
    JobEnded,
    OutcomeUnknown,
    QueueTimeout,
    StartupTimeout,
)
from nemodeploy.schedulers.base import QueueRow
from nemodeploy.values import Endpoint, Token

FIRST_LOOKS_S = tuple(itertools.accumulate(SOON_S))  # until then its run directory shows whether it has begun
DIRECTORY_PACE_S = 0.5
NO_NEWS = " "
QUEUE_PACE_S = 5.0
QUICK_FOR_S = 30.0
UNREACHABLE_FOR_S = 600.0
REACH_WITHIN_S = 60.0
ASK_AGAIN_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Up:
    """A server that answered: what was seen last, the answer, and the times in seconds."""

    seen: Seen
    answer: str
    answer_s: float
    adopted: bool
    queue_s: float
    startup_s: float
    ready_s: float


class Watch:
    """One deployment, watched until it has answered or has ended."""

    def __init__(
        self,
        site: Site,
        ports: Ports,
        token: Token,
        budget: Budget,
        begun: float,
        *,
        adopted: bool,
        ttl_s: int | None = None,
        held: Held | None = None,
    ) -> None:
        """Its clocks start now; `begun` is when the whole command did. `ttl_s`: the lease that is to be renewed."""
        self.site, self.ports, self.token, self.budget = site, ports, token, budget
        self.begun, self.adopted, self.ttl_s = begun, adopted, ttl_s
        self.held = held or Held()
        self.submitted_at = ports.clock.now()
        self.renewed_at = self.submitted_at
        self.clocks = Clocks(began=self.submitted_at)
        self.looks = [self.submitted_at + offset for offset in FIRST_LOOKS_S]
        self.last = Seen(directory=RunDirectory(token=token), answered=False, row=None, told_by=site.scheduler.called)
        self.asked = False
        self.unknown_since: float | None = None
        self.outage = Outage(ports.reporter.say, ports.clock.now)
        self.ask_again_at = 0.0
        self.stopping_since = self.submitted_at
        self.news = NO_NEWS
        self.said = ""
        self.hopeless = Hopeless(site)

    def until_ready(self) -> Up:
        """Look, judge, act, pause; returns with an answer or raises why there is none."""
        while True:
            begun = self.ports.clock.now()
            seen = self._look()
            if seen is not None:
                verdict = readiness.judge(seen)
                done = self._act(seen, verdict)
                if done:
                    self._renew(at_least_every_s=0.0)
                    return done
            if self.ttl_s is not None:
                self._renew(at_least_every_s=self.ttl_s / RENEWALS_A_LEASE)
            pace = self._pace()
            self.ports.clock.sleep(max(pace - (self.ports.clock.now() - begun), pace / 5))

    def _renew(self, *, at_least_every_s: float) -> None:
        """Keep the job from ending itself while we watch; it counts from the last time, so one failure is none."""
        now = self.ports.clock.now()
        if self.ttl_s is None or now - self.renewed_at < at_least_every_s:
            return
        with contextlib.suppress(ClusterUnreachable, AuthenticationFailed):
            self.site.renew(self.token)
            self.renewed_at = now

    def _pace(self) -> float:
        """Reading the run directory costs the controller nothing; in a long queue it need not be often all the same."""
        waited = self.ports.clock.now() - self.submitted_at
        return DIRECTORY_PACE_S if self.clocks.started is not None or waited < QUICK_FOR_S else QUEUE_PACE_S

    def _look(self) -> Seen | None:
        """What is there now; None when the cluster did not answer this time."""
        now = self.ports.clock.now()
        try:
            with self.outage.waiting(f"cluster {self.site.cluster.name}"):
                look = self.site.look(controller=now >= self.looks[0], name=self.token.name)
            seen = self._seen(look)
            if self._brings_news(seen) and look.answered is None:
                look = self.site.look(name=self.token.name)
                seen = self._seen(look)
        except ClusterUnreachable as error:
            self._endure(error.message, now)
            self.ports.clock.sleep(self.site.cluster.ssh.reconnect_wait_s)
            return None
        if look.answered is not None:
            self._plan_next_look(now)
            self.asked = True
        elif not self.asked:
            return None  # the controller's word is needed first; the job has not begun
        if not seen.answered:
            self._endure(f"{seen.told_by} does not answer", now)
        return seen

    def _seen(self, look: Look) -> Seen:
        """The directory as it is now, and Slurm's word as it was last heard; a failed question stays one."""
        directory = look.directory(self.token)
        if not directory.manifest:  # not yet, or no more: then what is known of it counts
            directory = self._put_away(replace(directory, submit_out=directory.submit_out or self.last.job_id))
        if look.answered is None:
            self.last = replace(self.last, directory=directory)
            return self.last
        seen = self.site.see(look, directory)
        self.last = seen if look.answered else replace(self.last, directory=directory, answered=False)
        return self.last

    @property
    def _row(self) -> QueueRow | None:
        row = self.last.row
        return row if isinstance(row, QueueRow) else None

    def _brings_news(self, seen: Seen) -> bool:
        """Whether the job itself has begun or ended since it was last read; Slurm is then asked as at the start."""
        health, ended = seen.directory.health, seen.directory.exit
        news = f"{health.epoch if health else ''} {ended.cause if ended else ''}"
        if news == self.news:
            return False
        self.news = news
        self.looks = [self.ports.clock.now() + offset for offset in FIRST_LOOKS_S]
        return True

    def _plan_next_look(self, now: float) -> None:
        self.looks = [due for due in self.looks if due > now] or [now + WATCHER_S]

    def _endure(self, why: str, now: float) -> None:
        """A failed question is not an answer: keep asking, for a while."""
        if self.unknown_since is None:
            self.unknown_since = now
        if now - self.unknown_since > UNREACHABLE_FOR_S:
            raise unknown_outcome(self.token, self.site.cluster, why)
        self.outage.broke(why)
        self.ports.reporter.live("unknown", why)

    def _act(self, seen: Seen, verdict: Verdict) -> Up | None:
        now = self.ports.clock.now()
        before, self.clocks = self.clocks, patience.turn(self.clocks, seen, verdict, now)
        self.held.note(seen.job_id, self.clocks.started)
        if before.started is None and self.clocks.started is not None:
            self.looks = [now + WATCHER_S]  # the run directory tells the rest
        if verdict.gone:
            raise self._ended(seen)
        lost = not seen.directory.manifest and seen.row is None
        if verdict.state is not State.UNKNOWN and not lost:
            self.unknown_since = None
            self.outage.over()
        elif seen.answered:
            self._endure("its run directory is not there" if lost else verdict.reason, now)
        done = self._ask(seen, now) if verdict.state is State.READY and now >= self.ask_again_at else None
        if done is None:
            if verdict.state not in (State.READY, State.UNKNOWN):  # an outage is told of by itself
                self._say(verdict.state.value.lower(), verdict.reason, self._aside(seen, verdict, now))
                if before.started is None and self.clocks.started is not None:
                    most = f"this may take up to {in_short(self.budget.startup_s)}, longer while it makes progress"
                    self.ports.reporter.say("starting", most)
            self._check_clocks(verdict, now)
        return done

    def _check_clocks(self, verdict: Verdict, now: float) -> None:
        row, token = self._row, str(self.token)
        if verdict.state is not State.STOPPING:
            self.stopping_since = now
        elif now - self.stopping_since > ending.GIVE_UP_AFTER_S + self.last.directory.grace_s:
            raise unknown_outcome(
                self.token, self.site.cluster, f"it is ending, and {self.last.told_by} does not confirm it"
            )
        hopeless = self.hopeless.why(row) if verdict.state is State.QUEUED and row else None
        if hopeless:
            self._give_up(f"it would have waited for ever: {hopeless[0]}")
            raise QueueTimeout(
                f"the job would have waited for ever: {hopeless[0]}; it is cancelled",
                hint=hopeless[1],
                token=token,
            )
        late = patience.overdue(self.clocks, verdict, self.budget, now)
        if late == "queue":
            self._give_up(f"no nodes within {self.budget.queue_s:.0f} s")
            raise QueueTimeout(
                f"no nodes within {self.budget.queue_s:.0f} s ({verdict.reason}); the job is cancelled",
                hint="--queue-timeout waits longer",
                token=token,
            )
        directory = self.last.directory
        if verdict.state is State.STARTING and (mute := why_mute(directory)):
            self._fail(mute, Diagnosis(advice="they stand in the model file"))
        if late == "startup":
            self._fail(*why_late(self.site, self.last, verdict.reason or self.said, self.budget.startup_s))

    def _fail(self, what: str, found: Diagnosis) -> NoReturn:
        """End a job whose start has failed, with the reason where later readers find it."""
        self._give_up(what)
        raise StartupTimeout(
            f"{what}; the job is cancelled",
            hint=found.advice or "--startup-timeout waits longer",
            detail=what_shows(self.last.directory, found),
            token=str(self.token),
        )

    def _give_up(self, reason: str) -> None:
        """Cancel what we submitted; what somebody else did is left to them."""
        if self.adopted:
            name, cluster = self.token.name, self.site.cluster
            raise OutcomeUnknown(
                f"{name} is not READY yet; it was there before this command and is left alone",
                hint=f"{cluster.command('status', name)}, or {cluster.command('down', name)}",
                token=str(self.token),
            )
        ending.end(self.site, self.ports, self.token, why="cancelling", reason=reason)

    def _ask(self, seen: Seen, now: float) -> Up | None:
        """The proof: what the server gave to the job's own question, read by its engine's reader, and a way to it from
        here. Without either it is not READY, whatever the job says."""
        endpoint = seen.directory.endpoint
        assert isinstance(endpoint, Endpoint)
        try:
            answer = asking.recorded(seen.directory.plan, seen.directory.answer)
            self._reach(seen, endpoint)
        except (asking.NoAnswer, ClusterUnreachable) as error:
            self._say("starting", error.message)
            self.ask_again_at = now + ASK_AGAIN_S
            return None
        ready = self.ports.clock.now()
        if seen.directory.health and seen.directory.health.port_held == "unproven":
            what = "not proven that this job's processes hold its port: /proc on the node does not show it"
            self.ports.reporter.say("note", what)
        self.ports.reporter.say("ready", f'answered "{" ".join(answer.split())}" in {endpoint.generation_s:.1f} s')
        started = self.clocks.started if self.clocks.started is not None else now
        return Up(
            seen=seen,
            answer=answer,
            answer_s=endpoint.generation_s,
            adopted=self.adopted,
            queue_s=round(started - self.submitted_at, 3),
            startup_s=round(ready - started, 3),
            ready_s=round(ready - self.begun, 3),
        )

    def _reach(self, seen: Seen, endpoint: Endpoint) -> None:
        """A reply through the tunnel, to a question that waits behind no other; a site may forbid to forward."""
        try:
            asking.reach(self.site, endpoint, seen.directory.plan, timeout_s=REACH_WITHIN_S)
        except ForwardingRefused as error:
            self.ports.reporter.say("tunnel", f"{error.message}; the job's own question was answered all the same")

    def _ended(self, seen: Seen) -> JobEnded:
        """The state, the exit code and the log line that shows why."""
        why = explain(self.site, seen)
        if not seen.gone:  # otherwise the look has put it away
            with contextlib.suppress(ClusterUnreachable, AuthenticationFailed):
                self.site.archive({self.token: ""})
        self.ports.journal.forget(self.token)
        return JobEnded(
            f"job {seen.job_id} ended before the server had answered: {why.text}",
            detail=why.shown.evidence,
            hint=why.shown.advice or self.site.cluster.command("logs", self.token.name),
            token=str(self.token),
        )

    def _put_away(self, directory: RunDirectory) -> RunDirectory:
        """What it left, where somebody else has archived it; else what is there."""
        with contextlib.suppress(ClusterUnreachable):
            for one in archived(self.site, of=self.token).found:
                return one.directory
        return directory

    def _aside(self, seen: Seen, verdict: Verdict, now: float) -> str:
        """For a display that redraws itself: how long a start-up will still take, and what a rank said last."""
        health = seen.directory.health
        if verdict.state is not State.STARTING or health is None or self.clocks.started is None:
            return ""
        left = patience.loaded_in(self.clocks, health, now)
        most = f"at most {in_short(max(self.clocks.started + self.budget.startup_s - now, 0))} more"
        return f" · {most if left is None else f'about {in_short(left)} left'}" + (
            f" │ {health.said}" if health.said else ""
        )

    def _say(self, phase: str, text: str, aside: str = "") -> None:
        before, self.said = self.said, f"{phase} {text}"
        if _coarse(self.said) != _coarse(before):
            self.ports.reporter.say(phase, text)
        self.ports.reporter.live(phase, f"{text}{aside}")


def _coarse(text: str) -> str:
    """Percentages in steps of twenty: every one of them would be too many lines for a pipe."""
    return re.sub(r"(\d+) %", lambda match: str(int(match[1]) // 20), text)
