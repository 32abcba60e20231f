"""nemodeploy run: a deployment for one command, and always its end."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nemodeploy.cli import options, workflow, world
from nemodeploy.cli.failing import error_document, show_error
from nemodeploy.cli.plan import gives_back
from nemodeploy.cli.reporters import PlainReporter, reporter
from nemodeploy.cli.up import patience, prepare
from nemodeploy.cli.words import tell
from nemodeploy.errors import BadInput, CancelledByUser, NemodeployError

if TYPE_CHECKING:
    from nemodeploy.app.running import Ran
    from nemodeploy.app.site import Site
    from nemodeploy.app.up import Request
    from nemodeploy.app.wanted import Wanted

SCHEMA = "nemodeploy/run@1"
RUN_TTL_S = 300


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
@click.option(
    "--artifacts",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep logs, manifest and events in this directory, also when it failed.",
)
@click.option("--raw", is_flag=True, help="The engine's own protocol instead of OpenAI's.")
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND…", type=click.UNPROCESSED)
def command(
    queue_timeout: float | None,
    startup_timeout: float | None,
    ttl: float | None,
    reuse: bool,
    keep_on_failure: bool,
    report: Path | None,
    artifacts: Path | None,
    raw: bool,
    words: Sequence[str],
    **typed: Any,
) -> int:
    """Start a model, run COMMAND with a tunnel to it, and take the model down, whatever happens.

    COMMAND finds OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL in its environment, and NEMODEPLOY_ENDPOINT,
    _API_KEY, _PROTOCOL, _MODEL and _NAME. Every request needs the key. Exits with COMMAND's own code once the model was
    READY.
    """
    from nemodeploy.adapters import child
    from nemodeploy.app.running import Ran
    from nemodeploy.app.up import Lease

    if reuse and not typed["name"]:
        raise BadInput("--reuse without --name: use what?", hint="--name NAME --reuse")
    child.require(words)
    _check_writable(report, artifacts)
    wanted = _resolve(typed)
    ttl_s = options.ttl_seconds(ttl, False, wanted.cluster) or max(RUN_TTL_S, wanted.cluster.lease_minimum_s)
    request = prepare(wanted, queue_timeout, startup_timeout, Lease(ttl_s, asked=ttl is not None))
    ran = Ran()
    failure: NemodeployError | None = None
    try:
        _run(wanted, request, words, ran, artifacts, reuse=reuse, keep_on_failure=keep_on_failure, raw=raw)
    except NemodeployError as error:
        failure = error
    code = failure.exit_code if failure else ran.command_exit or 0
    _conclude(wanted, ran, report, failure, code)
    if failure:
        raise failure
    return code


def _resolve(typed: Mapping[str, Any]) -> Wanted:
    """With a name of its own, unless one was typed."""
    from nemodeploy.app import ci

    wanted = options.resolve(needs_site=True, **typed)
    if typed["name"]:
        return wanted
    name = ci.name_of_its_own(wanted.plan.name, os.environ)
    return options.resolve(needs_site=True, **{**typed, "name": name}, quiet=True)


def _run(
    wanted: Wanted,
    request: Request,
    words: Sequence[str],
    ran: Ran,
    artifacts: Path | None,
    *,
    reuse: bool,
    keep_on_failure: bool,
    raw: bool,
) -> None:
    from nemodeploy.adapters import child
    from nemodeploy.app.running import lent
    from nemodeploy.app.up import IfTaken

    world.interrupt_on_termination()
    watcher, quiet = reporter(), PlainReporter()
    if_taken = IfTaken.ADOPT if reuse else IfTaken.REFUSE
    with contextlib.ExitStack() as stack:
        stack.callback(workflow.end_group)
        stack.callback(watcher.close)
        site = stack.enter_context(world.site(wanted.cluster))
        if artifacts:
            stack.callback(_keep, site, ran, request, artifacts)
        lending = lent(
            site,
            world.ports(watcher),
            request,
            ran,
            quiet=quiet,
            if_taken=if_taken,
            keep_on_failure=keep_on_failure,
            raw=raw,
        )
        workflow.begin_group(f"nemodeploy up {wanted.plan.name}")
        try:
            with lending as connection:
                watcher.close()
                workflow.end_group()
                environment = {**os.environ, **connection.variables(os.environ)}
                ran.command_exit, ran.signals = child.run(words, environment, from_terminal=sys.stdin.isatty())
                ran.failed = ran.command_exit != 0
                workflow.begin_group(f"nemodeploy down {wanted.plan.name}")
        except KeyboardInterrupt:  # between two steps of ours
            raise _interrupted(wanted, ran) from None
        finally:
            world.ignore_interrupts()  # the outcome stands, and is going to be said


def _interrupted(wanted: Wanted, ran: Ran) -> NemodeployError:
    """What is held then: nothing, as far as that was shown."""
    if ran.gone or not ran.ours:
        return CancelledByUser(f"interrupted; {'verified gone' if ran.gone else 'nothing of ours is held'}")
    from nemodeploy.app.site import unknown_outcome

    why = "interrupted, and it stays up as --keep-on-failure wants" if ran.left_up else "interrupted at its end"
    return unknown_outcome(ran.ours[0], wanted.cluster, why)


def _keep(site: Site, ran: Ran, request: Request, directory: Path) -> None:
    """What can still be had; what cannot is said, and changes no outcome."""
    from nemodeploy.app.artifacts import collect

    try:
        for token in ran.ours or ([ran.token] if ran.token else []):
            found = collect(site, token, request.plan.layout.tasks)
            for name, text in found.items():
                _keep_one(directory / name, text)
    except NemodeployError as error:
        tell(f"note: nothing could be kept in {directory}: {error.message}")


def _keep_one(path: Path, text: str) -> None:
    """One that cannot be kept is said, and keeps no other one from being kept."""
    from nemodeploy.adapters import files

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, text)
    except (OSError, ValueError) as error:  # ValueError: a name with NUL in it
        tell(f"note: {path} could not be kept: {getattr(error, 'strerror', None) or error}")


def _conclude(wanted: Wanted, ran: Ran, report: Path | None, failure: NemodeployError | None, code: int) -> None:
    """Say it where it was asked for; nothing here changes the outcome."""
    if ran.unproven:
        show_error(ran.unproven, as_json=False)
    elif ran.left_up and ran.token:
        down = wanted.cluster.command("down", ran.token.name)
        tell(f"  {ran.token.name} stays up; {down}      {gives_back(wanted.plan)}")
    document = _document(wanted, ran, failure or ran.unproven, code)
    if report:
        _write(report, document)
    timings = [(key, f"{value:.1f} s") for key, value in document["timings"].items() if value is not None]
    facts = [(key, _shown(document[key])) for key in ("cluster", "job_id", "phase", "exit_code", "gpu_hours")]
    why = [("why", failure.message)] if failure else []
    workflow.summary(f"nemodeploy run: {wanted.plan.name}", [*facts, *timings, *why])
    workflow.outputs({key: _shown(document[key]) for key in ("name", "token", "phase", "exit_code", "gpu_hours")})


def _shown(value: object) -> str:
    return "" if value is None else str(value)


def _document(wanted: Wanted, ran: Ran, failure: NemodeployError | None, code: int) -> dict[str, Any]:
    up = ran.up
    timings = {"queue_s": up.queue_s, "startup_s": up.startup_s, "ready_s": up.ready_s} if up else {}
    plan = wanted.plan
    return {
        "schema": SCHEMA,
        "name": plan.name,
        "cluster": wanted.cluster.name,
        "token": _token(ran, failure),
        "job_id": (up.seen.job_id if up else ran.held.job_id) or None,
        "phase": ran.phase,
        "exit_code": code,
        "command_exit": ran.command_exit,
        "left_up": ran.left_up,
        "timings": {**timings, "command_s": ran.command_s, "down_s": ran.down_s},
        "gpu_hours": round(plan.layout.gpus * ran.held_s / 3600, 3),
        "failure": error_document(failure) if failure else None,
    }


def _token(ran: Ran, failure: NemodeployError | None) -> str | None:
    """The deployment's, as far as it came: an interrupted one names none in its error."""
    known = ran.token or next(iter(ran.ours), None)
    return str(known) if known else (failure.token if failure else None) or None


def _check_writable(report: Path | None, artifacts: Path | None) -> None:
    """Raises BadInput now rather than after the server has run."""
    import tempfile

    from nemodeploy.adapters import files

    option, path = "--report", report
    try:
        if report:
            files.check_out(report)
        option, path = "--artifacts", artifacts
        if artifacts:
            artifacts.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=artifacts):
                pass
    except OSError as error:
        raise BadInput(f"{option} {path} cannot be written: {error.strerror}", hint="another path") from error


def _write(report: Path, document: Mapping[str, Any]) -> None:
    """What cannot be written any more is said; it changes no outcome."""
    from nemodeploy.adapters import files

    try:
        files.write_out(report, json.dumps(document, indent=2) + "\n")
    except OSError as error:
        tell(f"note: the report could not be written to {report}: {error.strerror}")
