from __future__ import annotations

import json
import subprocess
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from nemodeploy.core.foreign import wash_line
from nemodeploy.core.history import HISTORY_SCRIPT, Event, parse_history, spent
from nemodeploy.core.readiness import State
from nemodeploy.values import Epoch

FIRST, SECOND = Epoch("7", 0), Epoch("7", 1)


def line(at: int, elapsed_s: int, phase: str, cause: str = "") -> str:
    return json.dumps({"at": at, "elapsed_s": elapsed_s, "phase": phase, "cause": cause}) + "\n"


def write(path: Path, epoch: Epoch, lines: str, *, cause: str = "", elapsed_s: int = 0) -> None:
    directory = path / "epochs" / str(epoch)
    directory.mkdir(parents=True)
    (directory / "events.jsonl").write_text(lines)
    if cause:
        record = {"epoch": str(epoch), "cause": cause, "status": 0, "elapsed_s": elapsed_s}
        (directory / "exit.json").write_text(json.dumps(record))


def read(path: Path) -> tuple[Event, ...]:
    words = {"input": HISTORY_SCRIPT, "capture_output": True, "text": True, "check": True, "timeout": 20, "cwd": path}
    done = subprocess.run(["sh", "-s"], **words)  # type: ignore[call-overload]
    return parse_history(done.stdout).events


def test_two_epochs_are_one_history(tmp_path: Path) -> None:
    one = line(1000, 0, "starting") + line(1060, 60, "serving") + line(1300, 300, "stopping", "cancelled")
    write(tmp_path, FIRST, one, cause="cancelled", elapsed_s=310)
    two = line(2000, 0, "starting") + line(2010, 10, "warming_up") + line(2040, 40, "serving")
    write(tmp_path, SECOND, two + line(2100, 100, "degraded") + line(2160, 160, "serving"))
    events = read(tmp_path)
    assert [(event.at, event.state.value, event.reason) for event in events] == [
        (1000, "STARTING", "starting"),
        (1060, "READY", ""),
        (1300, "STOPPING", "cancelled"),
        (1310, "ENDED", "cancelled"),
        (2000, "STARTING", "starting"),
        (2010, "STARTING", "warming up"),
        (2040, "READY", ""),
        (2100, "DEGRADED", ""),
        (2160, "READY", ""),
    ]
    assert {event.epoch for event in events} == {FIRST, SECOND}
    cost = spent(events, SECOND, 500)
    assert (cost.held_s, cost.before_ready_s) == (310 + 500, 60 + 40)


def test_the_clients_files_tell_of_submission_and_queue(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "submit").mkdir()
    (tmp_path / "submit/sbatch.rc").write_text("0\n")
    assert [event.state for event in read(tmp_path)] == [State.SUBMITTING, State.QUEUED]


def test_what_never_answered_cost_all_of_its_time_before_ready(tmp_path: Path) -> None:
    write(tmp_path, FIRST, line(1000, 0, "starting"), cause="server_exited", elapsed_s=90)
    cost = spent(read(tmp_path), None, None)
    assert (cost.held_s, cost.before_ready_s) == (90, 90)


def test_torn_hostile_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    bad = '{"at": 1\n[]\n{"at": "x", "elapsed_s": 0, "phase": "a", "cause": ""}\n{"at": 1e99}\n\x00\n'
    huge = json.dumps({"at": 10**30, "elapsed_s": 0, "phase": "a", "cause": ""}) + "\n"
    write(tmp_path, FIRST, bad + huge + line(1000, 0, "starting"))
    (tmp_path / "epochs/elsewhere").mkdir()
    (tmp_path / "epochs/elsewhere/events.jsonl").write_text(line(1, 0, "serving"))
    assert [event.at for event in read(tmp_path)] == [1000]


@given(st.text(max_size=300))
@example("/\ud7fc")
@example("/\u202e")
def test_no_text_breaks_it(text: str) -> None:
    told = parse_history(text + f"\n==> epochs/7.0/events.jsonl <==\n{text}")
    assert all(event.at >= 0 for event in told.events)
    assert told.directory == wash_line(told.directory)
