from __future__ import annotations

import itertools

import pytest

from nemodeploy.core.witnesses import Silence, Trace, Word, may_be_repeated, proves_end, proves_end_twice

OLD = 999


def trace(queue: Word, account: Word, age_s: int | None = OLD, written_at: int = 1000) -> Trace:
    return Trace(job_id="7", queue=queue, account=account, silence=Silence(age_s=age_s, written_at=written_at))


@pytest.mark.parametrize(
    ("queue", "account", "own_word", "ended"),
    [
        (Word.ABSENT, Word.ENDED, False, True),
        (Word.ENDED, Word.ENDED, False, True),
        (Word.ABSENT, Word.MISSING, True, True),
        (Word.ENDED, Word.SILENT, True, True),
        (Word.SILENT, Word.ENDED, True, True),
        (Word.MAYBE, Word.ENDED, True, True),
        (Word.ENDED, Word.MISSING, False, False),
        (Word.SILENT, Word.ENDED, False, False),
        (Word.MAYBE, Word.MISSING, True, False),
        (Word.ENDED, Word.ALIVE, True, False),
        (Word.ALIVE, Word.ENDED, True, False),
    ],
)
def test_two_witnesses_prove_an_end_unless_one_says_that_it_lives(
    queue: Word, account: Word, own_word: bool, ended: bool
) -> None:
    assert proves_end(trace(queue, account), own_word=own_word) is ended


@pytest.mark.parametrize("account", [Word.MISSING, Word.ABSENT])
@pytest.mark.parametrize("queue", [Word.ENDED, Word.ABSENT])
def test_the_only_witness_is_believed_the_second_time(queue: Word, account: Word) -> None:
    assert proves_end_twice(trace(queue, account, 100), trace(queue, account, 110), own_word=False)


def test_a_job_that_writes_is_not_ended_whatever_its_only_witness_says() -> None:
    for queue in (Word.ENDED, Word.ABSENT):
        first, second = trace(queue, Word.MISSING, 8), trace(queue, Word.MISSING, 3, written_at=1015)
        assert not proves_end_twice(first, second, own_word=False)


def test_an_unknown_id_waits_for_silence_and_a_listed_end_does_not() -> None:
    """A controller that lost its list calls living jobs invalid; their files may reach us a minute late."""
    lost = trace(Word.ABSENT, Word.MISSING, 2), trace(Word.ABSENT, Word.MISSING, 12)
    listed = trace(Word.ENDED, Word.MISSING, 2), trace(Word.ENDED, Word.MISSING, 12)
    assert not proves_end_twice(*lost, own_word=False)
    assert proves_end_twice(*listed, own_word=False)


def test_nothing_is_repeated_while_a_witness_is_silent_or_says_that_it_lives() -> None:
    for queue, account in itertools.product(Word, Word):
        one = trace(queue, account)
        if Word.ALIVE in (queue, account) or account is Word.SILENT:
            assert not may_be_repeated(one)
            assert not proves_end_twice(one, one, own_word=False)


def test_a_wrong_row_is_taken_back_by_the_second_answer() -> None:
    first, second = trace(Word.ENDED, Word.MISSING, 2), trace(Word.ALIVE, Word.MISSING, 1)
    assert not proves_end_twice(first, second, own_word=False)
