"""Time and randomness, so that everything else can take them as arguments."""

from __future__ import annotations

import secrets
import time
from typing import Protocol

from nemodeploy.values import Token


class Clock(Protocol):
    """A monotonic clock that can be waited on; tests turn their own."""

    def now(self) -> float:
        """Seconds since some moment."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Seconds, unaffected by clock steps."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(max(0.0, seconds))


def new_token(name: str) -> Token:
    """A token nobody had before."""
    return Token.make(name, milliseconds=time.time_ns() // 1_000_000, entropy=secrets.randbits(80))


def nonce() -> str:
    """A word that no remote output contains by chance."""
    return secrets.token_hex(16)


def epoch_s() -> float:
    """The wall clock, to be compared with another machine's: seconds since the Epoch."""
    return time.time()


def utc_now() -> str:
    """The wall clock, for people: ISO 8601 in UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
