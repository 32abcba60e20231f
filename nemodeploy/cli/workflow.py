"""What GitHub Actions reads besides: groups of lines, errors as annotations, a summary, and outputs of the step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemodeploy.cli.words import tell
from nemodeploy.errors import NemodeployError


def _enabled() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def begin_group(title: str) -> None:
    """The lines that follow fold under a title."""
    if _enabled():
        tell(f"::group::{_one_line(title)}")


def end_group() -> None:
    """Until here."""
    if _enabled():
        tell("::endgroup::")


def error(failure: NemodeployError) -> None:
    """An annotation of the run: what, the evidence, what to do."""
    if _enabled():
        text = "\n".join((failure.message, *failure.detail, *((f"try {failure.hint}",) if failure.hint else ())))
        tell(f"::error title=nemodeploy exit {failure.exit_code}::{_one_line(text)}")


def summary(heading: str, rows: Sequence[tuple[str, str]]) -> None:
    """A table on the run's page."""
    cells = [f"| {key} | {_cell(value)} |" for key, value in rows if value]
    _append("GITHUB_STEP_SUMMARY", [f"### {heading}", "", "| | |", "|---|---|", *cells, ""])


def outputs(values: Mapping[str, str]) -> None:
    """For the steps that follow: `steps.ID.outputs.NAME`."""
    _append("GITHUB_OUTPUT", [f"{key}={' '.join(value.split())}" for key, value in values.items()])


def _append(variable: str, lines: Sequence[str]) -> None:
    path = os.environ.get(variable)
    if not path or not _enabled():
        return
    try:
        with Path(path).open("a") as file:
            file.write("\n".join(lines) + "\n")
    except OSError as error:
        tell(f"note: {variable} could not be written: {error.strerror}")


def _one_line(text: str) -> str:
    """As workflow commands want it: a line break would end the command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
