"""What a deployment has been through: from the job's own events and the times of its files, long after Slurm forgot."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nemodeploy.core.foreign import wash_line
from nemodeploy.core.observation import read_exit
from nemodeploy.core.readiness import CAUSES, State
from nemodeploy.core.run_directory import each_file, read_files
from nemodeploy.core.tails import split_tails
from nemodeploy.values import Epoch

_STATES = {"serving": State.READY, "degraded": State.DEGRADED, "stopping": State.STOPPING}


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """From when on it was in a state. `at` is in seconds since the Epoch by the cluster's clocks; `elapsed_s` counts
    from the start of the batch script, None before there was one."""

    at: int
    state: State
    reason: str = ""
    epoch: Epoch | None = None
    elapsed_s: int | None = None

    def as_json(self) -> dict[str, object]:
        """One line of `events`."""
        epoch = str(self.epoch) if self.epoch else None
        state = self.state.value
        return {"at": self.at, "state": state, "reason": self.reason, "epoch": epoch, "elapsed_s": self.elapsed_s}


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Where a run directory lies now, and what it tells, in order of time."""

    directory: str
    events: tuple[Event, ...]


# POSIX shell, in the run directory: where it is, the times of the client's files, every epoch's events and its end.
HISTORY_SCRIPT = f"""\
pwd
stat -c '%Y %n' manifest.json submit/sbatch.rc 2>/dev/null
{{
{each_file("epochs/*/events.jsonl epochs/*/exit.json")}
}} | {read_files("tail")}
exit 0
"""


def parse_history(text: str) -> History:
    """What HISTORY_SCRIPT printed; whatever is no event of ours is passed over."""
    found: list[Event] = []
    for stamp, name in re.findall(r"^(\d{1,12}) (manifest\.json|submit/sbatch\.rc)$", text, re.MULTILINE):
        found.append(Event(at=int(stamp), state=State.SUBMITTING if name[0] == "m" else State.QUEUED))
    files = split_tails(text)
    for path in sorted(files, key=_order):
        epoch = Epoch.parse(path.partition("/")[2].partition("/")[0])
        if epoch and path.endswith("events.jsonl"):
            found += _events(epoch, files[path].splitlines())
        elif epoch:
            found += _end(epoch, files[path], found)
    where = text.partition("\n")[0]
    events = tuple(sorted(found, key=lambda event: event.at))
    return History(directory=wash_line(where) if where.startswith("/") else "", events=events)


def _order(path: str) -> tuple[str, bool]:
    """An epoch's end after its events."""
    return path.rpartition("/")[0], path.endswith("exit.json")


def _events(epoch: Epoch, lines: Iterable[str]) -> Iterable[Event]:
    for line in lines:
        try:
            data = json.loads(line)
            at, elapsed_s, phase, cause = (data[key] for key in ("at", "elapsed_s", "phase", "cause"))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if not all(isinstance(number, int) and 0 <= number < 10**12 for number in (at, elapsed_s)):
            continue
        state = _STATES.get(str(phase), State.STARTING)
        reason = wash_line(str(phase)).replace("_", " ")[:40] if state is State.STARTING else CAUSES.get(str(cause), "")
        yield Event(at=at, state=state, reason=reason, epoch=epoch, elapsed_s=elapsed_s)


def _end(epoch: Epoch, text: str, before: Sequence[Event]) -> Iterable[Event]:
    """exit.json knows how long it all took; the time of day comes from the epoch's own events."""
    ended = read_exit(text)
    mine = [event for event in before if event.epoch == epoch and event.elapsed_s is not None]
    if ended and mine and mine[0].elapsed_s is not None:
        at = max(mine[0].at - mine[0].elapsed_s + ended.elapsed_s, mine[-1].at)
        reason = CAUSES.get(ended.cause, ended.cause)
        yield Event(at=at, state=State.ENDED, reason=reason, epoch=epoch, elapsed_s=ended.elapsed_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """Seconds of all epochs: how long nodes were held, and how much of it before the server first answered."""

    held_s: int
    before_ready_s: int


def spent(events: Sequence[Event], running: Epoch | None, elapsed_s: int | None) -> Spent:
    """Over all epochs; the one that is running now is as old as Slurm says."""
    held, before = 0, 0
    for epoch in {event.epoch for event in events if event.epoch} | ({running} if running else set()):
        mine = [event for event in events if event.epoch == epoch and event.elapsed_s is not None]
        last = max((event.elapsed_s or 0 for event in mine), default=0)
        whole = max(last, elapsed_s or 0) if epoch == running else last
        ready = min((event.elapsed_s or 0 for event in mine if event.state is State.READY), default=whole)
        held, before = held + whole, before + ready
    return Spent(held_s=held, before_ready_s=before)
