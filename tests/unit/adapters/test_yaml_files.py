from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemodeploy.adapters.yaml_files import load, parse, parse_scalar
from nemodeploy.errors import BadInput


def test_scalars_are_what_everyone_means() -> None:
    text = (
        'a: 4:00:00\nb: on\nc: 0123\nd: 12\ne: 1.5\nf: true\ng: null\nh: "12"\ni: 1e3\nj: no\nk: 0x10\nl: 2026-01-01\n'
    )
    assert parse(text, "f").data == {
        "a": "4:00:00",
        "b": "on",
        "c": "0123",
        "d": 12,
        "e": 1.5,
        "f": True,
        "g": None,
        "h": "12",
        "i": 1000.0,
        "j": "no",
        "k": "0x10",
        "l": "2026-01-01",
    }


def test_every_value_knows_its_line_and_column() -> None:
    document = parse("a: 1\nb:\n  c: 2\n", "f.yaml")
    assert document.origin(("b", "c")).exact == "f.yaml:3:3"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: 1\na: 2\n", "duplicate key 'a'"),
        ("a: &x 1\nb: *x\n", "anchors"),
        ("a: !!python/object:os.system x\n", "tags"),
        ("a: !x 1\n", "tags"),
        ("- a\n", "keys and values"),
        ("a: [1\n", "not YAML"),
        ("a:\n\t- b\n", "not YAML"),
        ("? [a]\n: b\n", "plain word"),
        ("a: " + "[" * 40 + "]" * 40, "nested deeper"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_place(text: str, word: str) -> None:
    with pytest.raises(BadInput, match=word) as caught:
        parse(text, "f.yaml")
    assert "f.yaml" in str(caught.value)


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    assert load(tmp_path / "f.yaml").data == {"a": 1, "b": "x"}


def test_binary_and_absent_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(BadInput, match="not UTF-8"):
        load(tmp_path / "f.yaml")
    with pytest.raises(BadInput, match="cannot read"):
        load(tmp_path / "g.yaml")


@pytest.mark.parametrize(
    ("text", "value"), [("4", 4), ("fp8", "fp8"), ("01:00:00", "01:00:00"), ("[a, b]", ["a", "b"]), ("", "")]
)
def test_values_of_set_are_scalars_or_flow(text: str, value: object) -> None:
    assert parse_scalar(text) == value


@settings(max_examples=300)
@given(st.text(max_size=60))
def test_no_text_makes_the_loader_raise_anything_else(text: str) -> None:
    try:
        parse(text, "f")
    except BadInput:
        return
