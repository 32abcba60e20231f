"""What is up, where, and since when: one remote call for all deployments of a cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nemodeploy.app.archive import archived
from nemodeploy.app.explaining import Why, explain
from nemodeploy.app.site import Site
from nemodeploy.core.foreign import wash_json, wash_line
from nemodeploy.core.history import Event, spent
from nemodeploy.core.listing import natural
from nemodeploy.core.readiness import Seen, State, Verdict, current, judge
from nemodeploy.errors import BadInput, NemodeployError
from nemodeploy.schedulers.base import QueueRow
from nemodeploy.values import Endpoint, Epoch, Token

SCHEMA = "nemodeploy/status@1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """One line of `status`: what was seen, and what it means."""

    cluster: str
    seen: Seen
    verdict: Verdict

    @property
    def name(self) -> str:
        """The deployment's name."""
        return self.seen.directory.token.name

    @property
    def token(self) -> Token:
        """The submission it is."""
        return self.seen.directory.token

    @property
    def is_told(self) -> bool:
        """Whether its state could be told; not where the scheduler did not answer."""
        return self.seen.answered or self.verdict.state is not State.UNKNOWN

    @property
    def notices(self) -> tuple[str, ...]:
        """What its plan said a user must know."""
        kept = self.seen.directory.plan.get("notices")
        return tuple(wash_line(str(one)) for one in kept) if isinstance(kept, list) else ()

    def as_json(self) -> dict[str, Any]:
        """The document of `status --json` for one deployment."""
        plan, row = self.seen.directory.plan, self.seen.row
        row = row if isinstance(row, QueueRow) else None
        gpus = int(plan.get("layout", {}).get("gpus", 0))
        last_word = self.seen.directory.exit
        health = current(self.seen.directory, row.job_id, row.restart).health if row else None
        elapsed = row.elapsed_s if row else last_word.elapsed_s if last_word and self.verdict.gone else None
        facts = {
            "name": self.name,
            "state": self.verdict.state.value,
            "reason": self.verdict.reason,
            "cluster": self.cluster,
            "profile": plan.get("profile"),
            "model": plan.get("model"),
            "engine": plan.get("engine"),
            "job_id": self.seen.job_id or None,
            "token": str(self.seen.directory.token),
            "epoch": f"{row.job_id}.{row.restart}" if row else None,
            "nodes": list(hosts(row.nodes)) if row else [],
            "gpus": gpus,
            "elapsed_s": elapsed,
            "time_left_s": row.left_s if row and not self.verdict.gone else None,
            "ttl_s": self.seen.directory.ttl_s,
            "owner": self.seen.directory.manifest.get("owner"),
            "gpu_hours": round(gpus * (elapsed or 0) / 3600, 3),
            "endpoint": self._shown_endpoint(),
            "port_held": health.port_held or None if health else None,
            "startup": self._startup(),
            "notices": list(self.notices),
        }
        washed: dict[str, Any] = wash_json(facts)
        return washed

    @property
    def endpoint(self) -> Endpoint | None:
        """Where it answers, of the epoch that Slurm reports; whether it is good, the verdict says."""
        row = self.seen.row
        return current(self.seen.directory, row.job_id, row.restart).endpoint if row else None

    def _startup(self) -> dict[str, Any] | None:
        """Only while it starts: how long so far, how long it may take, what is loaded, and what a rank said last."""
        row = self.seen.row
        health = current(self.seen.directory, row.job_id, row.restart).health if row else None
        if self.verdict.state is not State.STARTING or health is None:
            return None
        expected_s = self.seen.directory.plan.get("startup_budget_s")
        return {
            "elapsed_s": health.elapsed_s,
            "expected_s": expected_s if isinstance(expected_s, int) else None,
            "progress": health.progress,
            "said": health.said,
        }

    def _shown_endpoint(self) -> dict[str, str] | None:
        """Only while it is good."""
        endpoint = self.endpoint
        if endpoint is None or self.verdict.state is not State.READY:
            return None
        host = self.seen.directory.plan.get("endpoint_host") or endpoint.host
        return {"url": f"http://{host}:{endpoint.port}", "protocol": endpoint.protocol, "model": endpoint.model}


def status(site: Site, name: str | None = None) -> tuple[Deployment, ...]:
    """Every live deployment of a cluster, or those of one name. Raises ClusterUnreachable where nobody can tell."""
    look = site.look(name=name or "")
    seen = site.see_all(look, look.named(name))
    return tuple(Deployment(cluster=site.cluster.name, seen=one, verdict=judge(one)) for one in seen)


