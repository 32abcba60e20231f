"""nemodeploy sandbox: a real Slurm on this machine."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import click

from nemodeploy.cli import options
from nemodeploy.errors import BadInput, ClusterUnreachable

if TYPE_CHECKING:
    from nemodeploy.sandbox.cluster import Sandbox

START = "nemodeploy sandbox up"


def _sandbox() -> Sandbox:
    from nemodeploy.adapters.resources import sandbox_directory
    from nemodeploy.sandbox.cluster import Sandbox
    from nemodeploy.sandbox.place import Place

    return Sandbox(Place(sandbox_directory()))


def _running() -> Sandbox:
    sandbox = _sandbox()
    if sandbox.state() is None:
        raise ClusterUnreachable("the sandbox is not running", hint=START)
    return sandbox


@click.group("sandbox", short_help="A real Slurm cluster on this machine, for trying and testing.")
def command() -> None:
    """A whole Slurm cluster on this machine: 2×8 H100, 2×8 A100 and 1×8 H200, with fake GPUs, reached over SSH."""


@command.command("up")
@click.option(
    "--mode",
    type=click.Choice(("auto", "namespaces", "plain")),
    default="auto",
    show_default=True,
    help="namespaces: every node a host of its own; plain: daemons side by side.",
)
@options.as_json
def up(mode: str, as_json: bool) -> None:
    """Start it, or say that it runs; returns when every node is idle."""
    from nemodeploy.adapters.resources import config_directory

    sandbox, begun = _sandbox(), time.monotonic()
    cluster_file = config_directory() / "clusters/sandbox.yaml"
    try:
        cluster_file.parent.mkdir(parents=True, exist_ok=True)
        before = sandbox.state()
        state = before or sandbox.up(mode)
        new = cluster_file.with_suffix(".new")
        new.write_text((sandbox.place.root / "cluster.yaml").read_text())
        new.replace(cluster_file)
    except OSError as error:
        raise BadInput(
            f"cannot write {error.filename}: {error.strerror}", hint="check NEMODEPLOY_SANDBOX_DIR and XDG_CONFIG_HOME"
        ) from error
    if state.mode == "plain" and mode == "auto":
        click.echo(
            "note: namespaces are refused here, so all nodes share this machine's network (loopback, munge)", err=True
        )
    if as_json:
        click.echo(
            json.dumps({"schema": "nemodeploy/sandbox@1", "running": True, "mode": state.mode, "port": state.port})
        )
        return
    verb = "runs already" if before else f"is up after {time.monotonic() - begun:.1f} s"
    click.echo(f"the sandbox {verb}: 5 nodes, 40 fake GPUs, cluster name sandbox ({state.mode})")
    click.echo("  nemodeploy up --profile h100x16", err=True)


@command.command("status")
@options.as_json
def status(as_json: bool) -> None:
    """Say whether it runs, and what Slurm says of each node."""
    sandbox = _running()
    state, nodes = sandbox.state(), sandbox.node_states()
    if as_json:
        mode, port = (state.mode, state.port) if state else ("", 0)
        document = {"schema": "nemodeploy/sandbox@1", "running": True, "mode": mode, "port": port, "nodes": dict(nodes)}
        click.echo(json.dumps(document))
        return
    for name, word in nodes.items():
        click.echo(f"{name:<10} {word}")


@command.command("down")
@options.as_json
def down(as_json: bool) -> None:
    """Stop it; no process, mount or network link of it is left. Asking twice is fine."""
    ran = _sandbox().down()
    if as_json:
        click.echo(json.dumps({"schema": "nemodeploy/sandbox@1", "running": False}))
    else:
        click.echo("the sandbox is down" if ran else "the sandbox was not running")


@command.command("shell")
def shell() -> None:
    """A shell on its login node."""
    words = _running().ssh_words("-t")
    os.execvp(words[0], words)


@command.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(words: tuple[str, ...]) -> None:
    """Run a command on its login node: `nemodeploy sandbox exec -- squeue`."""
    import shlex

    argv = [*_running().ssh_words(), "--", shlex.join(words)]
    os.execvp(argv[0], argv)
