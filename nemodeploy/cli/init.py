"""nemodeploy init: a cluster file for a site that can be logged in to."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.words import choose, put_json, say, somebody_is_there, tell
from nemodeploy.errors import BadInput

SCHEMA = "nemodeploy/init@1"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


@click.command("init", short_help="Look at a site and write its cluster file.")
@click.argument("host", required=False)
@click.option("--name", metavar="NAME", help="What the cluster is to be called; default: after the host.")
@click.option("--ssh-config", "config", default="", metavar="FILE", help="Another file than ~/.ssh/config.")
@click.option("--transport", default="auto", metavar="NAME", help="auto, paramiko, openssh, or local.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Default: where clusters are kept.")
@click.option("--yes", is_flag=True, help="Ask nothing; what cannot be known is decided and marked.")
@options.as_json
@options.verbose
def command(
    host: str | None, name: str | None, config: str, transport: str, output: Path | None, yes: bool, as_json: bool
) -> None:
    """Log in to HOST, look at its partitions, GPUs, accounts, containers and file systems, and write a cluster file
    with a comment wherever somebody may want something else. Nothing is left there; nothing is overwritten here.
    """
    from nemodeploy.adapters import files
    from nemodeploy.adapters.resources import config_directory
    from nemodeploy.app.site_file import write
    from nemodeploy.app.surveying import name_of, survey, unknown_cluster
    from nemodeploy.app.validating import validate

    if host and transport == "local" and host != "localhost":
        raise BadInput(f"{host} and --transport local, which is this machine", hint="leave one of them out")
    if name is not None and not re.fullmatch(NAME, name):
        raise BadInput(f"{name!r} is no name for a cluster", hint="letters, digits, . _ and -, 64 at most")
    config = str(Path(config).expanduser().absolute()) if config else ""
    asks = not yes and somebody_is_there()
    chosen = host or ("localhost" if transport == "local" else _host(config, asks=asks))
    called = name or name_of(chosen)
    path = output or config_directory() / "clusters" / f"{called}.yaml"
    if path.exists() or path.is_symlink():
        raise BadInput(f"{path} is there already", hint="--output FILE, or --name NAME")
    cluster = unknown_cluster(called, chosen, config, transport)
    with world.site(cluster) as site:
        found = survey(site)
    text = write(found, _choose if asks else lambda _, __, best: best)
    if transport != "auto":
        text += f"transport: {transport}\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_new(path, text)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be written: {error}", hint="--output FILE") from error
    validate(str(path), "cluster")
    if as_json:
        put_json({"schema": SCHEMA, "name": called, "file": str(path), "text": text})
    else:
        say(text, nl=False)
    tell(f"\nwritten to {path}\n  nemodeploy doctor {shlex.quote(called if output is None else str(path))}   tries it")


def _host(config: str, *, asks: bool) -> str:
    from nemodeploy.adapters.ssh_settings import hosts

    file = Path(config or "~/.ssh/config").expanduser()
    known = list(dict.fromkeys(hosts(file)))
    if not known or not asks:
        there = f"; {file} knows {', '.join(known)}" if known else ""
        raise BadInput(f"which host?{there}", hint="nemodeploy init HOST")
    return _choose("which host is the login node?", known, known[0])


def _choose(question: str, answers: Sequence[str], best: str) -> str:
    if len(answers) == 1:
        return answers[0]
    return choose(question, answers, best)
