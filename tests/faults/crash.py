"""`nemodeploy`, dying by SIGKILL at its Nth step: python -m tests.faults.crash N FILE WORDS….

A step is the moment before, during or after a note in the journal, a connection, a remote call. FILE gets a line per
step; N 0 dies nowhere. A run that has fewer steps than N dies when its work is done, just before it would end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemodeploy.adapters.journal import Journal
from nemodeploy.adapters.transports.paramiko_ssh import ParamikoTransport
from nemodeploy.cli.main import main

DURING_S = 0.03


class Steps:
    def __init__(self, last: int, log: Path) -> None:
        self.last, self.log, self.count = last, log, 0

    def take(self, what: str) -> bool:
        self.count += 1
        with self.log.open("a") as file:
            file.write(f"{self.count} {what}\n")
        return self.count == self.last

    def around(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*words: Any, **named: Any) -> Any:
            if self.take(f"before {what}"):
                die()
            if self.take(f"during {what}"):
                threading.Timer(DURING_S, die).start()
            result = function(*words, **named)
            if self.take(f"after {what}"):
                die()
            return result

        return stepped


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    steps = Steps(int(sys.argv[1]), Path(sys.argv[2]))
    for holder, name in (
        (Journal, "note"),
        (Journal, "forget"),
        (ParamikoTransport, "open"),
        (ParamikoTransport, "run"),
        (ParamikoTransport, "tunnel"),
    ):
        setattr(holder, name, steps.around(f"{holder.__name__}.{name}", getattr(holder, name)))
    try:
        main(sys.argv[3:])
    finally:
        if steps.last:
            die()
