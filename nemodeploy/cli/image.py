"""nemodeploy image: container images, imported once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.words import put_json, say, tell
from nemodeploy.errors import BadInput

if TYPE_CHECKING:
    from nemodeploy.core.spec import Cluster
    from nemodeploy.runtimes.base import Runtime

SCHEMA = "nemodeploy/image@1"


@click.group("image", short_help="Import a container image once, for all nodes.")
def command() -> None:
    """Container images on the cluster."""


@command.command("pull", short_help="Import it to shared storage.")
@click.argument("what", metavar="PROFILE|IMAGE")
@click.option("--partition", default="", metavar="NAME", help="As a job there, on four cores; default: the login host.")
@click.option("--runtime", metavar="NAME", help="For an IMAGE: which runtime it is for; default: the cluster's.")
@click.option("--model", metavar="NAME", help="For a PROFILE: another model than its own.")
@click.option("--engine", metavar="NAME", help="For a PROFILE: another server program.")
@click.option("--again", is_flag=True, help="Also when it is there already: its tag may have moved.")
@options.networked
def pull(what: str, partition: str, again: bool, cluster: str | None, as_json: bool, **typed: Any) -> int:
    """Import the image of a profile, or an image by its name, to shared storage of the cluster, where every start finds
    it: nodes that import it by themselves do so at each start, each for itself. `up` says what that saves. Ctrl-C ends
    the import; a broken connection does not, and the same command then watches it.
    """
    from nemodeploy.adapters.clock import SystemClock
    from nemodeploy.app import images

    world.interrupt_once()
    site_cluster, image, runtime = _meant(what, cluster, **typed)
    account = images.account_of(cluster or site_cluster.name) if partition else ""
    wanted = images.order(image, runtime, partition=partition, account=account)
    wanted = images.at(site_cluster, wanted, os.environ)
    said: list[str] = []

    def progress(elapsed: float, text: str) -> None:
        if text not in said[-1:]:
            said.append(text)
            tell(f"  {elapsed:5.0f} s  {text}")

    with world.site(site_cluster) as site:
        found = None if again else images.look(site, wanted)
        already = found is not None
        if found is None:
            where = f"as a job in {partition}" if partition else "on the login host"
            tell(f"importing {wanted.image} for {runtime.name}, {where}")
            found = images.pull(site, SystemClock(), wanted, progress)
        file = f"{site.cluster.root}/images/{wanted.file}"
    if as_json:
        about = {"image": wanted.image, "runtime": runtime.name, "file": file, "already": already}
        put_json({"schema": SCHEMA, **about, "bytes": found.bytes, "seconds": found.seconds})
    else:
        verb = "is there already" if already else "is imported"
        say(f"{wanted.image} {verb}: {file}, {found.bytes / 1e9:.1f} GB; every start is spared {found.saves}")
    return 0


def _meant(
    what: str, cluster: str | None, runtime: str | None, model: str | None, engine: str | None
) -> tuple[Cluster, str, Runtime]:
    """The site, the image and the runtime that were meant: a profile's, or an image by its name."""
    from nemodeploy.adapters import resources
    from nemodeploy.app.images import runtime_of
    from nemodeploy.app.wanted import cluster as read
    from nemodeploy.core.reading import near
    from nemodeploy.runtimes import RUNTIMES

    if runtime and runtime not in RUNTIMES:
        raise BadInput(f"unknown runtime {runtime!r}", hint=near(runtime, RUNTIMES))
    if what in resources.names("profiles") or what.endswith((".yaml", ".yml")):
        settings = (f"runtime={runtime}",) if runtime else ()
        more: dict[str, Any] = {"model": model, "engine": engine, "settings": settings}
        wanted = options.resolve(needs_site=True, profile=what, name=None, cluster=cluster, **more)
        return wanted.cluster, wanted.plan.image, RUNTIMES[wanted.plan.runtime]
    if model or engine:
        raise BadInput("--model and --engine say more about a profile", hint=near(what, resources.names("profiles")))
    if not any(mark in what for mark in "/:#"):
        raise BadInput(
            f"there is no profile {what!r}, and it is no image", hint=near(what, resources.names("profiles"))
        )
    chosen = world.only_cluster(cluster)
    return read(chosen), what, RUNTIMES[runtime or runtime_of(chosen)]
