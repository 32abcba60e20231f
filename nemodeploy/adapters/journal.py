"""The client's own notes: what it was about to submit, for whoever has to find out after a crash.

One file per token, written whole, flushed and renamed before any network. Nothing but convenience depends on it:
the run directory on the cluster and Slurm are the truth.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from nemodeploy.errors import BadInput
from nemodeploy.values import Token

SCHEMA = "nemodeploy/journal@1"


class Journal:
    """A directory of small files, readable by the owner only."""

    def __init__(self, directory: Path) -> None:
        """Nothing is created before the first note."""
        self.directory = directory / "journal"

    def note(self, token: Token, **facts: str) -> None:
        """Write down what is known of a token. Raises BadInput when it cannot: then nothing must be sent."""
        path = self.directory / f"{token}.json"
        new = path.with_suffix(".new")
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump({"schema": SCHEMA, "token": str(token), **facts}, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError as error:
            raise BadInput(
                f"cannot write the journal {path}: {error.strerror}", hint="free the space, or set XDG_STATE_HOME"
            ) from error

    def add(self, token: Token, **facts: str) -> None:
        """The same once something was sent: a journal that cannot be written changes nothing any more."""
        with contextlib.suppress(BadInput):
            self.note(token, **facts)

    def forget(self, token: Token) -> None:
        """The token is verified gone."""
        with contextlib.suppress(OSError):
            (self.directory / f"{token}.json").unlink(missing_ok=True)
