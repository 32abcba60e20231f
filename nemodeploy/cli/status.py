"""nemodeploy status: the truth about every deployment, from any machine."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.words import clock, put_json, redraw, say, table, tell
from nemodeploy.core.foreign import wash_line
from nemodeploy.core.listing import counted
from nemodeploy.errors import ClusterUnreachable, NemodeployError

if TYPE_CHECKING:
    from nemodeploy.app.site import Site
    from nemodeploy.app.status import Deployment, Detail
    from nemodeploy.values import Token

HEADING = ("NAME", "STATE", "WHERE", "MODEL · LAYOUT", "GPUS", "UP FOR", "LEFT", "GPU-H")
DAY_S = 86400.0
ENDED_DAYS = 7.0


@click.command("status", short_help="What is up, and how it is.")
@click.argument("name", required=False)
@options.networked
@click.option("--all", "everything", is_flag=True, help="Those that have ended, too.")
@click.option(
    "--days",
    type=options.Number(0, 3650),
    default=ENDED_DAYS,
    show_default=True,
    metavar="DAYS",
    help="With --all: so far back.",
)
@click.option("-w", "--watch", is_flag=True, help="Show it again whenever it changes; four questions a minute.")
@click.option("--utc", is_flag=True, help="Times in UTC instead of this machine's own.")
@click.pass_context
def command(
    ctx: click.Context,
    name: str | None,
    cluster: str | None,
    as_json: bool,
    everything: bool,
    days: float,
    watch: bool,
    utc: bool,
) -> None:
    """Show every deployment, or one in detail: its history, its cost, and why it ended if it has.

    One question per cluster, all clusters at once; nothing local is needed.
    """
    if name is not None:
        world.require_name(name)
    back_s = days * DAY_S if everything else None
    with contextlib.ExitStack() as stack:
        sites, broken = world.sites(stack, cluster)
        view = View(sites=sites, broken=broken, name=name, back_s=back_s, as_json=as_json, utc=utc)
        if not watch:
            answer = view.once()
            view.show(answer)
            if view.untold:
                ctx.exit(ClusterUnreachable.exit_code)
            return
        with contextlib.suppress(KeyboardInterrupt):
            view.watch()


def _alike(answer: str | dict[str, Any]) -> str | dict[str, Any]:
    """A text less the words of a cluster's failure, which may change with every look of one outage."""
    return re.sub(r"^(\S+: UNKNOWN), .*$", r"\1", answer, flags=re.MULTILINE) if isinstance(answer, str) else answer


@dataclass(kw_only=True)
class View:
    """What is asked and how it is shown. `back_s`: with those that have ended so lately; None: without. `untold`: no
    state of those that were asked for could be told, since no controller answered."""

    sites: Sequence[Site]
    broken: Sequence[tuple[str, NemodeployError]]
    name: str | None
    back_s: float | None
    as_json: bool
    utc: bool
    untold: bool = False

    def watch(self) -> None:
        """On a terminal the screen is drawn again; elsewhere a text is printed when it differs from the one before."""
        from nemodeploy.app.pace import WATCHER_S

        before: str | dict[str, Any] = ""
        drawn = sys.stdout.isatty() and not self.as_json
        while True:
            answer = self.once(keep_on=True)
            if drawn:
                redraw(str(answer))
            elif _alike(answer) != _alike(before):
                self.show(answer)
            before = answer
            time.sleep(WATCHER_S)

    def show(self, answer: str | dict[str, Any]) -> None:
        """Print a text, or a document."""
        if isinstance(answer, dict):
            put_json(answer)
        else:
            say(answer)

    def once(self, *, keep_on: bool = False) -> str | dict[str, Any]:
        """One answer, as text or document. Raises what kept every cluster from answering, unless `keep_on`."""
        from nemodeploy.app.status import detail, document, only, status

        found, failures = world.ask_all(self.sites, lambda site: status(site, self.name), self.broken)
        nobody = len(failures) == len(self.sites) + len(self.broken)
        if failures and not found and (self.name or nobody) and not keep_on:
            raise world.unreachable(failures)  # a name that was not found may be where nobody answered
        left_out = 0
        if self.name and not found and not failures:
            found = world.last_ended(self.sites, self.name)
        elif self.back_s is not None and not self.name:
            ended, left_out, unknown = self._ended(self.back_s)
            found = [*found, *ended]
            failures += [failure for failure in unknown if failure[0] not in dict(failures)]
        deployments = [deployment for _, deployment in found]
        self.untold = bool(deployments) and not any(one.is_told for one in deployments)
        details: dict[Token, Detail] = {}
        if self.name and (deployments or not failures):
            one = only(deployments, self.name, world.where(self.sites))
            deployments = [one]
            with contextlib.suppress(NemodeployError):  # the state stands without its history
                details[one.token] = detail(next(site for site, other in found if other is one), one)
        if self.as_json:
            whole = document(deployments, failures, left_out=left_out)
            for row, deployment in zip(whole["deployments"], deployments, strict=True):
                row.update(details[deployment.token].as_json() if deployment.token in details else {})
            return whole
        lines = [f"{cluster}: UNKNOWN, {error.message}" for cluster, error in failures]
        while lines and not keep_on:
            tell(lines.pop(0))
        if not deployments:
            return "\n".join([*lines, *([] if failures else ["nothing is up"])])
        lines += [table([HEADING, *map(_row, deployments)]), *_notes(deployments)]
        if left_out:
            lines.append(f"{left_out} more ended earlier and are not shown: --days narrows it, status NAME shows one")
        for deployment in deployments if self.name else ():
            lines += ["", *_detail(deployment, details.get(deployment.token), utc=self.utc)]
        return "\n".join(lines)

    def _ended(self, back_s: float) -> tuple[world.Answers, int, Sequence[tuple[str, NemodeployError]]]:
        """Those that have ended so lately, how many are left out, and what kept a cluster from telling."""
        from nemodeploy.app.status import ended

        left_out: list[int] = []

        def ask(site: Site) -> Sequence[Deployment]:
            found, more = ended(site, within_s=back_s)
            left_out.append(more)
            return found

        found, failures = world.ask_all(self.sites, ask)
        return found, sum(left_out), failures


