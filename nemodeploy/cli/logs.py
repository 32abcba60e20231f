"""nemodeploy logs: what the ranks said."""

from __future__ import annotations

import contextlib

import click

from nemodeploy.cli import options, world
from nemodeploy.errors import BadInput, NemodeployError


@click.command("logs", short_help="What the ranks said.")
@click.argument("name")
@options.networked
@click.option("-f", "--follow", is_flag=True, help="Go on as more comes, until the job ends.")
@click.option(
    "--tail", "lines", type=click.IntRange(0, 100_000), default=20, show_default=True, help="Lines per log file."
)
def command(name: str, cluster: str | None, as_json: bool, follow: bool, lines: int) -> None:
    """Print the ends of all ranks' logs, each line after its node and rank; also of a deployment that has ended."""
    from nemodeploy.app.logs import show

    world.require_name(name)
    collected: list[str] = []
    say = collected.append if as_json else click.echo
    asked, broken = world.clusters(cluster)
    failure: NemodeployError | None = broken[0][1] if broken else None
    with contextlib.ExitStack() as stack:
        for one in asked:
            try:
                show(stack.enter_context(world.site(one)), name, say, lines=lines, follow=follow)
                failure = None
                break
            except NemodeployError as error:
                failure = error if failure is None or isinstance(failure, BadInput) else failure
    if failure:
        raise failure
    if as_json:
        import json

        click.echo(json.dumps({"schema": "nemodeploy/logs@1", "name": name, "lines": collected}))
