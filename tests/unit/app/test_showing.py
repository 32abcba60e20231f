"""Small things that are shown: host lists, log prefixes, answers that a job kept, reporters."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nemodeploy.app import asking
from nemodeploy.app.status import hosts
from nemodeploy.cli.reporters import PlainReporter
from nemodeploy.cli.words import clock, table
from nemodeploy.core.tails import split_tails

PLAN: dict[str, Any] = {
    "engine": "nemo-eval",
    "prompting": {"template": "User\n{prompt}\nAssistant\n", "system": "", "stop": ["<end>"], "probe": "hi?"},
}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("h100-[1-2]", ("h100-1", "h100-2")),
        ("n[008-010,12]", ("n008", "n009", "n010", "n12")),
        ("a,b[1-2]-ib,c", ("a", "b1-ib", "b2-ib", "c")),
        ("r[1-2]n[3-4]", ("r1n3", "r1n4", "r2n3", "r2n4")),
        ("", ()),
        ("odd[x-y]", ("odd[x-y]",)),
    ],
)
def test_host_lists_are_written_out(text: str, names: tuple[str, ...]) -> None:
    assert hosts(text) == names


def test_tails_are_split_by_file() -> None:
    text = "==> current/logs/a.0.log <==\none\ntwo\n\n==> slurm-7.log <==\nthree\n"
    assert split_tails(text) == {"current/logs/a.0.log": "one\ntwo\n\n", "slurm-7.log": "three\n"}


def test_an_answer_that_the_job_kept_is_read_like_any_other() -> None:
    body = json.dumps({"sentences": ["User\nhi?\nAssistant\nHello.<end>"]})
    assert asking.recorded(PLAN, f"200\n{body}") == "Hello."
    with pytest.raises(asking.NoAnswer, match="status 500"):
        asking.recorded(PLAN, '500\n{"message": "Internal Server Error"}')


def test_times_are_slurms_and_columns_are_in_line() -> None:
    assert (clock(401.9), clock(90061)) == ("00:06:41", "1-01:01:01")
    assert table([("A", "B"), ("long", "x")]) == "A     B\nlong  x"


def test_a_plain_reporter_says_each_change_once(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = PlainReporter()
    reporter.say("queued", "Priority")
    reporter.live("queued", "Priority")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("queued     Priority") == 1
