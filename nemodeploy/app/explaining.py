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
from nemodeploy.values import Token

# What the job ends by itself for; no log says more about it.
ITS_OWN = frozenset(("cancelled", "time_limit", "lease_expired", "revoked"))
_ENDS_OF = {"time_limit": "TIMEOUT"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """What happened in a few words, the line that shows it with the log it stands in, and what to do."""

    text: str
    line: str = ""
    log: str = ""
    advice: str = ""

    def as_json(self) -> dict[str, str]:
        """The key `why` of a document."""
        return {"text": self.text, "line": self.line, "log": self.log, "advice": self.advice}

    @property
    def evidence(self) -> tuple[str, ...]:
        """The line for people."""
        return (f"{self.line}     {self.log}",) if self.line else ()


def read_logs(site: Site, token: Token) -> list[Log]:
    """The ends of a token's logs; without a connection there are none, and that changes nothing."""
    try:
        return [Log(name, text) for name, text in site.logs_of(token).items()]
    except (ClusterUnreachable, AuthenticationFailed):
        return []


def advise(site: Site, seen: Seen, rank: int | None = None) -> Diagnosis:
    """What the logs show of a failure."""
    own = causes(seen.directory.plan, site.cluster.scheduler)
    return diagnose(read_logs(site, seen.directory.token), rank, own)


def explain(site: Site, seen: Seen) -> Why:
    """The first cause of an end. Says that it is unknown rather than guess."""
    ended = seen.directory.exit
    state = seen.row.state if seen.row else seen.account.split(" ")[0]
    said = ENDS.get(_ENDS_OF.get(ended.cause, "") if ended and ended.cause in ITS_OWN else state)
    if ended and ended.cause == "cancelled":
        said = ("taken down with nemodeploy", "") if seen.directory.revoked else ENDS["CANCELLED"]
    if ended and ended.cause in ITS_OWN:
        meaning, advice = said or (CAUSES[ended.cause], "")
        return Why(text=f"{meaning}{_slurm(state)}", advice=advice)
    found = advise(site, seen, ended.rank if ended else None)
    if ended and ended.cause == "port_in_use":
        found = Diagnosis(meaning=f"port {ended.port} is in use on its node", advice="--set port=auto")
    if said:
        found = replace(found, meaning=said[0], advice=said[1])
    meaning = found.meaning or "its cause is unknown"
    advice = found.advice or f"nemodeploy logs {seen.directory.token.name}"
    return Why(text=f"{_own_word(ended)}{_slurm(state)}: {meaning}", line=found.line, log=found.log, advice=advice)


def _own_word(ended: Exit | None) -> str:
    if ended is None:
        return "it left no word of why"
    status = ended.status if ended.rank_status is None else ended.rank_status
    rank = f" (rank {ended.rank})" if ended.rank is not None else ""
    words = status_in_words(status)
    return f"{CAUSES.get(ended.cause, ended.cause)}{rank}, exit {status}{f', {words}' if words else ''}"


def _slurm(state: str) -> str:
    return f", Slurm says {state}" if state else ""
