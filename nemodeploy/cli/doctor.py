"""nemodeploy doctor: would it work there, and if not, why."""

from __future__ import annotations

import itertools
import os
from typing import Any

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.words import put_json, say, show_check, tell
from nemodeploy.errors import BadInput, PreflightFailed

SCHEMA = "nemodeploy/doctor@1"


@click.command("doctor", short_help="Would it work there, and if not, why.")
@click.argument("where", required=False, metavar="[CLUSTER]")
@click.option("--job", is_flag=True, help="Also run a job of a minute on the very nodes; it is taken back at the end.")
@click.option("--wait", "wait_s", type=options.Seconds(), default=300.0, help="How long it may queue and run; 5m.")
@options.maybe_wish
@options.networked
def command(where: str | None, cluster: str | None, job: bool, wait_s: float, as_json: bool, **typed: Any) -> int:
    """Look at a cluster with everything that can be asked before a job is submitted; nothing is left there.

    With --profile, and whatever else `up` takes, also at what this deployment needs, and with --job at the nodes that
    it would get: GPUs, root, image, checkpoint, names, port, and whether the container starts. Exit 12 when a check
    failed.
    """
    from nemodeploy.adapters.clock import SystemClock, epoch_s
    from nemodeploy.app.doctor import doctor
    from nemodeploy.app.probing import look_at_nodes
    from nemodeploy.app.wanted import cluster as read
    from nemodeploy.cli.reporters import PlainReporter
    from nemodeploy.core.checks import Verdict

    if where and cluster and where != cluster:
        raise BadInput(f"{where} and --cluster {cluster} are two clusters", hint="leave one of them out")
    chosen = where or cluster
    wanted = None
    if typed["profile"]:
        wanted = options.resolve(needs_site=True, cluster=chosen, **typed)
    elif job or any(typed[key] for key in ("model", "engine", "nodes", "time_limit", "settings", "name")):
        raise BadInput("these options say more about a --profile", hint="--profile h100x16")
    site_cluster = wanted.cluster if wanted else read(world.only_cluster(chosen))
    rows, bad = [], 0
    if not as_json:
        say(f"{site_cluster.name}{f' · {wanted.plan.profile} · {wanted.plan.model}' if wanted else ''}")
    with world.site(site_cluster) as site:
        checks = doctor(site, SystemClock(), epoch_s, os.environ, wanted)
        if job and wanted:
            world.interrupt_once()
            checks = itertools.chain(checks, look_at_nodes(site, world.ports(PlainReporter()), wanted, wait_s))
        for check in checks:
            bad += check.verdict is Verdict.FAILED
            rows.append({"name": check.name, "result": check.verdict.value, "says": check.says, "remedy": check.remedy})
            if not as_json:
                show_check(check, check.name)
    if as_json:
        about = {"cluster": site_cluster.name, "profile": wanted.plan.profile if wanted else None}
        put_json({"schema": SCHEMA, **about, "checks": rows, "failed": bad})
    else:
        tell(f"{bad} check{'s' if bad != 1 else ''} failed" if bad else "nothing stands against it")
    return PreflightFailed.exit_code if bad else 0
