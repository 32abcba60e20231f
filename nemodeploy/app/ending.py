"""Ending deployments and proving it: gently, then not, and gone only when Slurm says gone. One question and one signal
a round for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nemodeploy.app.look import Look
from nemodeploy.app.outage import Outage
from nemodeploy.app.pace import SOON_S, WATCHER_S
from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site, unknown_outcome
from nemodeploy.app.targets import Target
from nemodeploy.core.listing import counted
from nemodeploy.core.readiness import Seen, State, Verdict, judge
from nemodeploy.errors import AuthenticationFailed, ClusterUnreachable, NemodeployError
from nemodeploy.schedulers.base import QueueRow
from nemodeploy.values import Token

GIVE_UP_AFTER_S = 180.0  # and the time that its server has to end by itself
BY_HAND = "taken down with nemodeploy"
NO_SHOW_AFTER_S = 150.0  # sbatch itself tries again for up to 120 s
PEEK_S = 0.25  # to read a run directory asks no controller


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """Proof of the end. `submitted` False: there never was a job."""

    token: Token
    job_id: str
    submitted: bool


@dataclass(kw_only=True, slots=True)
class _Case:
    """One of those that are being ended. `heard`: since when every question has been answered."""

    token: Token
    begun: float
    hard: bool
    said: str = ""
    heard: float | None = None
    problem: str
    job_id: str = ""
    patience_s: float = GIVE_UP_AFTER_S
    verdict: Verdict = field(default_factory=lambda: Verdict(state=State.UNKNOWN))


def end(
    site: Site, ports: Ports, token: Token, *, why: str = "taking it down", hard: bool = False, reason: str = BY_HAND
) -> Ended:
    """Return when nothing of the token is held any more. Raises OutcomeUnknown when that cannot be shown in time.

    Gently first, unless `hard`. `reason`: why it ended, for later readers; the first one is kept. Idempotent: the same
    call after a lost connection goes on where the first one stopped.
    """
    result = end_all(site, ports, (token,), why=why, hard=hard, reason=reason)[token]
    if isinstance(result, NemodeployError):
        raise result
    return result


def end_all(
    site: Site,
    ports: Ports,
    tokens: Sequence[Token],
    *,
    why: str = "taking it down",
    hard: bool = False,
    reason: str = BY_HAND,
    look: Look | None = None,
    results: dict[Token, Ended | NemodeployError] | None = None,
) -> Mapping[Token, Ended | NemodeployError]:
    """The same for several at once: of each the proof, or the error. `look`: what has just been seen of them; `results`
    gets each as soon as it is known."""
    results = {} if results is None else results
    now, pace = ports.clock.now(), list(SOON_S)
    outage = Outage(ports.reporter.say, ports.clock.now)
    cases = {token: _Case(token=token, begun=now, hard=hard, problem=_unconfirmed(site)) for token in tokens}
    while cases:
        try:
            results.update(_round(site, ports, cases, look, reason))
        except AuthenticationFailed as error:
            results.update({token: unknown_outcome(token, site.cluster, error.message) for token in cases})
        except ClusterUnreachable as error:
            pace = []
            for case in cases.values():
                case.problem, case.heard = error.message, None
                case.verdict = Verdict(state=State.UNKNOWN, reason=error.message)
        look, cases = None, {token: case for token, case in cases.items() if token not in results}
        _tell(ports, outage, cases, why)
        for case in tuple(cases.values()):
            if ports.clock.now() - case.begun >= case.patience_s:
                results[case.token] = unknown_outcome(case.token, site.cluster, case.problem)
                del cases[case.token]
        if cases:
            _doze(site, ports, tuple(cases), pace.pop(0) if pace else WATCHER_S)
    return results


def _doze(site: Site, ports: Ports, tokens: Sequence[Token], pause_s: float) -> None:
    """Sleep; of a single one only until its job says that it has ended."""
    until = ports.clock.now() + pause_s
    with contextlib.suppress(ClusterUnreachable, AuthenticationFailed):
        while len(tokens) == 1 and pause_s < WATCHER_S and (left := until - ports.clock.now()) > PEEK_S:
            ports.clock.sleep(min(PEEK_S, left))
            if site.look(controller=False, name=tokens[0].name).directory(tokens[0]).exit:
                until = min(until, ports.clock.now() + PEEK_S / 2)  # Slurm itself needs a moment
                break
    ports.clock.sleep(max(until - ports.clock.now(), 0.0))


def end_for_user(
    site: Site, ports: Ports, token: Token, *, why: str = "taking it down", hard: bool = False, reason: str = BY_HAND
) -> Ended:
    """As `end`. Interrupted it goes on, and hurries; interrupted again it raises OutcomeUnknown."""
    try:
        try:
            return end(site, ports, token, why=why, hard=hard, reason=reason)
        except KeyboardInterrupt:
            return end(site, ports, token, why=why, hard=True, reason=reason)
    except KeyboardInterrupt:
        with contextlib.suppress(NemodeployError, KeyboardInterrupt):
            site.cancel((Target(token=token),), gently=False, reason=reason)
        problem = "interrupted again and again before that was verified"
        raise unknown_outcome(token, site.cluster, problem) from None


def _round(
    site: Site, ports: Ports, cases: Mapping[Token, _Case], look: Look | None, reason: str
) -> dict[Token, Ended]:
    """Look once, unless that was just done, conclude what can be concluded, and signal the rest."""
    ended: dict[Token, Ended] = {}
    rest: list[tuple[_Case, Seen]] = []
    for seen in _see(site, cases, look):
        case = cases[seen.directory.token]
        case.job_id, case.verdict = seen.job_id, judge(seen)
        now = ports.clock.now()
        case.heard = None if not seen.answered else now if case.heard is None else case.heard
        proof = _conclude(site, ports, seen, case.verdict, reason, 0.0 if case.heard is None else now - case.heard)
        if proof:
            ended[case.token] = proof
        else:
            rest.append((case, seen))
    for gently in (True, False):
        due = [(case, seen) for case, seen in rest if _is_due(case, seen, ports.clock.now()) and case.hard != gently]
        if due:
            said = site.cancel([_target(seen) for _, seen in due], gently=gently, reason=reason)
            for case, _ in due:
                unsure = case.verdict.reason if case.verdict.state is State.UNKNOWN else _unconfirmed(site)
                case.problem = (" ".join(said.text.split()[-30:]) if said.status else "") or unsure
    return ended


def _unconfirmed(site: Site) -> str:
    return f"{site.scheduler.called} did not confirm the end"


def _see(site: Site, cases: Mapping[Token, _Case], look: Look | None) -> tuple[Seen, ...]:
    """A job id that was seen before is not forgotten here because its files are gone."""
    names = {token.name for token in cases}
    look = look or site.look(name=names.pop() if len(names) == 1 else "")
    found = (look.directory(token) for token in cases)
    kept = (one if one.submit_out else replace(one, submit_out=cases[one.token].job_id) for one in found)
    return site.see_all(look, tuple(kept))


def _is_due(case: _Case, seen: Seen, now: float) -> bool:
    """Whether it is to be signalled now, and in `case.hard` how."""
    grace_s = seen.directory.grace_s
    case.patience_s = GIVE_UP_AFTER_S + grace_s
    asleep = case.verdict.state is State.QUEUED or (seen.row is not None and seen.row.kind == "paused")
    case.hard = case.hard or asleep or now - case.begun > grace_s + 15.0
    return bool(seen.job_id) and (case.hard or case.verdict.state is not State.STOPPING)


def _target(seen: Seen) -> Target:
    """Its job as the queue lists it; one that has another name by now is missed by a signal by name."""
    row, token = seen.row, seen.directory.token
    if not isinstance(row, QueueRow):
        return Target(token=token)
    return Target(token=token, job_id=row.job_id, renamed=row.name != str(token))


def _tell(ports: Ports, outage: Outage, cases: Mapping[Token, _Case], why: str) -> None:
    """Each change, once; of several all that changed alike in one line. What is UNKNOWN is told as an outage is."""
    news: dict[str, list[str]] = {}
    unknown = [case for case in cases.values() if case.verdict.state is State.UNKNOWN]
    if unknown:
        outage.broke(f"{why} · UNKNOWN {unknown[0].verdict.reason}".rstrip())
    else:
        outage.over()
    for case in cases.values():
        text = f"{case.verdict.state.value} {case.verdict.reason}".strip()
        if text != case.said and case.verdict.state is not State.UNKNOWN:
            news.setdefault(text, []).append(case.token.name)
            case.said = text
    for text, names in news.items():
        which = "" if len(cases) == 1 else f"{counted(names)}: "
        ports.reporter.say("stopping", f"{why} · {which}{text}")


def _conclude(site: Site, ports: Ports, seen: Seen, verdict: Verdict, reason: str, heard_for_s: float) -> Ended | None:
    """The proof, if this look gives one."""
    token = seen.directory.token
    if verdict.gone:
        if not seen.gone:  # otherwise the look has put it away
            with contextlib.suppress(KeyboardInterrupt):  # it is gone, whatever becomes of its files
                site.archive({token: ""})
        ports.journal.forget(token)
        return Ended(token=token, job_id=seen.job_id, submitted=bool(seen.job_id))
    if verdict.state is not State.SUBMITTING or seen.job_id:
        return None
    if not site.withhold(token):
        # Somebody was about to run sbatch and nothing came of it. A job that appears all the same ends at once.
        site.revoke(token, reason)
        if heard_for_s < NO_SHOW_AFTER_S:
            return None
    site.archive({token: ""})
    ports.journal.forget(token)
    return Ended(token=token, job_id="", submitted=False)