def _row(deployment: Deployment) -> tuple[str, ...]:
    facts, plan = deployment.as_json(), deployment.seen.directory.plan
    layout = plan.get("layout", {})
    where = f"{facts['cluster']}/{facts['job_id']}" if facts["job_id"] else str(facts["cluster"])
    return (
        str(facts["name"]),
        f"{facts['state']}  {facts['reason']}".rstrip(),
        where,
        f"{facts['model'] or '?'} · TP{layout.get('tensor_parallel', '?')} × PP{layout.get('pipeline_parallel', '?')}",
        str(facts["gpus"]),
        clock(facts["elapsed_s"]) if facts["elapsed_s"] is not None else "–",
        clock(facts["time_left_s"]) if facts["time_left_s"] is not None else "–",
        f"{facts['gpu_hours']:.1f}",
    )


def _notes(deployments: list[Deployment]) -> list[str]:
    """What a plan says its users must know, once for all deployments it holds for."""
    holders: dict[str, list[str]] = {}
    for deployment in deployments:
        for notice in deployment.notices if not deployment.verdict.gone else ():
            holders.setdefault(notice, []).append(deployment.name)
    return [f"note  {counted(names)}: {notice}" for notice, names in holders.items()]


def _detail(deployment: Deployment, detail: Detail | None, *, utc: bool) -> list[str]:
    facts, directory = deployment.as_json(), deployment.seen.directory
    endpoint, health = facts["endpoint"], directory.health
    ttl = f"ends itself {clock(facts['ttl_s'])} after its last renewal" if facts["ttl_s"] is not None else ""
    alive = not deployment.verdict.gone
    startup = facts["startup"] or {}
    expected = (
        f" of at most {clock(startup['expected_s'])}, more while it makes progress" if startup.get("expected_s") else ""
    )
    rows = [
        ("token", facts["token"]),
        ("owner", facts["owner"]),
        ("lease", ttl if alive else ""),
        ("nodes", ", ".join(facts["nodes"])),
        ("endpoint", f"{endpoint['url']} ({endpoint['protocol']}, from the login node)" if endpoint else ""),
        ("health", f"{health.phase}, {health.ranks_joined}/{health.ranks} ranks joined" if health and alive else ""),
    ]
    if startup:
        rows += [("start-up", f"{clock(startup['elapsed_s'])}{expected}"), ("last words", startup["said"])]
    if detail:
        rows.append(("granted", _granted(detail)))
        rows.append(("files", detail.directory))
        rows.append(("gpu hours", f"{detail.gpu_hours:.1f}, {detail.gpu_hours_before_ready:.1f} of them before READY"))
    lines = [f"  {key:<10} {wash_line(str(value))}" for key, value in rows if value]
    if detail:
        lines += _timeline(detail, utc=utc)
        lines += _why(deployment, detail)
    return lines


def _granted(detail: Detail) -> str:
    """What the scheduler says that it gave; its own word for the type need not be ours."""
    return ", ".join(f"{count} {word or 'GPUs, of a type that is not told'}" for word, count in detail.granted.items())


def _timeline(detail: Detail, *, utc: bool) -> list[str]:
    """Every state with the time of day it began, and how long it lasted."""
    events = detail.events
    ends = [*(event.at for event in events[1:]), None][: len(events)]
    lines = []
    for event, end in zip(events, ends, strict=True):
        when = time.gmtime(event.at) if utc else time.localtime(event.at)
        lasted = clock(end - event.at) if end is not None else ""
        state = f"{event.state.value:<11} {event.reason}".strip()
        lines.append(f"  {time.strftime('%m-%d %H:%M:%S', when)}  {lasted:>8}  {state}")
    return ["", *lines] if lines else []


def _why(deployment: Deployment, detail: Detail) -> list[str]:
    why = detail.why
    if why is None:
        return []
    lines = ["", f"{deployment.name} ended: {why.text}"]
    lines += [f"  │ {line}" for line in why.shown.evidence]
    return [*lines, f"  try  {why.shown.advice}"] if why.shown.advice else lines
