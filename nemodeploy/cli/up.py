"""nemodeploy up: from nothing to a server that has answered a prompt."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.plan import gives_back, headline
from nemodeploy.cli.reporters import reporter
from nemodeploy.cli.words import clock, put_json, tell
from nemodeploy.errors import BadInput

if TYPE_CHECKING:
    from nemodeploy.app.up import Lease, Request
    from nemodeploy.app.wanted import Wanted
    from nemodeploy.app.watching import Up
    from nemodeploy.core.plan import Plan

QUEUE_TIMEOUT_S = 4 * 3600.0
CI_TTL_S = 2 * 3600
SCHEMA = "nemodeploy/up@1"


def patience(function: options.Function) -> options.Function:
    """--queue-timeout and --startup-timeout."""
    for option in (
        click.option(
            "--startup-timeout", type=options.Seconds(), help="How long the server may take, extended by progress."
        ),
        click.option(
            "--queue-timeout",
            type=options.Seconds(),
            help="How long to wait for nodes; default: no limit on a terminal, else 4h.",
        ),
    ):
        function = option(function)
    return function


@click.command("up", short_help="Start a model and wait until it has answered.")
@options.wish
@options.networked
@patience
@options.lease
@click.option("--replace", is_flag=True, help="Take a different deployment of this name down first.")
def command(
    as_json: bool,
    queue_timeout: float | None,
    startup_timeout: float | None,
    ttl: float | None,
    no_ttl: bool,
    replace: bool,
    **typed: Any,
) -> None:
    """Start a model and return when it has answered a prompt, or when it is clear why it cannot.

    A deployment of the same name that is already up and the same is adopted; there is never a second job.
    """
    wanted = options.resolve(needs_site=True, **typed)
    from nemodeploy.app.up import IfTaken, up

    request = prepare(wanted, queue_timeout, startup_timeout, _lease(wanted, ttl, no_ttl))
    if_taken = IfTaken.REPLACE if replace else IfTaken.ADOPT
    world.interrupt_on_termination()
    watcher = reporter(plain=as_json)
    try:
        with world.site(wanted.cluster) as site:
            try:
                done = up(site, world.ports(watcher), request, if_taken=if_taken)
            finally:
                world.ignore_interrupts()  # the outcome stands, and is going to be said
    finally:
        watcher.close()
    if as_json:
        put_json(_document(done, wanted.cluster.name))
    else:
        _next_steps(f"{wanted.plan.name}{wanted.cluster.option}", gives_back(wanted.plan))


def prepare(wanted: Wanted, queue_timeout: float | None, startup_timeout: float | None, lease: Lease) -> Request:
    """What `up` is to do, told to whoever watches. Raises BadInput before anything is sent."""
    from nemodeploy.app.up import Request
    from nemodeploy.app.wanted import secrets
    from nemodeploy.core.patience import Budget

    _check_patience(wanted, startup_timeout)
    kept_back = secrets(wanted.plan.secrets, os.environ)
    for line in (*headline(wanted.plan), _budget_line(wanted.plan)):
        tell(line)
    if lease.ttl_s is not None:
        tell(f"  lease      it ends itself {clock(lease.ttl_s)} after the last renewal; keep, generate and up renew it")
    budget = Budget(
        queue_s=queue_timeout or (None if sys.stderr.isatty() and not os.environ.get("CI") else QUEUE_TIMEOUT_S),
        startup_s=startup_timeout or float(wanted.plan.startup_budget_s),
    )
    return Request(plan=wanted.plan, bundle=wanted.bundle, secrets=kept_back, budget=budget, lease=lease)


def _lease(wanted: Wanted, ttl: float | None, no_ttl: bool) -> Lease:
    """The one that was asked for; unasked, a CI job gets one, since nobody may be left to take it down."""
    from nemodeploy.app.up import Lease

    ttl_s = options.ttl_seconds(ttl, no_ttl, wanted.cluster)
    if ttl is None and not no_ttl and os.environ.get("CI"):
        ttl_s = max(CI_TTL_S, wanted.cluster.lease_minimum_s)
    return Lease(ttl_s, asked=ttl is not None or no_ttl)


def _budget_line(plan: Plan) -> str:
    memory, whose = plan.memory, "per GPU" if plan.layout.gpus else "of the host's memory"
    return (
        f"  plan       weights {memory.weights_gib_per_gpu:.1f} GiB + KV cache {memory.kv_cache_gib_per_gpu:.1f} GiB "
        f"of {memory.total_gib_per_gpu:.1f} GiB {whose}, at most {clock(plan.time_s)}"
    )


def _check_patience(wanted: Wanted, startup_timeout: float | None) -> None:
    """Raises BadInput for a start-up time in which the weights cannot even be read."""
    estimate_s = wanted.plan.load_estimate_s
    if startup_timeout is not None and startup_timeout < estimate_s:
        raise BadInput(
            f"--startup-timeout {startup_timeout:.0f} s is shorter than the weights take: about {clock(estimate_s)} "
            f"for {wanted.plan.checkpoint_gb:g} GB at {wanted.cluster.storage_gb_per_s:g} GB/s",
            hint="leave it out, or set storage_gb_per_s: in the cluster file if its storage is faster",
        )


def _document(done: Up, cluster: str) -> dict[str, Any]:
    from nemodeploy.app.status import Deployment
    from nemodeploy.core.readiness import State, Verdict

    deployment = Deployment(cluster=cluster, seen=done.seen, verdict=Verdict(state=State.READY))
    timings = {"queue_s": done.queue_s, "startup_s": done.startup_s, "ready_s": done.ready_s, "answer_s": done.answer_s}
    return {
        "schema": SCHEMA,
        **deployment.as_json(),
        "adopted": done.adopted,
        "timings": timings,
        "answer": done.answer,
    }


def _next_steps(found: str, gives_back: str) -> None:
    for line in (
        "",
        f'  nemodeploy generate {found} "your question"',
        f"  nemodeploy chat {found}      talk to it",
        f"  nemodeploy connect {found}      OpenAI's API on this machine",
        f"  nemodeploy status {found}",
        f"  nemodeploy down {found}      {gives_back}",
    ):
        tell(line)
