from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemodeploy.adapters.yaml_files import load, parse, parse_scalar
from nemodeploy.errors import BadInput


def test_scalars_are_what_everyone_means() -> None:
    text = "a: x y\nd: 12\ne: 1.5\nf: true\ng: null\nh: '12'\ni: 1e3\nj: 'no'\nk: \"0x10\"\nl: 1.2.3\n"
    assert parse(text, "f").data == {
        "a": "x y",
        "d": 12,
        "e": 1.5,
        "f": True,
        "g": None,
        "h": "12",
        "i": 1000.0,
        "j": "no",
        "k": "0x10",
        "l": "1.2.3",
    }


@pytest.mark.parametrize(
    "word", ["4:00:00", "on", "No", "0123", "0o17", "0x10", "1_000", "2026-01-01", ".inf", "12:30", "123456_7"]
)
def test_a_word_that_other_readers_take_for_something_else_wants_quotes(word: str) -> None:
    with pytest.raises(BadInput, match="to other YAML readers; quote it") as caught:
        parse(f"a:\n  b: {word}\n", "f.yaml")
    assert "f.yaml:2:6  a.b:" in str(caught.value)
    assert parse(f"a: '{word}'", "f").data == {"a": word}


def test_everything_wrong_in_a_file_is_told_at_once() -> None:
    with pytest.raises(BadInput, match="has 3 problems") as caught:
        parse("a: on\na: 1\nb: !x 2\n", "f.yaml")
    assert [line.split()[0] for line in caught.value.detail] == ["f.yaml:1:4", "f.yaml:2:1", "f.yaml:3:4"]


@pytest.mark.parametrize("secret", ["hf_" + "aB3" * 8, "nvapi-" + "x" * 20, "-----BEGIN OPENSSH PRIVATE KEY-----"])
def test_a_literal_secret_is_refused_and_never_repeated(secret: str) -> None:
    for read in (lambda: parse(f"env:\n  X: '{secret}'\n", "f.yaml"), lambda: parse_scalar(secret)):
        with pytest.raises(BadInput, match="looks like a secret") as caught:
            read()
        assert secret not in repr((caught.value.message, caught.value.detail, caught.value.hint))


@pytest.mark.parametrize("path", ["/shared/hf_checkpoints/x", "sk-learn", "nvapi", "HF_TOKEN"])
def test_what_only_begins_like_a_secret_is_taken(path: str) -> None:
    assert parse(f"a: {path}", "f").data == {"a": path}


def test_templates_are_not_data() -> None:
    with pytest.raises(BadInput, match="not templates"):
        parse("a: '{{ x }}'", "f.yaml")


