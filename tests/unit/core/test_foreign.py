"""Text of others: what a terminal or a CI system would obey is gone, and everything else is as it was."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nemodeploy.core import foreign
from nemodeploy.core.foreign import Pieces, disarm, mend, mend_json, wash, wash_json, wash_line
from nemodeploy.core.observation import RunDirectory, parse_list
from nemodeploy.values import Token

BIDI = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
MARKS = "\u200e\u200f\u061c"
# More often than by chance: what begins, ends and carries sequences, and what a CI system reads.
TEXT = st.one_of(
    st.text(st.characters()),
    st.text(st.sampled_from([*"\x1b\x9b\x9d\x90\x9c\x07\\[]0;31mPX^_ a\r\n\t:#\xad\u200b\u00a0\u202e\u2066vso"])),
)
ANY = st.one_of(TEXT, st.lists(st.integers(0, 0x10FFFF).map(chr)).map("".join))  # lone surrogates, too


def is_forbidden(sign: str) -> bool:
    """By Unicode's own tables instead of our list."""
    kind = unicodedata.category(sign)
    return (kind in ("Cc", "Cs") and sign not in "\n\t") or unicodedata.bidirectional(sign) in BIDI or sign in MARKS


def obeyed(line: str) -> bool:
    """Whether a CI system takes a line for a command, read as .NET compares: signs without a width do not count."""
    seen = "".join(
        sign for sign in line if unicodedata.category(sign) not in ("Cf", "Mn") and sign not in "\u115f\u1160"
    )
    return seen.lstrip().startswith("::") or "##[" in seen or "##vso[" in seen or "##teamcity[" in seen


@given(ANY)
@example("\x1b\x1b[31m[32m\x9b")
@example("\ud83d\ude00\ud83d")
def test_what_is_washed_holds_nothing_that_a_terminal_obeys_and_is_washed_once(text: str) -> None:
    washed = wash(text)
    assert not any(map(is_forbidden, washed))
    assert wash(washed) == washed
    washed.encode()
    line = wash_line(text)
    assert not any(sign in "\n\t\u2028\u2029" or is_forbidden(sign) for sign in line)
    assert wash_line(line) == line


@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Cf"), include_characters="\n\t\u200d\ufe0f")))
@example("Zażółć 漢字かな 👩‍👩‍👧 🇩🇪 – “x” עברית العربية\n\tend")
def test_what_people_write_is_unchanged(text: str) -> None:
    assert wash(text) == text


@pytest.mark.parametrize(
    ("text", "washed"),
    [
        ("a\x1b[1;31mred\x1b[0m\x1b[?25lb", "aredb"),
        ("a\x9b1;31mb", "ab"),
        ("a\x1b]0;a title\x07b\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\c", "ablinkc"),
        ("a\x9d0;a title\x9cb", "ab"),
        ("a\x1bPq#0\x1b\\b\x1bXsos\x1b\\c\x1b^pm\x1b\\d\x1b_apc\x1b\\e", "abcde"),
        ("a\x1bcb\x1b(Bc\x1b7d", "abcd"),
        ("a\x1b]0;no end\nb", "a0;no end\nb"),
        ("a\x1b[12", "a12"),
        ("a\x1b", "a"),
        ("10%\r20%\r\nb\x00\x08\x7f\x85", "10%20%\nb"),
        ("a\u202eb\u2066c\u2069\u200e\u200f\u061c", "abc"),
        ("a\ud800b\udfffc \ud83d\ude00", "a\ufffdb\ufffdc 😀"),
    ],
)
def test_sequences_go_whole(text: str, washed: str) -> None:
    assert wash(text) == washed


def test_a_line_stays_one() -> None:
    assert wash_line("  a\n::b\tc\u2028d \n") == "a ::b c d"


def test_long_hostile_text_is_washed_in_one_go() -> None:
    for sign in ("\x90", "\x1b]", "\x1b[", "\x9b0", "\x1b ", "::", "##", " :", "\xad"):
        disarm(wash(sign * 200_000))


def test_json_is_washed_in_keys_and_depth_and_mended_without_a_loss() -> None:
    value = {"a\x1b[0m": ["\x07b", {"c": "\ud800\x11"}], "n": [1, None, True, 1.5]}
    assert wash_json(value) == {"a": ["b", {"c": "\ufffd"}], "n": [1, None, True, 1.5]}
    assert mend_json(value) == {"a\x1b[0m": ["\x07b", {"c": "\ufffd\x11"}], "n": [1, None, True, 1.5]}
    assert mend("\x11\r") == "\x11\r"


def test_what_of_a_manifest_is_used_stays_byte_for_byte() -> None:
    prompting = {"template": "\x00System\r\n\x11User\n{prompt}", "stop": ["\x11", "\x1b["], "system": "\ud800"}
    token = Token.make("demo", milliseconds=1, entropy=2)
    manifest = {"owner": "me\x1b[0m", "plan": {"model": "m", "layout": {"gpus": 1}, "prompting": prompting}}
    text = f"/r\n{token}\n\n==> /r/demo/{token}/manifest.json <==\n{json.dumps(manifest)}"
    (found,) = parse_list(text)
    assert isinstance(found, RunDirectory)
    assert found.plan["prompting"] == {**prompting, "system": "\ufffd"}
    assert found.manifest["owner"] == "me\x1b[0m", "another owner than me"


@given(ANY)
@example("\u00a0\xad:\u200b:error::x")
@example("#\u200b#\xad[command]")
def test_no_line_is_a_command_once_it_is_disarmed(text: str) -> None:
    safe = disarm(wash(text))
    assert not any(obeyed(line) for line in safe.split("\n"))
    assert disarm(safe) == safe
    assert safe.replace(" ", "") == wash(text).replace(" ", ""), "nothing but blanks is added"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("::error::x\n  ::set-output name=a::b", ": :error::x\n  : :set-output name=a::b"),
        ("a ##[command]rm ##vso[task.x]y ##teamcity[z]", "a # #[command]rm # #vso[task.x]y # #teamcity[z]"),
        ("std::vector a::b # ## Heading [x]", "std::vector a::b # ## Heading [x]"),
    ],
)
def test_a_disarmed_line_can_still_be_read(text: str, safe: str) -> None:
    assert disarm(text) == safe


@given(st.lists(ANY))
@example(["\x1b", "[3", "1mred", "\x1b]0;ti", "tle\x07", "\ud83d", "\ude00"])
def test_pieces_are_washed_like_the_whole(pieces: list[str]) -> None:
    washer = Pieces()
    shown = "".join([*map(washer.wash, pieces), washer.rest()])
    assert not any(map(is_forbidden, shown))
    if sum(map(len, pieces)) < foreign._LONGEST_BEGUN:
        assert shown == wash("".join(pieces))
