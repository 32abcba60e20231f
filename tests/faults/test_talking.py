"""A talk on a terminal, with a server that does not answer: Ctrl-C stops the answer, and nothing else."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import sys
import time
from collections.abc import Iterator

import pytest

from tests.faults.rig import Rig
from tests.faults.test_serving import Server
from tests.faults.test_submitting import up

pytestmark = [pytest.mark.sandbox, pytest.mark.long]


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, environment: dict[str, str], *words: str) -> None:
        self.process, self.handle = pty.fork()
        if self.process == 0:
            os.execve(sys.executable, [sys.executable, "-m", "nemodeploy", *words], environment)
        self.seen = ""

    def until(self, words: str, within_s: float = 20) -> None:
        """Read until these words have come since the last time."""
        deadline = time.monotonic() + within_s
        while words not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.handle], [], [], 0.2)[0]:
                self.seen += os.read(self.handle, 4096).decode(errors="replace")
        self.seen = self.seen.partition(words)[2]

    def types(self, text: str) -> None:
        os.write(self.handle, text.encode())

    def ended(self, within_s: float = 20) -> int:
        """Its exit status."""
        deadline = time.monotonic() + within_s
        while True:
            done, status = os.waitpid(self.process, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"it has not ended; it said {self.seen!r}"
            with contextlib.suppress(OSError):  # the terminal is gone when its last process is
                if select.select([self.handle], [], [], 0.2)[0]:
                    self.seen += os.read(self.handle, 4096).decode(errors="replace")


@contextlib.contextmanager
def terminal(rig: Rig, *words: str) -> Iterator[Terminal]:
    one = Terminal(dict(rig.site.environment), *words)
    try:
        yield one
    finally:
        os.close(one.handle)


def test_ctrl_c_stops_an_answer_and_nothing_else(rig: Rig) -> None:
    server = Server(rig, "ok")
    name = up(rig, "--cluster", server.cluster)["name"]
    server.does("hang")
    with terminal(rig, "chat", str(name), "--cluster", server.cluster) as chat:
        chat.until("> ")
        chat.types("\x03")
        chat.until("Ctrl-D or /exit leaves")
        chat.until("> ")
        chat.types("What is it?\n")
        chat.until("What is it?\r\n")
        time.sleep(1)
        chat.types("\x03")
        chat.until("stopped")
        chat.until("> ")
        chat.types("/save\n")
        chat.until("/save FILE")
        chat.until("> ")  # an end of input typed before the prompt is there is lost, as in every program with readline
        chat.types("\x04")
        assert chat.ended() == 0
    assert rig.status()["state"] in ("READY", "DEGRADED")