def ended(site: Site, *, within_s: float) -> tuple[tuple[Deployment, ...], int]:
    """The newest of what has ended and was archived so lately, the latest last, and how many there are besides; no
    controller is asked. Raises ClusterUnreachable where that cannot be told."""
    lately = archived(site, within_s=within_s)
    return tuple(_archived(site, seen) for seen in lately.found), lately.of - len(lately.found)


def last_ended(site: Site, name: str) -> tuple[Deployment, ...]:
    """The last one of a name that has ended, however long ago; none when there never was one. Raises as `ended`."""
    return tuple(_archived(site, seen) for seen in archived(site, of=name, most=1).found)


def archived_as(site: Site, token: Token) -> tuple[Deployment, ...]:
    """The same of one submission."""
    return tuple(_archived(site, seen) for seen in archived(site, of=token).found)


def _archived(site: Site, seen: Seen) -> Deployment:
    return Deployment(cluster=site.cluster.name, seen=seen, verdict=_ended(seen))


def _ended(seen: Seen) -> Verdict:
    verdict = judge(seen)
    return verdict if verdict.gone else Verdict(state=State.ENDED, reason="never submitted", gone=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Detail:
    """What `status NAME` adds: where its files are, what it has been through and has cost, and of an ended one why.
    `granted`: the GPUs that the scheduler says a running one holds, by the site's own type."""

    directory: str
    events: tuple[Event, ...]
    gpu_hours: float
    gpu_hours_before_ready: float
    why: Why | None
    granted: Mapping[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The keys that it adds to the document."""
        return {
            "directory": self.directory or None,
            "granted_gpus": [{"type": wash_line(word) or None, "count": count} for word, count in self.granted.items()],
            "timeline": [event.as_json() for event in self.events],
            "gpu_hours": self.gpu_hours,
            "gpu_hours_before_ready": self.gpu_hours_before_ready,
            "why": self.why.as_json() if self.why else None,
        }


def detail(site: Site, deployment: Deployment) -> Detail:
    """One more remote call; for an ended one another, for its logs."""
    seen = deployment.seen
    row = seen.row if isinstance(seen.row, QueueRow) else None
    running = Epoch(row.job_id, row.restart) if row and row.kind not in ("waiting", "ended") else None
    history, granted = site.history_and_gpus(seen.directory.token, running.job_id if running else "")
    seconds = spent(history.events, running, row.elapsed_s if row and running else None)
    gpus = int(seen.directory.plan.get("layout", {}).get("gpus", 0))
    return Detail(
        directory=history.directory,
        granted=granted,
        events=history.events,
        gpu_hours=round(gpus * seconds.held_s / 3600, 3),
        gpu_hours_before_ready=round(gpus * seconds.before_ready_s / 3600, 3),
        why=explain(site, seen) if deployment.verdict.gone and seen.job_id else None,
    )


def document(
    deployments: Sequence[Deployment], failures: Sequence[tuple[str, NemodeployError]], *, left_out: int = 0
) -> dict[str, Any]:
    """The document of `status --json`. `left_out`: how many that ended earlier are not in it."""
    return {
        "schema": SCHEMA,
        "deployments": [deployment.as_json() for deployment in deployments],
        "left_out": left_out,
        "unknown": [{"cluster": cluster, "error": error.message} for cluster, error in failures],
    }


def only(deployments: Sequence[Deployment], name: str, where: str = "") -> Deployment:
    """The one deployment of a name. Raises BadInput when there is none, or more than one.

    `where`: what a command needs to look in the same place, with a blank before it.
    """
    found = [deployment for deployment in deployments if deployment.name == name]
    if not found:
        raise BadInput(f"no deployment named {name!r} is up", hint=f"nemodeploy status{where}")
    clusters = sorted({deployment.cluster for deployment in found}, key=natural)
    if len(clusters) > 1:
        raise BadInput(f"{name} is on {' and '.join(clusters)}", hint=f"--cluster {clusters[0]}")
    return ([deployment for deployment in found if deployment.seen.directory.manifest] or found)[-1]


def hosts(node_list: str) -> tuple[str, ...]:
    """Slurm's `h100-[1-2,5],cpu1` as names, for display only; the job asks Slurm itself."""
    found: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", node_list):
        found += _expand(part)
    return tuple(found)


def _expand(part: str) -> list[str]:
    match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", part)
    if not match:
        return [part]
    names = []
    for span in match[2].split(","):
        first, _, last = span.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            return [part]
        numbers = range(int(first), min(int(last or first), int(first) + 4096) + 1)
        names += [f"{match[1]}{number:0{len(first)}}{tail}" for number in numbers for tail in _expand(match[3])]
    return names
