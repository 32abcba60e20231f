"""What an owner has left behind: found, judged, and ended only where there is no doubt."""

from __future__ import annotations

from dataclasses import dataclass

from nemodeploy.app import ending, leftovers
from nemodeploy.app.ports import Ports
from nemodeploy.app.site import Site
from nemodeploy.core.readiness import Seen, State, Verdict, judge
from nemodeploy.core.remains import Remains
from nemodeploy.errors import NemodeployError
from nemodeploy.values import Token

END, ARCHIVE, REMOVE, KEEP = "end", "archive", "remove", "keep"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One thing that an owner left, what is to be done with it (end, archive, remove, keep), and why."""

    token: Token
    job_id: str
    state: str
    gpus: int
    action: str
    why: str


def survey(site: Site, ports: Ports, owner: str, *, older_than_s: float) -> list[Found]:
    """Everything on a cluster that is the owner's or whose owner cannot be told, with a decision for each."""
    look = site.look()
    remains = site.remains()
    noted, _ = ports.journal.entries()
    busy = {str(entry.token) for entry in noted if entry.is_running}
    found = []
    for seen in site.see_all(look, look.directories):
        whose = str(seen.directory.manifest.get("owner") or "")
        if not whose or _is_meant(whose, owner):
            verdict = judge(seen)
            action, why = _decide(seen, verdict, remains, whose, str(seen.directory.token) in busy)
            gpus = int(seen.directory.plan.get("layout", {}).get("gpus", 0))
            token = seen.directory.token
            state = verdict.state.value
            found.append(Found(token=token, job_id=seen.job_id, state=state, gpus=gpus, action=action, why=why))
    listed = {str(directory.token) for directory in look.directories}
    for token, age_s in remains.unlinked.items():
        theirs = remains.owners.get(token)
        if str(token) in listed or str(token) in look.rows:
            continue
        if theirs is None or _is_meant(theirs, owner):
            old = age_s > older_than_s and look.answered
            why = f"a submission that was broken off {_days(age_s)} ago"
            found.append(_leftover(token, REMOVE if old else KEEP, why if old else f"{why}; it may still go on"))
    for token, age_s in remains.archived.items():
        if age_s > older_than_s and _is_meant(remains.owners.get(token) or "", owner):
            found.append(_leftover(token, REMOVE, f"archived {_days(age_s)} ago"))
    return found


def _is_meant(whose: str, owner: str) -> bool:
    """An owner's name, or the beginning of one with a `*` behind it."""
    return whose.startswith(owner[:-1]) if owner.endswith("*") and len(owner) > 1 else whose == owner


def _still_to_end(site: Site, ports: Ports, owner: str, older_than_s: float) -> set[Token]:
    return {one.token for one in survey(site, ports, owner, older_than_s=older_than_s) if one.action == END}


def _leftover(token: Token, action: str, why: str) -> Found:
    return Found(token=token, job_id="", state="", gpus=0, action=action, why=why)


def _days(age_s: int) -> str:
    return f"{age_s // 86400} days" if age_s >= 86400 else f"{age_s // 60} minutes"


def _decide(seen: Seen, verdict: Verdict, remains: Remains, whose: str, busy: bool) -> tuple[str, str]:
    """What is to be done with what is up. Kept is whatever somebody may still want, or nothing is certain of."""
    token, ttl_s = seen.directory.token, seen.directory.ttl_s
    if verdict.gone:
        return ARCHIVE, f"it has ended: {verdict.reason}"
    if not whose:
        return KEEP, "its run directory cannot be read, so nobody knows whose it is"
    if verdict.state is State.UNKNOWN:
        return KEEP, f"nothing is certain: {verdict.reason}"
    if busy:
        return KEEP, "the command that started it is still running here"
    if verdict.state is State.STOPPING:
        return KEEP, "it is ending already"
    renewed = remains.renewed.get(token)
    if ttl_s is not None and (renewed is None or renewed <= ttl_s):
        ago = "" if renewed is None else f", last {renewed} s ago"
        return KEEP, f"its lease is renewed{ago}; without that it ends itself after {ttl_s} s"
    if ttl_s is not None:
        return END, f"nobody has renewed its lease for {renewed} s"
    return END, "it has no lease, and nothing here is using it"


def act(site: Site, ports: Ports, found: list[Found], owner: str, *, older_than_s: float) -> list[NemodeployError]:
    """Do what was decided; what cannot be verified is told and does not save the others.

    To end one takes a while, so each is judged once more right before: its owner may be back.
    """
    failures = []
    for one in found:
        try:
            if one.action == END and one.token in _still_to_end(site, ports, owner, older_than_s):
                ending.end(site, ports, one.token, why="reaping", reason="reaped with nemodeploy")
            elif one.action == ARCHIVE:
                ports.journal.forget(one.token)  # the look that proved its end has archived it
            elif one.action == REMOVE:
                site.remove(one.token)
        except NemodeployError as error:
            failures.append(error)
    leftovers.settle(site, ports)
    return failures
