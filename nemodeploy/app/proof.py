"""Whether what seems to have ended has: the witnesses are asked for all together, and a single one twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from nemodeploy.core.readiness import Seen
from nemodeploy.core.witnesses import AGAIN_AFTER_S, Trace, may_be_repeated, proves_end, proves_end_twice
from nemodeploy.values import Token


class Ask(Protocol):
    """The question to queue, accounting and files."""

    def __call__(
        self, jobs: Mapping[Token, str], quiet: Sequence[Token] = (), *, after_s: float = 0.0
    ) -> Mapping[Token, Trace]:
        """What they say of jobs by their ids, after a pause; of `quiet` ones only how still the files are."""


def proven(found: Mapping[Token, Seen], ask: Ask) -> Mapping[Token, Seen]:
    """What a look showed, each with what its witnesses said where an end, or a silence, was to be proven."""
    ended = {token: seen for token, seen in found.items() if seen.seems_ended and not seen.gone}
    quiet = [token for token, seen in found.items() if seen.may_be_silent]
    if not ended and not quiet:
        return found
    told = dict(found)
    first = ask({token: seen.job_id for token, seen in ended.items()}, quiet)
    for token in quiet:
        told[token] = replace(told[token], still=first[token].silence.is_long)
    for token, seen in ended.items():
        told[token] = _told(seen, first[token], gone=proves_end(first[token], own_word=seen.own_word))
    doubtful = {token: first[token] for token in ended if not told[token].gone and may_be_repeated(first[token])}
    again = ask({token: trace.job_id for token, trace in doubtful.items()}, after_s=AGAIN_AFTER_S) if doubtful else {}
    for token, trace in doubtful.items():
        gone = proves_end_twice(trace, again[token], own_word=ended[token].own_word)
        told[token] = _told(ended[token], again[token], gone=gone)
    return told


def _told(seen: Seen, trace: Trace, *, gone: bool) -> Seen:
    """With what the witnesses said, who may know an id that was not known."""
    return replace(seen, trace=trace, gone=gone, job_id=trace.job_id or seen.job_id)
