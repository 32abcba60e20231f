"""nemodeploy logout: the end of what login has opened."""

from __future__ import annotations

import click

from nemodeploy.cli import options
from nemodeploy.cli.words import put_json, say

SCHEMA = "nemodeploy/logout@1"


@click.command("logout", short_help="Close what login has opened.")
@click.argument("cluster", metavar="CLUSTER|HOST")
@click.option("--ssh-config", "config", default="", metavar="FILE", help="For a HOST without a cluster file.")
@options.as_json
def command(cluster: str, config: str, as_json: bool) -> int:
    """Close the connection that `nemodeploy login` keeps to a cluster; deployments do not mind."""
    from nemodeploy.adapters.transports.openssh_master import masters
    from nemodeploy.app.surveying import cluster_or_host

    site, kept = cluster_or_host(cluster, config), masters()
    closed = [host for host in site.ssh.hosts if kept.end(kept.path(site, host), host)]
    if as_json:
        put_json({"schema": SCHEMA, "name": site.name, "closed": closed})
    else:
        say(f"logged out of {site.name} ({', '.join(closed)})" if closed else f"{site.name} was not logged in to")
    return 0
