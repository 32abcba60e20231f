"""What is typed in a talk: lines, and several of them as one question."""

from __future__ import annotations

import io

import pytest

from nemodeploy.cli.chat import _lines
from nemodeploy.errors import BadInput


@pytest.mark.parametrize(
    ("typed", "questions"),
    [
        ("a\n\nb\n", ["a", "b"]),
        ("a \\\nb\\\nc\n", ["a \nb\nc"]),
        ('"""\na\n\nb\n""" \nc\n', ["a\n\nb", "c"]),
        ('"""\na\\\n"""\nc\n', ["a\\", "c"]),
        ('"""\na\nb', ["a\nb"]),
        ("a\\\n", ["a"]),
    ],
)
def test_lines_are_questions(monkeypatch: pytest.MonkeyPatch, typed: str, questions: list[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert list(_lines()) == questions


def test_what_is_no_text_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    with pytest.raises(BadInput, match="no UTF-8 text"):
        list(_lines())
