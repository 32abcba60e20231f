from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemodeploy.core.listing import counted, natural


@pytest.mark.parametrize(
    "ordered",
    [
        ("d1", "d2", "d10"),
        ("a100x1", "a100x2", "a100x16", "h100x1"),
        ("chat", "chat-2", "chat-10", "chat.1"),
        ("1", "2", "10", "a"),
        ("x9y1", "x9y12", "x10y1"),
        ("d", "d1", "d1a"),
    ],
)
def test_names_are_sorted_as_people_count(ordered: tuple[str, ...]) -> None:
    for mixed in itertools.permutations(ordered):
        assert tuple(sorted(mixed, key=natural)) == ordered


@given(st.lists(st.text(alphabet="a0123.-²٣", max_size=6), unique=True))
def test_any_names_have_one_order(names: list[str]) -> None:
    assert sorted(names, key=natural) == sorted(set(names), key=natural)


def test_many_names_are_counted() -> None:
    names = [f"d{number}" for number in range(1, 21)]
    assert counted(names) == "d1, d2, d3 and 17 more"
    assert counted(names[:4]) == "d1, d2, d3, d4"
    assert counted(names[:1]) == "d1"
    assert counted([]) == ""