def test_an_empty_file_is_no_mapping(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("# nothing\n")
    with pytest.raises(BadInput, match="is empty"):
        load(tmp_path / "f.yaml")


def test_every_value_knows_its_line_and_column() -> None:
    document = parse("a: 1\nb:\n  c: 2\n", "f.yaml")
    assert document.origin(("b", "c")).exact == "f.yaml:3:3"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: 1\na: 2\n", "duplicate key, also on line 1"),
        ("a: &x 1\nb: *x\n", "anchors"),
        ("a: !!python/object:os.system x\n", "tags"),
        ("a: !x 1\n", "tags"),
        ("a: &x !!str 1\n", "anchors"),
        ("- a\n", "keys and values"),
        ("a: [1\n", "not YAML"),
        ("a:\n\t- b\n", "not YAML"),
        ("? [a]\n: b\n", "plain word"),
        ("a: " + "[" * 40 + "]" * 40, "nested deeper"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_place(text: str, word: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text, "f.yaml")
    assert "f.yaml" in str(caught.value)
    assert word in "\n".join((caught.value.message, *caught.value.detail))


# Every way in which PyYAML refuses a text: its place, and a part of what we say and advise.
NOT_YAML = [
    ("a:\n\tb: 1\n", "2:1", "a tab indents this line", "spaces instead"),
    ("a:\n  \tb: 1\n", "2:3", "a tab indents this line", "spaces instead"),
    ("a: 1\n\tb: 2\n", "2:1", "a tab indents this line", "spaces instead"),
    ("a:\n\t- b\n", "2:1", "a tab indents this line", "spaces instead"),
    ("a:\r\n\tb: 1\r\n", "2:1", "a tab indents this line", "spaces instead"),
    ("a: @x\n", "1:4", "cannot begin with @", "quote"),
    ("a: `x`\n", "1:4", "cannot begin with `", "quote"),
    ("a: %x\n", "1:4", "cannot begin with %", "quote"),
    ("a: \tb: 1\n", "1:4", "a tab stands before", "a space instead"),
    ("a: b: c\n", "1:5", "a colon where no key can be", "quote"),
    ("a: - b\n", "1:4", "a list item where none", "below its key"),
    ("a: ? b\n", "1:4", "a key where none", "of its own"),
    ("a: 1\nbc\nd: 2\n", "2:1", "a key without a colon", "KEY: VALUE"),
    ("a: 1\nb: [1, 2\nc: 3\n", "2:4", "[ is not closed", "[ITEM"),
    ("a: {b: 1\n", "1:4", "{ is not closed", "{KEY"),
    ("a: 1\n  b: 2\n", "2:4", "a colon where no key", "one key a line"),
    ("a:\n    b: 1\n  c: 2\n", "3:3", "indented unlike", "same number of spaces"),
    ("a:\n- 1\n  - 2\n- 3\nb\n", "5:1", "a key without a colon", "KEY: VALUE"),
    ("a: 'x' y\n", "1:8", "more text after the value", "quote the whole value"),
    ("a: [1]]\n", "1:7", "more text after the value", "quote the whole value"),
    ("a: 'x\nb: 1\n", "1:4", "quote that begins here is not closed", "close it"),
    ('a: "x\n---\n', "1:4", "quote that begins here is not closed", "close it"),
    ('a: "C:\\dir"\n', "1:8", "\\d means nothing in double quotes", "single quotes"),
    ('a: "\\xZZ"\n', "1:7", "wants 2 hexadecimal digits", "single quotes"),
    ("a: *\n", "1:5", "* and & begin aliases", "quote"),
    ("a: *.nemo\n", "1:5", "* and & begin aliases", "quote"),
    ("a: *x\n", "1:4", "* and & begin aliases", "quote"),
    ("a: & b\n", "1:5", "* and & begin aliases", "quote"),
    ("a: |0\n x\n", "1:5", "behind | or >", "next line"),
    ("a: >text\n", "1:5", "behind | or >", "next line"),
    ("a: ,\n", "1:4", ", where a value must be", "a value"),
    ("a: 1\n---\nb: 2\n", "2:1", "a second document", "one document a file"),
    ("a: 1\n...\nb: 2\n", "3:1", "a second document", "one document a file"),
    ("a: !<x y\n", "1:7", "tags (words that begin with !)", "quote"),
    ("a: !no!x y\n", "1:4", "tags (words that begin with !)", "quote"),
    ("%YAML x\n---\na: 1\n", "1:7", "a line cannot begin with %", "quote"),
    ("a: 1\nb: \x07\n", "2:4", "U+0007", "without it"),
]


@pytest.mark.parametrize(("text", "place", "what", "instead"), NOT_YAML)
def test_what_is_no_yaml_is_told_in_our_words(text: str, place: str, what: str, instead: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text, "f.yaml")
    assert caught.value.message.startswith(f"f.yaml:{place}: not YAML: ")
    assert what in caught.value.message
    assert instead in caught.value.hint
    theirs = "token|node|scalar|block|simple key|sequence|stream|expected|found"
    assert not re.search(theirs, caught.value.message + caught.value.hint)


@pytest.mark.parametrize(
    "text", ['a: "\\UFFFFFFFF"', 'a: "\\U00110000"', f"%YAML 1.{'9' * 5000}\n---\na: 1", "a: " + "[" * 500]
)
def test_numbers_and_depths_that_python_cannot_hold_are_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match="not YAML: "):
        parse(text, "f.yaml")
    assert isinstance(parse_scalar(text), str)


@settings(max_examples=60)
@given(st.text(alphabet="ab:-?[]{},&*!|>'\"%@` \t\n#0\\\x85\x07", max_size=30))
def test_no_text_is_answered_in_the_words_of_the_reader(text: str) -> None:
    said = ""
    try:
        parse(text, "f.yaml")
    except BadInput as error:
        said = error.message
    assert not re.search("while |expected|cannot be read", said)


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    assert load(tmp_path / "f.yaml").data == {"a": 1, "b": "x"}


def test_binary_and_absent_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(BadInput, match=r"f.yaml:1:4: not UTF-8"):
        load(tmp_path / "f.yaml")
    with pytest.raises(BadInput, match="cannot read"):
        load(tmp_path / "g.yaml")


@pytest.mark.parametrize(
    ("text", "value"), [("4", 4), ("fp8", "fp8"), ("01:00:00", "01:00:00"), ("[a, b]", ["a", "b"]), ("", "")]
)
def test_values_of_set_are_scalars_or_flow(text: str, value: object) -> None:
    assert parse_scalar(text) == value


@settings(max_examples=60)
@given(st.text(max_size=60))
def test_no_text_makes_the_loader_raise_anything_else(text: str) -> None:
    try:
        parse(text, "f")
    except BadInput:
        return
