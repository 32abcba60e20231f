"""nemodeploy connect: a port of this machine that leads to the server."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from nemodeploy.cli import options, workflow, world
from nemodeploy.cli.reporters import PlainReporter
from nemodeploy.cli.words import put_json, say, tell
from nemodeploy.errors import BadInput, JobEnded

SCHEMA = "nemodeploy/connect@1"
LOOK_EVERY_S = 0.5


@click.command("connect", short_help="A port of this machine that leads to it.")
@click.argument("name")
@options.networked
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Of this machine; 0 takes a free one. Default: the server's."
)
@click.option("--raw", is_flag=True, help="The engine's own protocol instead of OpenAI's.")
@click.option("--background", is_flag=True, help="Return when it is open; it goes on until --stop.")
@click.option("--stop", is_flag=True, help="End the one in the background.")
@click.argument("words", nargs=-1, metavar="[-- COMMAND…]", type=click.UNPROCESSED)
def command(
    name: str,
    cluster: str | None,
    as_json: bool,
    port: int | None,
    raw: bool,
    background: bool,
    stop: bool,
    words: Sequence[str],
) -> int:
    """Open a tunnel to a deployment and keep it, until Ctrl-C or for as long as COMMAND runs.

    It speaks OpenAI's API whatever the engine speaks; paste the lines it prints. It follows the server to another node,
    reconnects, and renews the lease. Only this machine can use the port, and only with the key that it prints.
    """
    world.require_name(name)
    if sum((bool(words), background, stop)) > 1:
        raise BadInput("a COMMAND, --background and --stop are three different things", hint="leave all but one out")
    if words and as_json:
        raise BadInput("--json and a COMMAND, whose output it would be in", hint="leave one of them out")
    if stop:
        return _stop(name, as_json=as_json)
    if background:
        return _background(name, cluster, port, raw=raw, as_json=as_json)
    return _foreground(name, cluster, port, words, raw=raw, as_json=as_json)


def _foreground(
    name: str, cluster: str | None, port: int | None, words: Sequence[str], *, raw: bool, as_json: bool
) -> int:
    from nemodeploy.adapters import child
    from nemodeploy.app.connecting import Connection

    if words:
        child.require(words)
    world.interrupt_on_termination()
    with contextlib.ExitStack() as stack:
        site, directory, endpoint = world.serving(stack, cluster, name)
        ports = world.ports(PlainReporter())
        connection = Connection(site, ports, directory.token, directory.plan, endpoint, raw=raw)
        connection.open(endpoint.port if port is None else port)
        stack.callback(connection.close)
        variables = connection.variables(os.environ)
        if words:
            return child.run(words, {**os.environ, **variables}, from_terminal=sys.stdin.isatty())[0]
        about = {"name": name, "cluster": site.cluster.name}
        _show({"schema": SCHEMA, **about, "url": connection.url, "variables": variables}, as_json=as_json)
        tell(f"{name} answers at {connection.url} until Ctrl-C")
        with contextlib.suppress(KeyboardInterrupt):
            while not connection.has_ended:
                time.sleep(LOOK_EVERY_S)
        if connection.has_ended:
            tell(f"error: {name} has ended\n  try  {site.cluster.command('status', name)}")
            return JobEnded.exit_code
    return 0


def _background(name: str, cluster: str | None, port: int | None, *, raw: bool, as_json: bool) -> int:
    """The same in a process of its own; what it says when it cannot is ours to say."""
    from nemodeploy.adapters.background import Tunnels
    from nemodeploy.adapters.resources import state_directory

    tunnels = Tunnels(state_directory())
    with tunnels.alone(name):
        document = tunnels.running(name)
        if document is not None:
            _same(document, name, cluster, port, raw=raw)
        else:
            where = ("--cluster", cluster) if cluster else ()
            chosen = ("--port", str(port)) if port is not None else ()
            started = tunnels.start(name, ("connect", name, "--json", *where, *chosen, *(("--raw",) if raw else ())))
            if started.code is not None:
                workflow.repeat(started.said)
                if as_json:
                    put_json(started.document)
                return started.code
            document = started.document
    _show(document, as_json=as_json)
    tell(f"{name} answers at {document['url']} until nemodeploy connect {name} --stop")
    return 0


def _same(document: Mapping[str, Any], name: str, cluster: str | None, port: int | None, *, raw: bool) -> None:
    """Raises BadInput when the tunnel that is open is not the one that was asked for."""
    from nemodeploy.app.wanted import cluster as read

    differs = (
        (port and not document["url"].endswith(f":{port}"), f"at {document['url']}"),
        (raw and "OPENAI_BASE_URL" in document["variables"], "with OpenAI's API"),
        (cluster and read(cluster).name != document["cluster"], f"on cluster {document['cluster']}"),
    )
    for different, how in differs:
        if different:
            raise BadInput(f"a tunnel to {name} is open already, {how}", hint=f"nemodeploy connect {name} --stop")


def _stop(name: str, *, as_json: bool) -> int:
    from nemodeploy.adapters.background import Tunnels
    from nemodeploy.adapters.resources import state_directory

    tunnels = Tunnels(state_directory())
    with tunnels.alone(name):
        stopped = tunnels.stop(name)
    if as_json:
        put_json({"schema": SCHEMA, "name": name, "stopped": stopped})
    else:
        say(f"the tunnel to {name} is closed" if stopped else f"no tunnel to {name} is open in the background")
    return 0


def _show(document: Mapping[str, Any], *, as_json: bool) -> None:
    """Ready to be pasted, or to be read by `eval`."""
    if as_json:
        put_json({key: value for key, value in document.items() if key != "process"})
    else:
        for key, value in document["variables"].items():
            say(f"export {key}={shlex.quote(value)}")
    sys.stdout.flush()
