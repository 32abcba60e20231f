"""nemodeploy events: what a deployment has been through, a line of JSON each."""

from __future__ import annotations

import contextlib
import time

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.words import put_json


@click.command("events", short_help="What it has been through, a line of JSON each.")
@click.argument("name")
@options.networked
def command(name: str, cluster: str | None, as_json: bool) -> None:
    """Print every state of a deployment with its time, oldest first; also of the last one of a name that has ended."""
    world.require_name(name)
    with contextlib.ExitStack() as stack:
        site, deployment = world.the_one(stack, cluster, name, ended_too=True)
        events = [{**event.as_json(), "at": _utc(event.at)} for event in site.history(deployment.token).events]
    if as_json:
        facts = {"schema": "nemodeploy/events@1", "name": name, "token": str(deployment.token)}
        put_json({**facts, "events": events})
        return
    for event in events:
        put_json(event)


def _utc(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
