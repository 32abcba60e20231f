"""Why a deployment ended, as far as anybody can tell: Slurm's word, the job's own, and the log line that shows it."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace

from nemodeploy.app.site import Site
from nemodeploy.assembly import causes
from nemodeploy.core.diagnosis import Diagnosis, Log, diagnose, status_in_words
from nemodeploy.core.observation import Exit
from nemodeploy.core.readiness import CAUSES, Seen
from nemodeploy.errors import AuthenticationFailed, ClusterUnreachable
from nemodeploy.schedulers.base import ENDS


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """What happened in a few words, and what shows it, with what to do; no line where no log says more."""

    text: str
    shown: Diagnosis

    def as_json(self) -> dict[str, str]:
        """The key `why` of a document."""
        shown = self.shown
        return {"text": self.text, "line": shown.line, "log": shown.log, "advice": shown.advice}


def advise(site: Site, seen: Seen, rank: int | None = None) -> Diagnosis:
    """What the logs show of a failure; without a connection there are none, and that changes nothing."""
    try:
        logs = [Log(name, text) for name, text in site.logs_of(seen.directory.token).items()]
    except (ClusterUnreachable, AuthenticationFailed):
        logs = []
    return diagnose(logs, rank, causes(seen.directory.plan, site.cluster.scheduler))


def explain(site: Site, seen: Seen) -> Why:
    """The first cause of an end. Says that it is unknown rather than guess."""
    seen = _asked_who(site, seen)
    ended = seen.directory.exit
    state = _state(seen)
    asked = _asked_to_end(seen, state)
    if asked:
        return Why(text=f"{asked[0]}{_scheduler(seen, state)}", shown=Diagnosis(advice=asked[1]))
    found = advise(site, seen, ended.rank if ended else None)
    if ended and ended.cause == "port_in_use":
        found = Diagnosis(meaning=f"port {ended.port} is in use on its node", advice="--set port=auto")
    if state in ENDS:
        found = replace(found, meaning=ENDS[state][0], advice=ENDS[state][1])
    meaning = found.meaning or "its cause is unknown"
    logs = site.cluster.command("logs", seen.directory.token.name)
    found = replace(found, advice=found.advice or logs)
    return Why(text=f"{_own_word(ended)}{_scheduler(seen, state)}: {meaning}", shown=found)


def _asked_who(site: Site, seen: Seen) -> Seen:
    """With the accounting's word on who cancelled it, where the queue alone has told of its end."""
    token, state = seen.directory.token, _state(seen)
    if seen.row is None or state != "CANCELLED" or seen.directory.revoked or seen.trace.by:
        return seen
    with contextlib.suppress(ClusterUnreachable, AuthenticationFailed):
        return replace(seen, trace=site.trace({token: seen.job_id})[token])
    return seen


def _state(seen: Seen) -> str:
    """Slurm's word on its end without what stands behind it; else its word on a job that it still lists."""
    return seen.last_state or (seen.row.state if seen.row else "")


def _asked_to_end(seen: Seen, state: str) -> tuple[str, str] | None:
    """What made the job end itself, and what to do: no log says more about it. None: it did not. A job that was taken
    down before it ran has no word of its own; `state` is Slurm's, if it still knows one."""
    cause = seen.directory.exit.cause if seen.directory.exit else ""
    failed = seen.last_word.partition(": ")[2]
    if not cause and failed and not seen.directory.revoked:
        return (f"it never began: {failed}", "run the same command again; tell the site about that node")
    if cause in ("", "cancelled", "preempted", "revoked", "time_limit") and state in ENDS and state != "CANCELLED":
        return ENDS[state]  # its TERM was Slurm's, whatever the job took it for
    if seen.directory.revoked and (cause in ("cancelled", "revoked") or (not cause and state in ("", "CANCELLED"))):
        return (seen.directory.revoked_why or "taken down with nemodeploy", "")
    if cause == "cancelled" or (not cause and state == "CANCELLED"):
        who = re.search(r" by (\S+ \(\d+\))", seen.last_word)
        return (f"cancelled by {who[1]}, not through nemodeploy", "") if who else ENDS["CANCELLED"]
    if cause == "time_limit":
        return ENDS["TIMEOUT"]
    if cause == "preempted":
        return (CAUSES[cause], ENDS["PREEMPTED"][1])
    return (CAUSES[cause], "") if cause in ("lease_expired", "revoked") else None


def _own_word(ended: Exit | None) -> str:
    if ended is None:
        return "it left no word of why"
    if ended.cause in ("hung", "node_silent"):  # what the ranks ended with was our doing
        return CAUSES[ended.cause]
    status = ended.status if ended.rank_status is None else ended.rank_status
    rank = f" (rank {ended.rank})" if ended.rank is not None else ""
    words = status_in_words(status)
    return f"{CAUSES.get(ended.cause, ended.cause)}{rank}, exit {status}{f', {words}' if words else ''}"


def _scheduler(seen: Seen, state: str) -> str:
    return f", {seen.told_by} says {state}" if state else ""
