"""A talk on a terminal, with a server that does not answer: Ctrl-C stops the answer, and nothing else."""

from __future__ import annotations

import time

import pytest

from tests.faults.rig import Rig
from tests.faults.test_serving import Server
from tests.faults.test_submitting import up
from tests.terminal import terminal

pytestmark = [pytest.mark.sandbox, pytest.mark.long]


def test_ctrl_c_stops_an_answer_and_nothing_else(rig: Rig) -> None:
    server = Server(rig, "ok")
    name = up(rig, "--cluster", server.cluster)["name"]
    server.does("hang")
    with terminal(rig.site.environment, "chat", str(name), "--cluster", server.cluster) as chat:
        chat.until("> ")
        chat.interrupt_until("Ctrl-D or /exit leaves")
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
