"""Ending a deployment and proving it: gently, then not, and gone only when Slurm says gone."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from nemodeploy.app.pace import SOON_S, WATCHER_S
from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site, unknown_outcome
from nemodeploy.core.readiness import Seen, State, Verdict, judge
from nemodeploy.errors import AuthenticationFailed, ClusterUnreachable, NemodeployError
from nemodeploy.schedulers.base import QueueRow
from nemodeploy.values import Token

GIVE_UP_AFTER_S = 180.0  # and the time that its server has to end by itself
BY_HAND = "taken down with nemodeploy"
NO_SHOW_AFTER_S = 150.0  # sbatch itself tries again for up to 120 s


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """Proof of the end. `submitted` False: there never was a job."""

    token: Token
    job_id: str
    submitted: bool


def end(
    site: Site, ports: Ports, token: Token, *, why: str = "taking it down", hard: bool = False, reason: str = BY_HAND
) -> Ended:
    """Return when nothing of the token is held any more. Raises OutcomeUnknown when that cannot be shown in time.

    Gently first, unless `hard`. `reason`: why it ended, for later readers; the first one is kept. Idempotent: the same
    call after a lost connection goes on where the first one stopped.
    """
    begun, last, pace = ports.clock.now(), "", list(SOON_S)
    heard: float | None = None  # since when every question has been answered
    problem, job_id, patience_s = "Slurm did not confirm the end", "", GIVE_UP_AFTER_S
    while ports.clock.now() - begun < patience_s:
        try:
            seen = _see(site, token, job_id)
            job_id = seen.job_id
            verdict = judge(seen)
            now = ports.clock.now()
            heard = None if not seen.answered else now if heard is None else heard
            ended = _conclude(site, ports, seen, verdict, reason, 0.0 if heard is None else now - heard)
            if ended:
                return ended
            grace_s = seen.directory.grace_s + 15.0
            patience_s = GIVE_UP_AFTER_S + seen.directory.grace_s
            asleep = verdict.state is State.QUEUED or (seen.row is not None and seen.row.kind == "paused")
            hard = hard or asleep or ports.clock.now() - begun > grace_s
            if seen.job_id and (hard or verdict.state is not State.STOPPING):
                said = site.cancel(token, gently=not hard, renamed=_renamed(seen), reason=reason)
                unsure = verdict.reason if verdict.state is State.UNKNOWN else "Slurm did not confirm the end"
                problem = " ".join(said.text.split()[-30:]) if said.status else unsure
        except AuthenticationFailed as error:
            raise unknown_outcome(token, site.cluster, error.message) from error
        except ClusterUnreachable as error:
            problem, verdict = error.message, Verdict(state=State.UNKNOWN, reason=error.message)
            pace, heard = [], None
        text = f"{verdict.state.value} {verdict.reason}".strip()
        if text != last:
            ports.reporter.say("stopping", f"{why} · {text}")
            last = text
        ports.clock.sleep(pace.pop(0) if pace else WATCHER_S)
    raise unknown_outcome(token, site.cluster, problem)


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
            site.cancel(token, gently=False)
        problem = "interrupted again and again before that was verified"
        raise unknown_outcome(token, site.cluster, problem) from None


def _see(site: Site, token: Token, job_id: str) -> Seen:
    """One look; a job id that was seen before is not forgotten here because its files are gone."""
    look = site.look(name=token.name)
    directory = look.directory(token)
    return site.see(look, directory if directory.submit_out else replace(directory, submit_out=job_id))


def _renamed(seen: Seen) -> str:
    """The id of its job where that has another name by now: scancel by name would miss it."""
    row = seen.row
    return row.job_id if isinstance(row, QueueRow) and row.name != str(seen.directory.token) else ""


def _conclude(site: Site, ports: Ports, seen: Seen, verdict: Verdict, reason: str, heard_for_s: float) -> Ended | None:
    """The proof, if this look gives one."""
    token = seen.directory.token
    if verdict.gone:
        with contextlib.suppress(KeyboardInterrupt):  # it is gone, whatever becomes of its files
            site.archive(token, seen.last_word)
        ports.journal.forget(token)
        return Ended(token=token, job_id=seen.job_id, submitted=bool(seen.job_id))
    if verdict.state is not State.SUBMITTING or seen.job_id:
        return None
    if not site.withhold(token):
        # Somebody was about to run sbatch and nothing came of it. A job that appears all the same ends at once.
        site.revoke(token, reason)
        if heard_for_s < NO_SHOW_AFTER_S:
            return None
    site.archive(token)
    ports.journal.forget(token)
    return Ended(token=token, job_id="", submitted=False)
