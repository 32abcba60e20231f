"""nemodeploy down: give the GPUs back."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.reporters import reporter
from nemodeploy.cli.words import confirm, put_json, say, somebody_is_there
from nemodeploy.core.listing import natural
from nemodeploy.errors import BadInput, NemodeployError, OutcomeUnknown

if TYPE_CHECKING:
    from nemodeploy.app.ending import Ended
    from nemodeploy.app.site import Site
    from nemodeploy.values import Token


@click.command("down", short_help="Give the GPUs back; returns when Slurm says gone.")
@click.argument("name", required=False)
@options.networked
@click.option("--all", "everything", is_flag=True, help="Every deployment; asks first on a terminal.")
def command(name: str | None, cluster: str | None, as_json: bool, everything: bool) -> None:
    """End a deployment and return when Slurm holds nothing for it any more. Asking twice is fine."""
    from nemodeploy.app.down import down, tokens_of

    if bool(name) == everything:
        raise BadInput("say which deployment, or --all", hint="nemodeploy down NAME")
    if name:
        world.require_name(name)
    if everything and somebody_is_there():
        confirm("take every deployment down?", abort=True)
    world.interrupt_on_termination()
    asked, broken = world.clusters(cluster)
    failures: list[NemodeployError] = [error for _, error in broken]
    gone: list[Ended] = []
    watcher = reporter(plain=as_json)
    with contextlib.ExitStack() as stack:
        stack.callback(watcher.close)
        found: list[tuple[Site, tuple[Token, ...]]] = []
        for one in asked:
            site = stack.enter_context(world.site(one))
            try:
                found.append((site, tokens_of(site, name)))
            except NemodeployError as error:
                failures.append(error)
        holders = [site.cluster.name for site, tokens in found if tokens]
        if name and len(holders) > 1:
            raise BadInput(f"{name} is on {' and '.join(holders)}", hint=f"--cluster {holders[0]}")
        for site, tokens in found:
            ended, failed = down(site, world.ports(watcher), tokens)
            gone += ended
            failures += failed
    if not as_json:
        for end in sorted(gone, key=lambda end: natural(end.token.name)):
            say(f"{end.token.name} is gone{f' (job {end.job_id})' if end.job_id else ''}")
    _raise_the_worst(failures, settled=bool(name and gone))
    if as_json:
        rows = [{"name": end.token.name, "token": str(end.token), "job_id": end.job_id or None} for end in gone]
        put_json({"schema": "nemodeploy/down@1", "gone": rows})
    elif not gone:
        say("nothing of that name is up" if name else "nothing is up")


def _raise_the_worst(failures: list[NemodeployError], *, settled: bool) -> None:
    """A job that may be alive first; a cluster that did not answer unless the name was found elsewhere."""
    alive = [error for error in failures if error.exit_code == OutcomeUnknown.exit_code]
    if alive:
        raise alive[0]
    if failures and not settled:
        raise failures[0]
