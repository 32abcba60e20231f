"""nemodeploy connect: a port of this machine that leads to the server."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.reporters import PlainReporter
from nemodeploy.cli.words import tell
from nemodeploy.errors import BadInput, JobEnded

LOOK_EVERY_S = 0.5


@click.command("connect", short_help="A port of this machine that leads to it.")
@click.argument("name")
@options.networked
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Of this machine; 0 takes a free one. Default: the server's."
)
@click.argument("words", nargs=-1, metavar="[-- COMMAND…]", type=click.UNPROCESSED)
def command(name: str, cluster: str | None, as_json: bool, port: int | None, words: Sequence[str]) -> int:
    """Open a tunnel to a deployment and keep it, until Ctrl-C or for as long as COMMAND runs.

    It follows the server to another node, reconnects, and renews the lease. Only this machine can use the port.
    """
    from nemodeploy.adapters import child
    from nemodeploy.app.connecting import Connection

    world.require_name(name)
    if words:
        child.require(words)
        if as_json:
            raise BadInput("--json and a COMMAND, whose output it would be in", hint="leave one of them out")
    world.interrupt_on_termination()
    with contextlib.ExitStack() as stack:
        site, directory, endpoint = world.serving(stack, cluster, name)
        connection = Connection(site, world.ports(PlainReporter()), directory.token, directory.plan, endpoint)
        connection.open(endpoint.port if port is None else port)
        stack.callback(connection.close)
        variables = connection.variables()
        url = connection.url
        if words:
            return child.run(words, {**os.environ, **variables}, from_terminal=sys.stdin.isatty())[0]
        if as_json:
            click.echo(json.dumps({"schema": "nemodeploy/connect@1", "name": name, "url": url, "variables": variables}))
        else:
            for key, value in variables.items():
                click.echo(f"export {key}={shlex.quote(value)}")
            tell(f"{name} answers at {url} until Ctrl-C")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            while not connection.has_ended:
                time.sleep(LOOK_EVERY_S)
        if connection.has_ended:
            raise JobEnded(f"{name} has ended", hint=f"nemodeploy status {name}")
    return 0
