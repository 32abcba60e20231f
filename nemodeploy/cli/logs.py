"""nemodeploy logs: what the ranks said."""

from __future__ import annotations

import contextlib
import time

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.words import put_json, say, tell
from nemodeploy.errors import BadInput, NemodeployError


@click.command("logs", short_help="What the ranks said.")
@click.argument("name")
@options.networked
@click.option("-f", "--follow", is_flag=True, help="Go on as more comes, until the job ends.")
@click.option(
    "--tail", "lines", type=click.IntRange(0, 100_000), help="Lines per log file; 20 if nothing else is said."
)
@click.option("--since", type=options.Seconds(), help="All of the last 10m, 2h or so instead, to the minute.")
@click.option("--rank", type=click.IntRange(0), help="Of this rank only.")
@click.option("--node", metavar="HOST", help="Of the ranks on this node only.")
def command(
    name: str,
    cluster: str | None,
    as_json: bool,
    follow: bool,
    lines: int | None,
    since: float | None,
    rank: int | None,
    node: str | None,
) -> None:
    """Print the ends of all ranks' logs, each line after its node and rank; also of a deployment that has ended.

    Followed, they go on through a requeue and a broken connection, without a line lost or shown twice.
    """
    from nemodeploy.app.logs import TAIL_LINES, Wanted, show
    from nemodeploy.app.outage import Outage

    world.require_name(name)
    if lines is not None and since is not None:
        raise BadInput("--tail and --since contradict each other", hint="leave one of them out")
    wanted = Wanted(rank=rank, node=node, lines=TAIL_LINES if lines is None else lines, since_s=since)
    outage = Outage(lambda phase, text: tell(f"{phase}: {text}"), time.monotonic)
    collected: list[str] = []
    heard = False

    def show_line(line: str) -> None:
        nonlocal heard
        heard = True
        (collected.append if as_json else say)(line)

    asked, broken = world.clusters(cluster)
    failure: NemodeployError | None = broken[0][1] if broken else None
    with contextlib.ExitStack() as stack:
        for one in asked:
            try:
                site = stack.enter_context(world.site(one))
                show(site, name, show_line, sleep=time.sleep, follow=follow, wanted=wanted, outage=outage)
                failure = None
                break
            except NemodeployError as error:
                failure = error if failure is None or isinstance(failure, BadInput) else failure
    if failure:
        raise failure
    if not heard and (rank is not None or node):
        tell(f"note: {name} has no such log; without --rank and --node all are shown")
    if as_json:
        put_json({"schema": "nemodeploy/logs@1", "name": name, "lines": collected})
