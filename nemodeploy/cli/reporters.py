"""Telling a person or a log what goes on: a live line on a terminal, one line per change otherwise. All on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

import click

from nemodeploy.cli.words import clock, confirm, somebody_is_there, tell
from nemodeploy.core.foreign import wash_line

if TYPE_CHECKING:
    from rich.status import Status

    from nemodeploy.app.ports import Reporter


class PlainReporter:
    """Lines with the seconds since the start, once per change."""

    def __init__(self) -> None:
        """The clock starts now."""
        self.begun = time.monotonic()

    def say(self, phase: str, text: str) -> None:
        """One line."""
        tell(f"{time.monotonic() - self.begun:7.1f} s  {wash_line(phase):<10} {wash_line(text)}".rstrip())

    def live(self, phase: str, text: str) -> None:
        """Nothing new, so nothing."""

    def wants_cancel(self, token: str) -> bool:
        """Ask whoever is there; with nobody there, take it back."""
        return confirm_cancel(token) if somebody_is_there() else True

    def close(self) -> None:
        """Nothing to put away."""


class TerminalReporter:
    """A line that keeps moving, and stays behind when the phase changes. That the terminal is gone ends nothing."""

    def __init__(self) -> None:
        """Import rich, which is slow, only for a terminal."""
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, emoji=False)
        self.begun = time.monotonic()
        self.phase, self.text = "", ""
        self.status: Status | None = None

    def say(self, phase: str, text: str) -> None:
        """Finish the old line when the phase changes, and show the new one."""
        if phase != self.phase:
            self.close()
        self.phase, self.text = phase, text
        self.live(phase, text)

    def live(self, phase: str, text: str) -> None:
        """Redraw with the time that has passed."""
        with contextlib.suppress(OSError):
            self._draw(phase, text)

    def _draw(self, phase: str, text: str) -> None:
        from rich.markup import escape

        line = escape(self._line(phase, text)[: self.console.width - 4])
        if self.status is None:
            self.status = self.console.status(line, spinner="dots")
            self.status.start()
        else:
            self.status.update(line)

    def wants_cancel(self, token: str) -> bool:
        """Ask the person; a second Ctrl-C means yes, and so does a terminal that is gone."""
        self.close()
        return confirm_cancel(token)

    def close(self) -> None:
        """Leave the last line standing."""
        with contextlib.suppress(OSError):
            if self.phase:
                self._settle()
        self.phase = ""

    def _settle(self) -> None:
        if self.status is not None:
            status, self.status = self.status, None
            status.stop()
        self.console.print(self._line(self.phase, self.text), markup=False, soft_wrap=True)

    def _line(self, phase: str, text: str) -> str:
        return f"  {wash_line(phase):<10} {clock(time.monotonic() - self.begun)}  {wash_line(text)}".rstrip()


def confirm_cancel(token: str) -> bool:
    """Ask a person; another Ctrl-C means yes, and so does that nobody can be asked any more."""
    try:
        return confirm(f"\ncancel {token}?", default=True)
    except (click.Abort, KeyboardInterrupt, OSError):
        return True


def reporter(*, plain: bool = False) -> PlainReporter | TerminalReporter:
    """The one that fits where stderr goes."""
    return PlainReporter() if plain or os.environ.get("CI") or not sys.stderr.isatty() else TerminalReporter()


if TYPE_CHECKING:
    _checked: tuple[type[Reporter], ...] = (PlainReporter, TerminalReporter)
