"""nemodeploy down: give the GPUs back."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.reporters import reporter
from nemodeploy.cli.words import confirm, put_json, say, somebody_is_there
from nemodeploy.core.listing import natural
from nemodeploy.errors import BadInput, NemodeployError

if TYPE_CHECKING:
    from nemodeploy.app.down import Living
    from nemodeploy.app.ending import Ended
    from nemodeploy.app.ports import Ports
    from nemodeploy.app.site import Site
    from nemodeploy.values import Token

    Found = list[tuple[Site, Living]]


@click.command("down", short_help="Give the GPUs back; returns when Slurm says gone.")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@options.networked
@click.option("--all", "everything", is_flag=True, help="Every deployment; asks first on a terminal.")
@click.option("--ignore-missing", is_flag=True, help="A NAME that never had a deployment is no error.")
def command(names: tuple[str, ...], cluster: str | None, as_json: bool, everything: bool, ignore_missing: bool) -> None:
    """End deployments and return when Slurm holds nothing for them. Asking twice is fine."""
    if bool(names) == everything:
        raise BadInput("say which deployments, or --all", hint="nemodeploy down NAME")
    for name in names:
        world.require_name(name)
    if everything and somebody_is_there():
        confirm("take every deployment down?", abort=True)
    world.interrupt_on_termination()
    watcher = reporter(plain=as_json)
    with contextlib.ExitStack() as stack:
        stack.callback(watcher.close)
        sites, broken = world.sites(stack, cluster)
        ports = world.ports(watcher)
        found, failures = _find(sites, names)
        failures += [error for _, error in broken]
        missing = _missing(names, found)
        if missing and not failures and not ignore_missing:
            _check(sites, ports, missing)
        gone, failed = _end(found, ports)
    settled = bool(names) and not missing
    _show(gone, missing if not failures else (), names, as_json=as_json)
    _raise_the_worst([*failed, *(() if settled else failures)])
    if as_json:
        rows = [{"name": end.token.name, "token": str(end.token), "job_id": end.job_id or None} for end in gone]
        put_json({"schema": "nemodeploy/down@1", "gone": rows, "not_up": list(missing)})


def _find(sites: Sequence[Site], names: tuple[str, ...]) -> tuple[Found, list[NemodeployError]]:
    """The live tokens by cluster. Raises BadInput for a name that is on two."""
    from nemodeploy.app.down import living

    found: Found = []
    failures: list[NemodeployError] = []
    for site, answer in zip(sites, world.at_once(sites, lambda here: living(here, names or None)), strict=True):
        if isinstance(answer, NemodeployError):
            failures.append(answer)
        else:
            found.append((site, answer))
    for name in names:
        holders = [site.cluster.name for site, live in found if name in {token.name for token in live.tokens}]
        if len(holders) > 1:
            raise BadInput(f"{name} is on {' and '.join(holders)}", hint=f"--cluster {holders[0]}")
    return found, failures


def _missing(names: tuple[str, ...], found: Found) -> tuple[str, ...]:
    up = {token.name for _, live in found for token in live.tokens}
    return tuple(dict.fromkeys(name for name in names if name not in up))


def _check(sites: Sequence[Site], ports: Ports, missing: tuple[str, ...]) -> None:
    """Raises BadInput for a name that never had a deployment; what kept a cluster from telling."""
    from nemodeploy.app.down import check_names, names_seen

    seen: set[str] = set()
    for answer in world.at_once(sites, lambda here: names_seen(here, ports)):
        if isinstance(answer, NemodeployError):
            raise answer
        seen |= answer
    check_names(missing, seen)


def _end(found: Found, ports: Ports) -> tuple[list[Ended], list[NemodeployError]]:
    """All clusters at the same time; what an interrupt leaves unproven is unknown."""
    from nemodeploy.app.down import down, give_up

    up = {site: live for site, live in found if live.tokens}
    results: dict[Token, Ended | NemodeployError] = {}
    try:
        for answer in world.at_once(list(up), lambda here: down(here, ports, up[here], results)):
            if isinstance(answer, NemodeployError):
                raise answer
    except KeyboardInterrupt:
        for site, live in up.items():
            give_up(site, live.tokens, results)
    gone = sorted(
        (one for one in results.values() if not isinstance(one, NemodeployError)),
        key=lambda one: natural(one.token.name),
    )
    return gone, [one for one in results.values() if isinstance(one, NemodeployError)]


def _show(gone: Sequence[Ended], not_up: Sequence[str], names: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        return
    for end in gone:
        say(f"{end.token.name} is gone{f' (job {end.job_id})' if end.job_id else ''}")
    for name in not_up:
        say(f"{name} is not up")
    if not gone and not names:
        say("nothing is up")


def _raise_the_worst(failures: list[NemodeployError]) -> None:
    from nemodeploy.app.down import worst

    error = worst(failures)
    if error is not None:
        raise error
