"""nemodeploy keep: renew a lease by hand."""

from __future__ import annotations

import contextlib

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.words import clock, put_json, say
from nemodeploy.errors import PreflightFailed


@click.command("keep", short_help="Renew its lease, so that it stays up.")
@click.argument("name")
@options.networked
@options.lease
def command(name: str, cluster: str | None, as_json: bool, ttl: float | None, no_ttl: bool) -> None:
    """Renew the lease of a deployment for as long as before, or change it; without one it needs no renewal."""
    world.require_name(name)
    with contextlib.ExitStack() as stack:
        site, deployment = world.the_one(stack, cluster, name, ended_too=True)
        wanted_s = options.ttl_seconds(ttl, no_ttl, site.cluster)
        if deployment.verdict.gone:
            hint = site.cluster.command("logs", name)
            raise PreflightFailed(f"{name} has ended: {deployment.verdict.reason}", hint=hint)
        world.require_legible(site, deployment)
        token = deployment.seen.directory.token
        if no_ttl:
            site.drop_lease(token)
            ttl_s = None
        else:
            ttl_s = site.renew(token, wanted_s)
    if as_json:
        put_json({"schema": "nemodeploy/keep@1", "name": name, "token": str(token), "ttl_s": ttl_s})
    elif ttl_s is None:
        say(f"{name} has no lease; it stays up until its time limit")
    else:
        say(f"{name} stays up for {clock(ttl_s)} from now unless it is renewed, and not beyond its time limit")
