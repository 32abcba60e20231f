"""What is printed, and how numbers and times are shown to people.

Every line that the command prints passes here, so that text of others reaches neither a terminal nor a CI log unwashed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from nemodeploy.core.foreign import Pieces, disarm, wash, wash_line

if TYPE_CHECKING:
    from nemodeploy.core.checks import Check

WIDTH, NAME_WIDTH = 14, 12  # of the columns of checks


CI_LOGS = ("GITHUB_ACTIONS", "GITLAB_CI", "TF_BUILD", "TEAMCITY_VERSION")  # set where a log is read for commands
CLEAR = "\x1b[H\x1b[2J"


def say(text: str, *, nl: bool = True) -> None:
    """Print an answer on stdout."""
    click.echo(_safe(text), nl=nl)


def tell(line: str) -> None:
    """Print a line on stderr for a person or a log. A stderr that is closed ends nothing."""
    with contextlib.suppress(OSError):
        click.echo(_safe(line), err=True)


def redraw(text: str) -> None:
    """Print an answer on an empty screen."""
    click.echo(CLEAR + _safe(text))


def put_json(document: Any, *, indent: int | None = None) -> None:
    """Print a JSON document on stdout in ASCII; in a CI log `##` is escaped, which changes no value."""
    text = json.dumps(document, indent=indent)
    click.echo(re.sub("#(?=#)", r"\\u0023", text) if in_ci_log() else text)


def command_ci(line: str) -> None:
    """Tell the CI system a command of our own; what others wrote in it is encoded already."""
    with contextlib.suppress(OSError):
        click.echo(line, err=True)


def confirm(question: str, *, default: bool = False, abort: bool = False) -> bool:
    """Ask on the terminal. Raises click.Abort at the end of input, and with `abort` for a no."""
    return click.confirm(_safe(question), default=default, abort=abort, err=True)


def choose(question: str, answers: Sequence[str], best: str) -> str:
    """Ask on the terminal for one of the answers."""
    shown = {wash_line(answer): answer for answer in answers}
    kind = click.Choice(list(shown))
    chosen: str = click.prompt(_safe(question), type=kind, default=wash_line(best), show_choices=True, err=True)
    return shown[chosen]


class Flow:
    """An answer on stdout as it comes. In a CI log whole lines at a time: only a whole line shows whether it is a
    command."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.begun = False
        self._pieces, self._line = Pieces(), ""

    def show(self, piece: str) -> None:
        """The next piece."""
        self.begun = self.begun or bool(piece)
        text = self._line + self._pieces.wash(piece)
        end = text.rfind("\n") + 1 if in_ci_log() else len(text)
        self._line = text[end:]
        say(text[:end], nl=False)

    def end(self) -> None:
        """There is no other piece."""
        say(self._line + self._pieces.rest())
        self._line = ""


def in_ci_log() -> bool:
    """Whether a CI system reads what we print, and would take some lines for commands."""
    return any(os.environ.get(name) for name in CI_LOGS)


def _safe(text: str) -> str:
    return disarm(wash(text)) if in_ci_log() else wash(text)


def somebody_is_there() -> bool:
    """Whether a question would be answered: both ends are a terminal, and no CI system's."""
    return sys.stdin.isatty() and sys.stderr.isatty() and not os.environ.get("CI")


def show_check(check: Check, name: str) -> None:
    """What was found, and below it what to do."""
    say(f"  {check.verdict.value:<{WIDTH}} {name:<{NAME_WIDTH}} {check.says}")
    for number, line in enumerate(check.remedy.splitlines()):
        say(f"{'':{WIDTH + NAME_WIDTH + 4}}{'try  ' if not number else '     '}{line}")


def clock(seconds: float) -> str:
    """`00:06:41`, with days in front when there are any, as Slurm writes them."""
    whole = int(seconds)
    days, whole = divmod(whole, 86400)
    text = f"{whole // 3600:02}:{whole % 3600 // 60:02}:{whole % 60:02}"
    return f"{days}-{text}" if days else text


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns in line; the first row is the heading."""
    rows = [[wash_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
