"""nemodeploy reap: end what an owner left behind."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.failing import show_error
from nemodeploy.cli.reporters import reporter
from nemodeploy.cli.words import put_json, say, table
from nemodeploy.errors import BadInput, NemodeployError, OutcomeUnknown

if TYPE_CHECKING:
    from nemodeploy.app.reap import Found

OLDER_THAN_DAYS = 30


@click.command("reap", short_help="Find what an owner left behind, and end it.")
@options.networked
@click.option(
    "--owner",
    metavar="WHO",
    help="Whose; a * behind it stands for any rest. Default: yours (user@host), or this CI run's address.",
)
@click.option("--yes", is_flag=True, help="Do it; otherwise only say what would be done.")
@click.option(
    "--older-than",
    "days",
    type=options.Number(0, 3650),
    default=OLDER_THAN_DAYS,
    show_default=True,
    metavar="DAYS",
    help="Remove run directories that ended so many days ago.",
)
def command(cluster: str | None, as_json: bool, owner: str | None, yes: bool, days: float) -> None:
    """End what an owner left behind, and clear away what has ended. Whatever is not certain is kept, and said why.

    The owner is taken from NEMODEPLOY_OWNER, else it is the address of the CI run, else user@host.
    """
    from nemodeploy.app import ci
    from nemodeploy.app.reap import KEEP, act, survey

    world.interrupt_on_termination()
    if owner == "":
        raise BadInput("--owner is empty", hint="leave it out for your own")
    whose = owner or ci.owner(os.environ)
    asked, broken = world.clusters(cluster)
    failures: list[NemodeployError] = [error for _, error in broken]
    rows: list[tuple[str, Found]] = []
    answered = False
    watcher = reporter(plain=as_json)
    with contextlib.ExitStack() as stack:
        stack.callback(watcher.close)
        for one in asked:
            site = stack.enter_context(world.site(one))
            ports = world.ports(watcher)
            try:
                found = survey(site, ports, whose, older_than_s=days * 86400)
                answered = True
            except NemodeployError as error:
                failures.append(error)
                continue
            rows += [(one.name, thing) for thing in found]
            if yes:
                failures += act(site, ports, found, whose, older_than_s=days * 86400)
    alive = [error for error in failures if error.exit_code == OutcomeUnknown.exit_code]
    worst = next(iter(alive or failures), None)
    if as_json and (answered or not failures):
        document = {"schema": "nemodeploy/reap@1", "owner": whose, "done": yes, "found": list(map(_as_json, rows))}
        put_json({**document, "failures": [error.message for error in failures]})
        if worst:
            click.get_current_context().exit(show_error(worst, as_json=False))
    elif rows:
        say(table([("NAME", "STATE", "WHERE", "GPUS", "DONE" if yes else "WOULD", "WHY"), *map(_row, rows)]))
        if not yes and any(thing.action != KEEP for _, thing in rows):
            say("nothing was done; --yes does it")
    elif not failures:
        say(f"{whose} has left nothing")
    if worst:
        raise worst


def _row(row: tuple[str, Found]) -> tuple[str, ...]:
    cluster, thing = row
    place = f"{cluster}/{thing.job_id}" if thing.job_id else cluster
    return thing.token.name, thing.state or "–", place, str(thing.gpus), thing.action, thing.why


def _as_json(row: tuple[str, Found]) -> dict[str, Any]:
    cluster, thing = row
    facts = {key: getattr(thing, key) or None for key in ("job_id", "state", "gpus", "action", "why")}
    return {"cluster": cluster, "name": thing.token.name, "token": str(thing.token), **facts}
