"""nemodeploy status: the truth about every deployment, from any machine."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.words import clock, table

if TYPE_CHECKING:
    from nemodeploy.app.status import Deployment

HEADING = ("NAME", "STATE", "WHERE", "MODEL · LAYOUT", "GPUS", "UP FOR", "LEFT", "GPU-H")


@click.command("status", short_help="What is up, and how it is.")
@click.argument("name", required=False)
@options.networked
def command(name: str | None, cluster: str | None, as_json: bool) -> None:
    """Show every deployment, or one in detail. One question per cluster; nothing local is needed."""
    from nemodeploy.app.status import document, only
    from nemodeploy.app.wanted import cluster_names

    if name:
        world.require_name(name)
    names = cluster_names(cluster)
    with contextlib.ExitStack() as stack:
        found, failures = world.everywhere(stack, cluster, name)
    deployments = [deployment for _, deployment in found]
    if failures and not deployments and (name or len(failures) == len(names)):
        raise world.unreachable(failures)  # a name that was not found may be where nobody answered
    if name:
        deployments = [only(deployments, name)]
    if as_json:
        click.echo(json.dumps(document(deployments, failures)))
        return
    for cluster_name, error in failures:
        click.echo(f"{cluster_name}: UNKNOWN, {error.message}", err=True)
    if not deployments:
        click.echo("nothing is up")
        return
    click.echo(table([HEADING, *map(_row, deployments)]))
    _notes(deployments)
    if name:
        for deployment in deployments:
            _detail(deployment)


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


def _notes(deployments: list[Deployment]) -> None:
    """What a plan says its users must know, once for all deployments it holds for."""
    holders: dict[str, list[str]] = {}
    for deployment in deployments:
        for notice in deployment.notices:
            holders.setdefault(notice, []).append(deployment.name)
    for notice, names in holders.items():
        click.echo(f"note  {', '.join(names)}: {notice}")


def _detail(deployment: Deployment) -> None:
    facts, health = deployment.as_json(), deployment.seen.directory.health
    endpoint = facts["endpoint"]
    lines = [
        ("token", facts["token"]),
        ("owner", facts["owner"]),
        ("lease", f"ends itself {clock(facts['ttl_s'])} after its last renewal" if facts["ttl_s"] is not None else ""),
        ("nodes", ", ".join(facts["nodes"])),
        ("endpoint", f"{endpoint['url']} ({endpoint['protocol']}, from the login node)" if endpoint else ""),
        ("health", f"{health.phase}, {health.ranks_joined}/{health.ranks} ranks joined" if health else ""),
    ]
    click.echo("")
    for key, value in lines:
        if value:
            click.echo(f"  {key:<10} {value}")
