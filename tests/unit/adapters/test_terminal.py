"""Questions on the terminal: nothing typed is shown unless it may be, and the wait is limited."""

from __future__ import annotations

import os
import pty
import termios
from pathlib import Path

import pytest

from nemodeploy.adapters import terminal
from nemodeploy.errors import AuthenticationFailed


def test_an_answer_is_read_unseen_and_the_wait_for_one_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setattr(terminal, "TTY", Path(os.ttyname(theirs)))
    before = termios.tcgetattr(theirs)
    with pytest.raises(AuthenticationFailed, match="no answer on the terminal within 0 s to: code:"):
        terminal._ask("", [("code: ", False)], 0.05)
    assert termios.tcgetattr(theirs) == before
    monkeypatch.setattr(termios, "TCSAFLUSH", termios.TCSANOW)  # what was typed ahead counts here
    os.write(ours, b"secret\n")
    assert terminal._ask("", [("code: ", True)], 5) == ["secret"]
    assert termios.tcgetattr(theirs) == before
