"""Why a deployment ended, as far as anybody can tell: Slurm's word, the job's own, and the log line that shows it."""

from __future__ import annotations

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
    ended = seen.directory.exit
    state = seen.row.state if seen.row else seen.account.split(" ")[0]
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


def _asked_to_end(seen: Seen, state: str) -> tuple[str, str] | None:
    """What made the job end itself, and what to do: no log says more about it. None: it did not. A job that was taken
    down before it ran has no word of its own; `state` is Slurm's, if it still knows one."""
    if not seen.directory.exit and seen.directory.revoked and (not state or state.startswith("CANCELLED")):
        return ("taken down with nemodeploy", "")
    cause = seen.directory.exit.cause if seen.directory.exit else ""
    if cause == "cancelled":
        return ("taken down with nemodeploy", "") if seen.directory.revoked else ENDS["CANCELLED"]
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
