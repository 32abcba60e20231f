"""Options that several commands share, and what they mean."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nemodeploy.cli.words import tell
from nemodeploy.errors import BadInput

if TYPE_CHECKING:
    from nemodeploy.app.wanted import Wanted
    from nemodeploy.core.spec import Cluster

LONGEST_TTL_S = 30 * 86400.0
Function = TypeVar("Function", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; all else on stderr.")
cluster = click.option(
    "--cluster", envvar="NEMODEPLOY_CLUSTER", metavar="NAME", help="The cluster, by name or path of its file."
)


class _Teller(logging.Handler):
    """Log lines on stderr, the way all lines go there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one."""
        tell(self.format(record))


def _log_calls(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Show every remote call on stderr."""
    del ctx, param
    if value:
        logging.basicConfig(format="  %(message)s", handlers=[_Teller()])
        logging.getLogger("nemodeploy").setLevel(logging.DEBUG)


verbose = click.option(
    "--verbose", "-v", is_flag=True, expose_value=False, callback=_log_calls, help="Show every remote call."
)


def networked(function: Function) -> Function:
    """--cluster, --json and --verbose."""
    return cluster(as_json(verbose(function)))


if TYPE_CHECKING:
    Duration = click.ParamType[float]
else:  # older versions of click know no parameter here
    Duration = click.ParamType


class Seconds(Duration):
    """`90`, `90s`, `30m`, `4h` or `HH:MM:SS`, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Raises a usage error for anything else."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value))
        if match and float(match[1]) > 0:
            return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
        clock = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)", str(value))
        if clock and any(map(int, clock.groups())):
            return int(clock[1]) * 3600.0 + int(clock[2]) * 60 + int(clock[3])
        return self.fail(f"{value!r} is not a duration; write 90s, 30m, 4h or 00:30:00", param, ctx)


class Number(click.FloatRange):
    """A number in a range, which `nan` is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Raises a usage error for anything else."""
        number: float = super().convert(value, param, ctx)
        return number if number == number else self.fail(f"{value!r} is not a number", param, ctx)


def lease(function: Function) -> Function:
    """--ttl and --no-ttl."""
    for option in (
        click.option("--no-ttl", is_flag=True, help="Without a lease: it stays up until its time limit."),
        click.option(
            "--ttl",
            type=Seconds(),
            help="The job ends itself when nobody renews its lease for so long; default: 2h under CI, else none.",
        ),
    ):
        function = option(function)
    return function


def ttl_seconds(ttl: float | None, no_ttl: bool, cluster: Cluster) -> int | None:
    """A lease in whole seconds. Raises BadInput for one that is too short to make sense on this cluster."""
    if ttl is None:
        return None
    if no_ttl:
        raise BadInput("--ttl and --no-ttl contradict each other", hint="leave one of them out")
    if ttl < cluster.lease_minimum_s:
        raise BadInput(
            f"--ttl {ttl:g} s is too short: the smallest lease on {cluster.name} is {cluster.lease_minimum_s} s, since "
            "a shared file system may show a renewal late",
            hint=f"--ttl {cluster.lease_minimum_s}s, or lease: {{minimum_s: …}} in the cluster file",
        )
    if ttl > LONGEST_TTL_S:
        raise BadInput(f"--ttl {ttl:g} s is longer than any job", hint="--no-ttl")
    return round(ttl)


def wish(function: Function) -> Function:
    """Everything that says what is wanted: --profile, --model, --set and so on."""
    return _wish(function, required=True)


def maybe_wish(function: Function) -> Function:
    """The same where nothing need be wanted."""
    return _wish(function, required=False)


def _wish(function: Function, *, required: bool) -> Function:
    for option in (
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Any setting, such as layout.tensor_parallel=4.",
        ),
        click.option("--time", "time_limit", metavar="TIME", help="Time limit of the job, such as 02:00:00 or 4h."),
        click.option("--nodes", type=click.IntRange(1), help="Number of nodes."),
        click.option("--engine", metavar="NAME", help="The server program."),
        click.option("--model", metavar="NAME", help="Another model than the profile's own."),
        click.option(
            "--name", metavar="NAME", help="The deployment's name; default: the model's, and for run one of its own."
        ),
        click.option(
            "--profile",
            required=required,
            envvar="NEMODEPLOY_PROFILE",
            metavar="NAME",
            help="Hardware target, by name or path.",
        ),
    ):
        function = option(function)
    return function


def resolve(
    *, needs_site: bool, profile: str, name: str | None, cluster: str | None, quiet: bool = False, **typed: Any
) -> Wanted:
    """The plan for what was typed; `typed` are the other options of `wish`. `quiet`: without the note about it."""
    from nemodeploy.adapters.yaml_files import parse_scalar
    from nemodeploy.app.wanted import Wish, resolve

    flags = (("model", "--model"), ("engine", "--engine"), ("nodes", "--nodes"), ("time_limit", "--time"))
    settings = [
        ("time" if key == "time_limit" else key, typed[key], f"flag {flag}")
        for key, flag in flags
        if typed.get(key) is not None
    ]
    for setting in typed["settings"]:
        key, equals, value = setting.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_.-]+)*", key):
            raise BadInput("--set: write KEY=VALUE", hint="--set layout.tensor_parallel=4")
        settings.append((key, parse_scalar(value, f"--set {key}"), f"flag --set {_told(key, value)}"))
    if name == "":
        raise BadInput("--name is empty", hint="leave it out for the model's")
    wanted = resolve(
        Wish(profile=profile, name=name, cluster=cluster, settings=settings), os.environ, needs_site=needs_site
    )
    if wanted.note and not quiet:
        tell(f"note: {wanted.note}")
    return wanted


def _told(key: str, value: str) -> str:
    """A setting as its origin is shown; what may be a secret is not repeated."""
    hidden = key.partition(".")[0] in ("env", "secrets") or "@" in value
    return f"{key}=…" if hidden else f"{key}={value}"
