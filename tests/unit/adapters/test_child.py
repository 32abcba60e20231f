"""The user's command: its code, its end by a signal, and the signals that it is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nemodeploy.adapters import child
from nemodeploy.errors import BadInput


def send(*plan: tuple[float, signal.Signals]) -> None:
    """Signals to this process, after so many seconds each."""
    for after, number in plan:
        threading.Timer(after, os.kill, (os.getpid(), number)).start()


def run(script: str, *, from_terminal: bool = False) -> tuple[int, int]:
    return child.run(["sh", "-c", script], {**os.environ, "SAID": "hello"}, from_terminal=from_terminal)


@pytest.mark.parametrize(
    ("script", "code"), [("exit 7", 7), ("true", 0), ("kill -9 $$", 137), ('[ "$SAID" = hello ]', 0)]
)
def test_its_code_is_what_a_shell_would_say(script: str, code: int) -> None:
    assert run(script) == (code, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    send((0.5, number))
    assert run(f"trap 'exit 5' {number.name[3:]}; while :; do sleep 0.1; done") == (5, 1)
    assert signal.getsignal(number) is before


def test_a_second_signal_kills_it() -> None:
    send((0.5, signal.SIGINT), (1.0, signal.SIGTERM))
    assert run("trap '' INT TERM; while :; do sleep 0.1; done") == (137, 2)


def test_the_terminals_own_ctrl_c_is_not_sent_twice() -> None:
    send((0.5, signal.SIGINT))
    assert run("trap 'exit 5' INT; sleep 1.5; exit 6", from_terminal=True) == (6, 1)


def test_what_is_no_program_is_said_before_and_as_a_shell_would_afterwards(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no program 'no-such-thing' here"):
        child.require(["no-such-thing", "x"])
    script = tmp_path / "script"
    script.write_text("not a program")
    script.chmod(0o755)
    child.require([str(script)])
    assert child.run([str(script)], {}, from_terminal=False) == (126, 0)


def test_what_nohup_keeps_away_stays_away_from_us_and_from_the_command() -> None:
    script = (
        "import os, signal\n"
        "from nemodeploy.adapters import child\n"
        "from nemodeploy.cli import world\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "world.interrupt_on_termination()\n"
        "world.interrupt_once()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "words = ['sh', '-c', 'kill -HUP $PPID; kill -HUP $$; echo both are alive']\n"
        "assert child.run(words, os.environ, from_terminal=False) == (0, 0)\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "except KeyboardInterrupt:\n"
        "    print('TERM interrupts')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert (done.stdout, done.returncode) == ("both are alive\nTERM interrupts\n", 0), done.stderr
