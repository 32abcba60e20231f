"""nemodeploy login: one connection that all later commands use."""

from __future__ import annotations

import shutil

import click

from nemodeploy.cli import options
from nemodeploy.cli.words import clock, put_json, say
from nemodeploy.errors import BadInput, ClusterUnreachable, PreflightFailed

SCHEMA = "nemodeploy/login@1"
KEEP_S, MOST_S = 8 * 3600.0, 7 * 86400.0


@click.command("login", short_help="Log in once; later commands ask for no code.")
@click.argument("cluster", metavar="CLUSTER|HOST")
@click.option("--ssh-config", "config", default="", metavar="FILE", help="For a HOST without a cluster file.")
@click.option("--for", "keep_s", type=options.Seconds(), default=KEEP_S, help="Closed after so long without use; 8h.")
@options.as_json
@options.verbose
def command(cluster: str, config: str, keep_s: float, as_json: bool) -> int:
    """Open a connection to a cluster with the OpenSSH client, which asks for a code on the terminal if the site wants
    one, and keep it. Whatever needs the cluster then uses it, until `nemodeploy logout` or the time is over.
    """
    from nemodeploy.adapters import terminal
    from nemodeploy.adapters.transports.openssh_master import masters, start
    from nemodeploy.app.surveying import cluster_or_host

    site = cluster_or_host(cluster, config)
    if site.transport in ("local", "paramiko"):
        raise PreflightFailed(
            f"cluster {site.name} is reached by {site.transport}, which keeps no connection",
            hint="transport: auto in its cluster file",
        )
    if shutil.which("ssh") is None:
        raise PreflightFailed("there is no ssh on this machine", hint="apt install openssh-client")
    kept = masters()
    failure: ClusterUnreachable | None = None
    if keep_s > MOST_S:
        raise BadInput(f"--for {clock(keep_s)} is longer than {clock(MOST_S)}", hint="--for 8h")
    for host in site.ssh.hosts:
        path, fresh = kept.path(site, host), kept.fresh()
        there = kept.is_open(path, host)
        try:
            if not there:
                start(site, host, fresh, kept, person=terminal.asker() is not None, keep_s=max(int(keep_s), 1))
                there = not kept.keep(fresh, path, host)
        except ClusterUnreachable as error:
            failure = error
            continue
        if as_json:
            put_json({"schema": SCHEMA, "name": site.name, "host": host, "was_open": there})
        elif there:
            say(f"{site.name} is logged in to already ({host})")
        else:
            say(f"logged in to {site.name} ({host}) until nemodeploy logout {site.called}, or {clock(keep_s)} unused")
        return 0
    assert failure is not None
    raise failure
