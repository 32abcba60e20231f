from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemodeploy.core import rendering

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80)


@given(st.lists(TEXT, min_size=1, max_size=30))
def test_any_value_survives_the_shell_byte_for_byte(values: list[str]) -> None:
    script = "printf '%s\\0' " + " ".join(map(rendering.quote_for_shell, values))
    done = subprocess.run(["sh", "-s"], input=script.encode(), capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == values


@given(TEXT)
def test_a_comment_stays_on_its_line(text: str) -> None:
    assert len(rendering.comment(text).splitlines()) <= 1


@pytest.mark.parametrize("value", ["8", 8.0, True, None])
def test_integer_takes_nothing_but_integers(value: object) -> None:
    with pytest.raises(ValueError, match="not a whole number"):
        rendering.integer(value)


@pytest.mark.parametrize(("seconds", "text"), [(14400, "04:00:00"), (90061, "1-01:01:01"), (60, "00:01:00")])
def test_durations_are_slurms(seconds: int, text: str) -> None:
    assert rendering.duration(seconds) == text


def test_identifier_refuses_what_a_shell_would_read() -> None:
    with pytest.raises(ValueError, match="not a plain name"):
        rendering.identifier("a;b")


def test_an_undefined_value_is_an_error_not_an_empty_word() -> None:
    with pytest.raises(Exception, match="undefined"):
        rendering.render({"t": "{{ nothing | sh }}"}, "t")


def test_bash_lengths_are_no_comments() -> None:
    assert rendering.render({"t": "echo ${#a[@]}\n"}, "t") == "echo ${#a[@]}\n"
