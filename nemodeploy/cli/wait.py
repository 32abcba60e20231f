"""nemodeploy wait: until a deployment is ready, or has ended."""

from __future__ import annotations

import contextlib

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.reporters import reporter
from nemodeploy.cli.words import put_json, say
from nemodeploy.errors import BadInput


@click.command("wait", short_help="Until it is ready, or has ended.")
@click.argument("name")
@options.networked
@click.option(
    "--for",
    "goal",
    type=click.Choice(("ready", "ended", "gone")),
    default="ready",
    show_default=True,
    help="What to wait for; `gone` holds for what never was, too.",
)
@click.option("--timeout", type=options.Seconds(), help="For so long at most; default: as long as it takes.")
def command(name: str, cluster: str | None, as_json: bool, goal: str, timeout: float | None) -> None:
    """Return 0 when it is what you wait for. It is only watched, never cancelled.

    Exit codes: 12 a newer nemodeploy made it, 30 it ended and will not be ready, 31 still queued and 32 still starting
    when the time was over, 50 not known.
    """
    from nemodeploy.app.waiting import GONE, wait

    world.require_name(name)
    watcher = reporter(plain=as_json)
    with contextlib.ExitStack() as stack:
        stack.callback(watcher.close)
        try:
            site, deployment = world.the_one(stack, cluster, name, ended_too=True)
        except BadInput:
            if goal != GONE:
                raise
            _tell(name, None, as_json=as_json)
            return
        found = wait(site, world.ports(watcher), deployment, goal, timeout_s=timeout)
    _tell(name, found.verdict.state.value if found else None, as_json=as_json)


def _tell(name: str, state: str | None, *, as_json: bool) -> None:
    if as_json:
        put_json({"schema": "nemodeploy/wait@1", "name": name, "state": state})
    else:
        say(f"{name} is {state or 'gone'}")
