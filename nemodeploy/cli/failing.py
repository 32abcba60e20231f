"""Errors in front of a user: what, where, what to do. Never a traceback; a bug says it is one."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from nemodeploy.cli import workflow
from nemodeploy.cli.words import put_json, tell
from nemodeploy.core.foreign import wash_json
from nemodeploy.errors import NemodeployError
from nemodeploy.version import __version__

SCHEMA = "nemodeploy/error@1"
BUG_EXIT_CODE = 1


def show_error(error: NemodeployError, *, as_json: bool) -> int:
    """Tell it on stderr, and as one document on stdout when asked; returns the exit code."""
    tell(f"error: {error.message}")
    for line in error.detail:
        if line != error.message:
            tell(f"  │ {line}")
    if error.hint:
        tell(f"  try  {error.hint}")
    workflow.error(error)
    if as_json:
        put_json(error_document(error))
    return error.exit_code


def error_document(error: NemodeployError) -> dict[str, Any]:
    """The document of a failed `--json` command."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "exit_code": error.exit_code,
        "error": error.message,
        "hint": error.hint,
        "detail": list(error.detail),
    }
    found: dict[str, Any] = wash_json(document | ({"token": error.token} if error.token else {}))
    return found


def report_bug(error: Exception, words: list[str], *, as_json: bool) -> None:
    """Write a paste-ready report and say where it is."""
    text = (
        f"nemodeploy {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"command: {words}\n\n{''.join(traceback.format_exception(error))}"
    )
    bug = NemodeployError(
        f"this is a bug in nemodeploy: {type(error).__name__}: {error}", hint=f"report it with {_write_report(text)}"
    )
    show_error(bug, as_json=as_json)


def _write_report(text: str) -> str:
    from nemodeploy.adapters import files
    from nemodeploy.adapters.resources import state_directory

    for parent in (state_directory(), Path(tempfile.gettempdir()) / f"nemodeploy-{os.getuid()}"):
        with contextlib.suppress(OSError):
            directory = parent / "reports"
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path: Path = directory / time.strftime(f"%Y%m%dT%H%M%S-{os.getpid()}.txt")
            files.write_new(path, text, mode=0o600)  # another user may have made the directory below /tmp
            return str(path)
    return "the command you typed; no report could be written"
