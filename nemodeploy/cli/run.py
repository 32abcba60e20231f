"""nemodeploy run: a deployment for one command, and always its end."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.failing import error_document, show_error
from nemodeploy.cli.reporters import PlainReporter, reporter
from nemodeploy.cli.up import patience, prepare
from nemodeploy.cli.words import tell
from nemodeploy.errors import BadInput, NemodeployError

if TYPE_CHECKING:
    from nemodeploy.app.running import Ran
    from nemodeploy.app.up import Request
    from nemodeploy.app.wanted import Wanted

SCHEMA = "nemodeploy/run@1"
RUN_TTL_S = 300
LONGEST_NAME = 40
# What CI systems call the present run or job: GitHub, GitLab, Jenkins and Buildkite, CircleCI, Azure.
RUN_IDS = ("GITHUB_RUN_ID", "CI_JOB_ID", "BUILD_NUMBER", "BUILDKITE_BUILD_NUMBER", "CIRCLE_BUILD_NUM", "BUILD_BUILDID")


@click.command("run", short_help="Start a model for one command, and always take it down.")
@options.wish
@options.cluster
@options.verbose
@patience
@click.option(
    "--ttl",
    type=options.Seconds(),
    help="The job ends itself when this command has not renewed its lease for so long; default: 5m.",
)
@click.option("--reuse", is_flag=True, help="With --name: use what is up under that name, and leave it up.")
@click.option("--keep-on-failure", is_flag=True, help="Leave it up, until its lease ends, when COMMAND fails.")
@click.option(
    "--report", type=click.Path(path_type=Path, dir_okay=False), help="Write what happened to this file, as JSON."
)
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND…", type=click.UNPROCESSED)
def command(
    queue_timeout: float | None,
    startup_timeout: float | None,
    ttl: float | None,
    reuse: bool,
    keep_on_failure: bool,
    report: Path | None,
    words: Sequence[str],
    **typed: Any,
) -> int:
    """Start a model, run COMMAND with a tunnel to it, and take the model down, whatever happens.

    COMMAND finds NEMODEPLOY_ENDPOINT, _PROTOCOL, _MODEL and _NAME in its environment, and OPENAI_BASE_URL where the
    server speaks that. Exits with COMMAND's own code once the model was READY.
    """
    from nemodeploy.adapters import child
    from nemodeploy.app.running import Ran
    from nemodeploy.app.up import Lease

    if reuse and not typed["name"]:
        raise BadInput("--reuse without --name: use what?", hint="--name NAME --reuse")
    child.require(words)
    _check_writable(report)
    wanted = _resolve(typed)
    ttl_s = options.ttl_seconds(ttl, False, wanted.cluster) or max(RUN_TTL_S, wanted.cluster.lease_minimum_s)
    request = prepare(wanted, queue_timeout, startup_timeout, Lease(ttl_s, asked=ttl is not None))
    ran = Ran()
    failure: NemodeployError | None = None
    try:
        _run(wanted, request, words, ran, reuse=reuse, keep_on_failure=keep_on_failure)
    except NemodeployError as error:
        failure = error
    code = failure.exit_code if failure else ran.command_exit or 0
    if ran.unproven:
        show_error(ran.unproven, as_json=False)
    elif ran.left_up and ran.token:
        tell(f"  {ran.token.name} stays up; nemodeploy down {ran.token.name}      gives the GPUs back")
    if report:
        _write(report, _document(wanted, ran, failure or ran.unproven, code))
    if failure:
        raise failure
    return code


def _resolve(typed: Mapping[str, Any]) -> Wanted:
    """With a name of its own, so that two pipelines with the same command do not meet."""
    wanted = options.resolve(needs_site=True, **typed)
    if typed["name"]:
        return wanted
    ours = next(filter(None, (os.environ.get(key, "") for key in RUN_IDS)), "").lower()
    tail = f"{ours}-{secrets.token_hex(3)}" if ours.isalnum() and len(ours) <= 20 else secrets.token_hex(3)
    name = f"{wanted.plan.name[: LONGEST_NAME - len(tail) - 1].rstrip('-')}-{tail}"
    return options.resolve(needs_site=True, **{**typed, "name": name}, quiet=True)


def _run(
    wanted: Wanted, request: Request, words: Sequence[str], ran: Ran, *, reuse: bool, keep_on_failure: bool
) -> None:
    from nemodeploy.adapters import child
    from nemodeploy.app.running import run
    from nemodeploy.app.up import IfTaken

    world.interrupt_on_termination()
    watcher, quiet = reporter(), PlainReporter()

    def start(variables: Mapping[str, str]) -> tuple[int, int]:
        watcher.close()
        return child.run(words, {**os.environ, **variables}, from_terminal=sys.stdin.isatty())

    try:
        with world.site(wanted.cluster) as site:
            run(
                site,
                world.ports(watcher),
                request,
                start,
                ran,
                quiet=quiet,
                if_taken=IfTaken.ADOPT if reuse else IfTaken.REFUSE,
                keep_on_failure=keep_on_failure,
            )
    finally:
        watcher.close()


def _document(wanted: Wanted, ran: Ran, failure: NemodeployError | None, code: int) -> dict[str, Any]:
    up = ran.up
    timings = {"queue_s": up.queue_s, "startup_s": up.startup_s, "ready_s": up.ready_s} if up else {}
    plan = wanted.plan
    held_s = sum(filter(None, (up.startup_s, ran.command_s, ran.down_s))) if up else 0.0
    return {
        "schema": SCHEMA,
        "name": plan.name,
        "cluster": wanted.cluster.name,
        "token": str(ran.token) if ran.token else failure.token or None if failure else None,
        "job_id": up.seen.job_id if up else None,
        "phase": ran.phase,
        "exit_code": code,
        "command_exit": ran.command_exit,
        "left_up": ran.left_up,
        "timings": {**timings, "command_s": ran.command_s, "down_s": ran.down_s},
        "gpu_hours": round(plan.layout.gpus * held_s / 3600, 3),
        "failure": error_document(failure) if failure else None,
    }


def _check_writable(report: Path | None) -> None:
    """Raises BadInput now rather than after the server has run."""
    if report is None:
        return
    try:
        with report.open("a"):
            pass
    except OSError as error:
        raise BadInput(f"--report {report} cannot be written: {error.strerror}", hint="another path") from error


def _write(report: Path, document: Mapping[str, Any]) -> None:
    """What cannot be written any more is said; it changes no outcome."""
    try:
        report.write_text(json.dumps(document, indent=2) + "\n")
    except OSError as error:
        tell(f"note: the report could not be written to {report}: {error.strerror}")
