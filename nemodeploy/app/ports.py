"""What a use case needs from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nemodeploy.adapters.clock import Clock
from nemodeploy.adapters.journal import Journal
from nemodeploy.values import Secret, Token


class Reporter(Protocol):
    """Whoever watches: told once per change, and asked when a decision is a person's."""

    def say(self, phase: str, text: str) -> None:
        """Something has changed: `queued`, `Resources: waiting for free nodes`."""

    def live(self, phase: str, text: str) -> None:
        """The same thing, a little later; for a display that redraws itself."""

    def wants_cancel(self, token: str) -> bool:
        """After an interrupt: take the job back (True), or leave it and go."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """The world of one command."""

    clock: Clock
    journal: Journal
    reporter: Reporter
    new_token: Callable[[str], Token]
    nonce: Callable[[], str]
    key: Callable[[Token], Secret]
    wall_clock: Callable[[], str]
    owner: str
    version: str
