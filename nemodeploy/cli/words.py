"""How numbers and times are shown to people."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nemodeploy.core.checks import Check

WIDTH, NAME_WIDTH = 14, 12  # of the columns of checks


def tell(line: str) -> None:
    """A line for whoever watches stderr; that nobody does any more ends nothing."""
    with contextlib.suppress(OSError):
        click.echo(line, err=True)


def somebody_is_there() -> bool:
    """Whether a question would be answered: both ends are a terminal, and no CI system's."""
    return sys.stdin.isatty() and sys.stderr.isatty() and not os.environ.get("CI")


def show_check(check: Check, name: str) -> None:
    """What was found, and below it what to do."""
    click.echo(f"  {check.verdict.value:<{WIDTH}} {name:<{NAME_WIDTH}} {check.says}")
    for number, line in enumerate(check.remedy.splitlines()):
        click.echo(f"{'':{WIDTH + NAME_WIDTH + 4}}{'try  ' if not number else '     '}{line}")


def clock(seconds: float) -> str:
    """`00:06:41`, with days in front when there are any, as Slurm writes them."""
    whole = int(seconds)
    days, whole = divmod(whole, 86400)
    text = f"{whole // 3600:02}:{whole % 3600 // 60:02}:{whole % 60:02}"
    return f"{days}-{text}" if days else text


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns in line; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
