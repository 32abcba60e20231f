"""nemodeploy checkpoint: whether a model's weights on a cluster are whole."""

from __future__ import annotations

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.words import put_json, show_check
from nemodeploy.errors import PreflightFailed

SCHEMA = "nemodeploy/checkpoint@1"


@click.group("checkpoint", short_help="Is a model's checkpoint on the cluster whole?")
def command() -> None:
    """Checkpoints on the cluster."""


@command.command("check", short_help="Look at it, and say what mends it.")
@click.argument("model")
@click.option("--kind", metavar="KIND", help="One form of it: nemo, hf, gguf …; default: all that the cluster names.")
@click.option("--path", metavar="PATH", help="Look there instead of where the cluster file says.")
@options.networked
def check(model: str, kind: str | None, path: str | None, cluster: str | None, as_json: bool) -> int:
    """Look at a model's checkpoint on a cluster: is it there, complete, no git-lfs pointers, no archive that every rank
    would unpack, and is there room for what is missing; with the commands that mend it. Exit 12 when it is not whole.
    """
    from nemodeploy.app import checkpoints
    from nemodeploy.app.wanted import cluster as read
    from nemodeploy.app.wanted import known_model
    from nemodeploy.core.checks import Verdict

    known, chosen = known_model(model), world.only_cluster(cluster)
    paths = checkpoints.named(chosen, known, kind, path)
    with world.site(read(chosen)) as site:
        found = list(checkpoints.check(site, known, paths))
    bad = sum(one.verdict is Verdict.FAILED for _, one in found)
    if as_json:
        rows = [
            {"kind": form, "path": paths[form], "result": one.verdict.value, "says": one.says, "remedy": one.remedy}
            for form, one in found
        ]
        put_json({"schema": SCHEMA, "model": known.name, "checks": rows, "failed": bad})
    else:
        for form, one in found:
            show_check(one, form)
    return PreflightFailed.exit_code if bad else 0
