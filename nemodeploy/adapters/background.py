"""Tunnels that go on in a process of their own: started, found again, and ended by name."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemodeploy.adapters import files
from nemodeploy.adapters.journal import identity
from nemodeploy.errors import BadInput

ENDS_WITHIN_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """What a process in the background said first, and how it ended if it did: its code, and its words for people."""

    document: Mapping[str, Any]
    code: int | None
    said: str


class Tunnels:
    """One file per name; it names one process for ever, so no other one is ever ended."""

    def __init__(self, state: Path) -> None:
        """Below the directory for state."""
        self.directory = state / "tunnels"

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Nobody else starts or ends the tunnel of this name in the block. Raises BadInput without a place."""
        with self._written():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = files.plain(self.directory / f"{name}.lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BadInput(
                f"cannot write below {self.directory}: {error.strerror}", hint="set XDG_STATE_HOME"
            ) from error

    def running(self, name: str) -> Mapping[str, Any] | None:
        """What the tunnel of a name said when it began, if it still runs."""
        try:
            document = json.loads((self.directory / f"{name}.json").read_text())
            process = str(document["process"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        alive = process[:1].isdigit() and process == identity(process.partition(".")[0])
        return document if alive else None

    def start(self, name: str, words: Sequence[str]) -> Started:
        """Run a command line of nemodeploy that says one JSON document and goes on. Raises BadInput without a place."""
        with self._written():
            files.plain(self.directory / f"{name}.json")  # before there is a process that could not be found again
            with files.plain(self.directory / f"{name}.log").open("w+") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "nemodeploy", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                    text=True,
                )
                assert process.stdout is not None
                with process.stdout:
                    line = process.stdout.readline()
                document: dict[str, Any] = json.loads(line or "{}")
                if "url" not in document:
                    code = process.wait()
                    log.seek(0)
                    return Started(document=document, code=code, said=log.read())
            document["process"] = identity(str(process.pid))
            files.write_whole(self.directory / f"{name}.json", json.dumps(document))
        process.returncode = 0  # it is nobody's child from now on
        return Started(document=document, code=None, said="")

    def stop(self, name: str) -> bool:
        """End the tunnel of a name, and return when it has ended; False: there is none."""
        document = self.running(name)
        if document is None:
            return False
        process = str(document["process"])
        number, deadline = signal.SIGTERM, time.monotonic() + ENDS_WITHIN_S
        with contextlib.suppress(ProcessLookupError):
            while self.running(name):
                os.kill(int(process.partition(".")[0]), number)
                time.sleep(0.1)
                number = signal.SIGKILL if time.monotonic() > deadline else signal.SIGTERM
        with contextlib.suppress(OSError):
            (self.directory / f"{name}.json").unlink()
        return True
