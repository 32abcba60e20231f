"""What GitHub Actions reads besides: groups of lines, errors as annotations, a summary, and outputs of the step.

These commands are our own. Text of others in them is washed and encoded, so that it can neither end nor begin one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemodeploy.cli.words import command_ci, tell
from nemodeploy.core.foreign import wash, wash_line
from nemodeploy.errors import NemodeployError

ERROR = "::error title=nemodeploy exit "


def _enabled() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def begin_group(title: str) -> None:
    """The lines that follow fold under a title."""
    if _enabled():
        command_ci(f"::group::{_data(title)}")


def end_group() -> None:
    """Until here."""
    if _enabled():
        command_ci("::endgroup::")


def repeat(said: str) -> None:
    """What another process of nemodeploy has said on its stderr; its annotations stay annotations."""
    for line in said.rstrip().split("\n"):
        (command_ci if _enabled() and line.startswith(ERROR) else tell)(line)


def error(failure: NemodeployError) -> None:
    """An annotation of the run: what, the evidence, what to do."""
    if _enabled():
        text = "\n".join((failure.message, *failure.detail, *((f"try {failure.hint}",) if failure.hint else ())))
        title = _property(str(failure.exit_code))
        command_ci(f"{ERROR}{title}::{_data(text)}")


def summary(heading: str, rows: Sequence[tuple[str, str]]) -> None:
    """A table on the run's page."""
    cells = [f"| {key} | {_cell(value)} |" for key, value in rows if value]
    _append("GITHUB_STEP_SUMMARY", [f"### {heading}", "", "| | |", "|---|---|", *cells, ""])


def outputs(values: Mapping[str, str]) -> None:
    """For the steps that follow: `steps.ID.outputs.NAME`."""
    _append("GITHUB_OUTPUT", [f"{key}={' '.join(wash_line(value).split())}" for key, value in values.items()])


def _append(variable: str, lines: Sequence[str]) -> None:
    path = os.environ.get(variable)
    if not path or not _enabled():
        return
    try:
        with Path(path).open("a") as file:
            file.write("\n".join(lines) + "\n")
    except OSError as error:
        tell(f"note: {variable} could not be written: {error.strerror}")


def _data(text: str) -> str:
    """As workflow commands want it: a line break would end the command."""
    return wash(text).replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    """The same for what stands before the second `::`, where `:` and `,` have a meaning, too."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _cell(text: str) -> str:
    """A cell of a Markdown table, in which nothing is a link, an image or HTML."""
    plain = " ".join(wash_line(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|!~])", r"\\\1", plain)
