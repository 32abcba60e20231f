"""Text that others wrote (logs, answers, manifests, Slurm's words, names of files), made safe to be shown.

A terminal obeys what it is shown, and so does a CI system that reads a log. `wash` is for both; `disarm` comes on top
where a CI system reads. Neither is for text that is used: a template or a stop string may hold any character.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Whole sequences of ECMA-48, with ESC or with their 8-bit forms: CSI; the strings DCS, SOS, OSC, PM and APC up to their
# end, on one line; any other ESC with what belongs to it. Source: ECMA-48 5.4 and 5.6; xterm ends an OSC by BEL, too.
_CSI = r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
_STRING = r"(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\n\x80-\x9f]*(?:\x07|\x1b\\|\x9c)"
_ESCAPE = r"\x1b[ -/]*[0-~]"
# C0 but newline and tab, DEL, C1, and what turns the direction of writing, so that a text is not what it looks like.
_SIGNS = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
_FORBIDDEN = re.compile(f"{_CSI}|{_STRING}|{_ESCAPE}|{_SIGNS}")
_BREAKS = re.compile("[\n\t\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")
# A sequence, or a pair of surrogates, of which the rest may follow in the next piece.
_BEGUN = re.compile(
    r"(?:\x1b[ -/]*|(?:\x1b\[|\x9b)[0-?]*[ -/]*|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\n\x80-\x9f]*\x1b?"
    "|[\ud800-\udbff])\\Z"
)
_LONGEST_BEGUN = 200

# GitHub's runner takes `::` at the beginning of a line, behind any blanks, and `##[` anywhere in it; Azure's takes
# `##vso[`, TeamCity's `##teamcity[`. It compares as .NET does by default, which passes over signs without a width.
# Source: actions/runner, src/Runner.Common/ActionCommand.cs at 079cdb1; GitLab's sections need ESC, which is gone.
_NO_WIDTH = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2065\u206a-\u206f\ufe00-\ufe0f\ufeff"
)
_LEADING = re.compile(rf"^((?:[^\S\n]|[{_NO_WIDTH}])*:[{_NO_WIDTH}]*)(?=:)", re.MULTILINE)
_HASHES = re.compile(rf"(#[{_NO_WIDTH}]*)(?=#[\w{_NO_WIDTH}]*\[)")


def wash(text: str) -> str:
    """A text without anything that a terminal obeys, but for newline and tab.

    Lone surrogates, which no encoding can say, become U+FFFD. Twice washed is once washed.
    """
    return mend(_FORBIDDEN.sub("", text))


def wash_line(text: str) -> str:
    """The same as one line: newline and tab become a blank, and none is left around it."""
    return _BREAKS.sub(" ", wash(text)).strip()


def wash_json(value: Any) -> Any:
    """Parsed JSON with every string washed, those that are keys included."""
    return _each(value, wash)


def mend(text: str) -> str:
    """A text that can be encoded: lone surrogates become U+FFFD, and two that are a pair the character they mean."""
    if not _SURROGATES.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mend_json(value: Any) -> Any:
    """Parsed JSON with every string mended, and nothing else changed: for what is used as it is."""
    return _each(value, mend)


def disarm(text: str) -> str:
    """A washed text in which no CI system sees a command of its own: `: :`, `# #[`. Twice disarmed is once disarmed."""
    return _HASHES.sub(r"\1 ", _LEADING.sub(r"\1 ", text))


class Pieces:
    """Washes a text that comes in pieces: a sequence that two pieces share is dropped whole."""

    def __init__(self) -> None:
        """Nothing is held back yet."""
        self._held = ""

    def wash(self, piece: str) -> str:
        """What can be shown by now."""
        text = self._held + piece
        begun = _BEGUN.search(text)
        end = begun.start() if begun and len(text) - begun.start() <= _LONGEST_BEGUN else len(text)
        self._held = text[end:]
        return wash(text[:end])

    def rest(self) -> str:
        """What was held back and has no end, as the last piece."""
        text, self._held = self._held, ""
        return wash(text)


def _each(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_each(key, change): _each(one, change) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_each(one, change) for one in value]
    return value
