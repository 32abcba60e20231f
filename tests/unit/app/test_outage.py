"""What is said of an outage: its beginning, once a minute, and its end."""

from __future__ import annotations

import threading

import pytest

from nemodeploy.app import outage
from nemodeploy.app.outage import Outage


class Told:
    """An outage with a clock that is set by hand, and what it said."""

    def __init__(self) -> None:
        self.at, self.lines, self.said = 0.0, [""], threading.Event()
        self.lines.clear()
        self.outage = Outage(self.say, lambda: self.at)

    def say(self, phase: str, text: str) -> None:
        self.lines.append(f"{phase} {text}")
        self.said.set()


def test_two_texts_in_turn_are_one_outage_told_once_a_minute() -> None:
    told = Told()
    for second in range(150):
        told.at = float(second)
        told.outage.broke(("refused", "no route")[second % 2])
    told.outage.over()
    told.outage.over()
    assert told.lines == [
        "unknown refused; asking again",
        "unknown refused, for 60 s now",
        "unknown refused, for 120 s now",
        "known answered again after 149 s",
    ]


def test_failures_between_answers_are_told_once_a_minute_unless_one_lasts() -> None:
    told = Told()
    for second in range(0, 50, 2):
        told.at = float(second)
        told.outage.broke("refused")
        told.at += 1
        told.outage.over()
    assert told.lines == ["unknown refused; asking again", "known answered again after 1 s"]
    for second in range(50, 60):
        told.at = float(second)
        told.outage.broke("refused")
    assert told.lines[2:] == ["unknown refused; asking again"]


def test_an_answer_that_is_late_is_told_while_somebody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "NOTICE_S", 0.001)
    told = Told()
    with told.outage.waiting("cluster dgx"):
        assert told.said.wait(10)
    assert told.lines == ["unknown no answer from cluster dgx; asking again"]


def test_an_answer_in_time_is_not_told() -> None:
    told = Told()
    with told.outage.waiting("cluster dgx"):
        pass
    told.outage.over()
    assert told.lines == []
