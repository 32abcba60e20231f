"""Who says that a job has ended, and when that is believed: two witnesses, or one of them twice.

The witnesses are the scheduler's queue, its accounting, and the job's own last word (exit.json). Each has been wrong:
a controller that lost its list calls living jobs invalid, and a final state has been seen for a job that ran on.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from nemodeploy.core import tempo

AGAIN_AFTER_S = 10.0  # between two questions to the only witness that a site has


class Word(enum.Enum):
    """What one witness says of a job."""

    ALIVE = "alive"  # it lists the job, in a state that is not final
    MAYBE = "maybe"  # it lists a job of this id, under another name and in another directory
    ENDED = "ended"  # it lists the job in a final state
    ABSENT = "absent"  # it answers, and has no such job
    MISSING = "missing"  # this site does not have it
    SILENT = "silent"  # it did not answer, or could not be asked


@dataclass(frozen=True, kw_only=True, slots=True)
class Silence:
    """For how many seconds a job has written nothing, by the file system's clock, and when it last did (seconds since
    the Epoch). `age_s` None: there is no run directory to tell."""

    age_s: int | None
    written_at: int | None = None

    @property
    def is_long(self) -> bool:
        """Whether a living job would have written something by now."""
        return self.age_s is None or self.age_s > tempo.TEMPO.silent


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """What queue and accounting say of a job, and how still its files are. `job_id` is empty while no witness names
    one; `state` is the accounting's own word, `by` the user who cancelled it, `failed` what the nodes say of a start
    that never came."""

    job_id: str = ""
    queue: Word = Word.SILENT
    account: Word = Word.SILENT
    state: str = ""
    by: str = ""
    failed: str = ""
    silence: Silence = field(default_factory=lambda: Silence(age_s=0))

    @property
    def found(self) -> bool:
        """Whether the scheduler has, or had, a job of this token."""
        return bool({self.queue, self.account} & {Word.ALIVE, Word.ENDED})


def proves_end(trace: Trace, *, own_word: bool) -> bool:
    """Whether two witnesses say that the job has ended, and none says that it lives."""
    if Word.ALIVE in (trace.queue, trace.account):
        return False
    return sum(_votes(trace, own_word=own_word)) >= 2


def may_be_repeated(trace: Trace) -> bool:
    """Whether the same question later may prove the end: no witness says that the job lives, and none is silent, but
    for a queue that could not be asked for want of an id."""
    asked = trace.queue is not Word.SILENT or trace.account is Word.ENDED
    return asked and Word.ALIVE not in (trace.queue, trace.account) and trace.account is not Word.SILENT


def proves_end_twice(first: Trace, second: Trace, *, own_word: bool) -> bool:
    """Whether the only witness of a site said so twice, and nothing speaks against it: no witness that is silent, and
    no file that the job has written meanwhile."""
    if proves_end(second, own_word=own_word):
        return True
    if not (may_be_repeated(first) and may_be_repeated(second)):
        return False
    if second.queue is Word.SILENT:
        return False
    both = [a and b for a, b in zip(_votes(first, own_word=own_word), _votes(second, own_word=own_word), strict=True)]
    if second.queue is Word.ABSENT:
        return any(both) and second.silence.is_long
    return any(both) and first.silence.written_at == second.silence.written_at


def _votes(trace: Trace, *, own_word: bool) -> tuple[bool, bool, bool]:
    """Of queue, accounting and job."""
    return trace.queue in (Word.ENDED, Word.ABSENT), trace.account is Word.ENDED, own_word
