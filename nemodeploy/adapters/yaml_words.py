"""What is wrong where a text is no YAML, in our words: PyYAML's own speak of tokens, nodes and simple keys."""

from __future__ import annotations

import re

from nemodeploy.errors import BadInput

# PyYAML's problem, at the start of which a pattern stands; what that means; what to write. `{}`: what it found there.
_MEANINGS = (
    (r"found character '([%@`])' that cannot start", "a value cannot begin with {}", "quote the value"),
    (r"found character '\\t'", "a tab stands before the value", "a space instead of the tab"),
    (r"found character", "a value cannot begin with this character", "quote the value"),
    (r"mapping values are not allowed", "a colon where no key can be", "quote a value that holds ': '; one key a line"),
    (r"mapping keys are not allowed", "a key where none can be", "KEY: VALUE on a line of its own"),
    (r"sequence entries are not allowed", "a list item where none can be", "each '- ITEM' on a line below its key"),
    (r"could not find expected ':'", "a key without a colon", "KEY: VALUE; the lines of a longer text are indented"),
    (r"expected ',' or '\]'", "the list that begins here with [ is not closed", "[ITEM, ITEM]"),
    (r"expected ',' or '\}'", "the mapping that begins here with { is not closed", "{KEY: VALUE, KEY: VALUE}"),
    (
        r"expected <block end>, but found '(?:<scalar>|\W)'",
        "more text after the value is over",
        "quote the whole value; indent the keys of one level alike",
    ),
    (
        r"expected <block end>|.*invalid indentation",
        "this line is indented unlike those that it belongs to",
        "the same number of spaces for all keys of one level",
    ),
    (
        r"found unexpected (?:end of stream|document separator)|found unknown escape character '.x00'",
        "the quote that begins here is not closed",
        "close it",
    ),
    (
        r"found unknown escape character ['\"](.+)['\"]",
        "\\{} means nothing in double quotes",
        "single quotes, or two backslashes",
    ),
    (r"expected escape sequence of (\d+)", "this escape wants {} hexadecimal digits", "single quotes keep a backslash"),
    (
        r"expected alphabetic or numeric character|found (?:undefined alias|duplicate anchor)",
        "* and & begin aliases and anchors, which are not supported",
        "quote a value that begins with one",
    ),
    (
        r"expected (?:chomping|indentation indicator|a comment or a line break)",
        "text stands behind | or >",
        "begin the text on the next line, or quote a value that begins with | or >",
    ),
    (r"found undefined tag handle", "tags (words that begin with !) are not allowed", "quote the value"),
    (r"expected the node content, but found '(.+)'", "{} where a value must be", "a value, or quotes around it"),
    (
        r"but found another document|expected '<document start>'",
        "a second document begins here",
        "one document a file, without --- or ...",
    ),
)
_BY_CONTEXT = (
    (r"while (?:scanning|parsing) a tag", "tags (words that begin with !) are not allowed", "quote the value"),
    (r"while scanning a directive", "a line cannot begin with %", "quote the value"),
)
_OTHER = ("this cannot be read", "KEY: VALUE; quote a value that has punctuation")
# Where the beginning says more than the place at which the reader gave up.
_BEGINS = r"expected ',' or|found un(?:expected (?:end|document)|known escape character '.x00')|could not find expected"


def not_yaml(error: Exception, text: str, name: str) -> BadInput:
    """The error for what PyYAML raised: file, line and column, what is wrong there, and what to write instead."""
    line, column = _place(error, text)
    what, instead = _meaning(error, _line(text, line)[:column])
    where = f"{name}:{line + 1}:{column + 1}" if line >= 0 else name
    return BadInput(f"{where}: not YAML: {what}", hint=f"write {instead}" if instead else "")


def _place(error: Exception, text: str) -> tuple[int, int]:
    """Line and column, from 0; a line of -1: nothing tells."""
    position = getattr(error, "position", None)
    if isinstance(position, int):  # of a character that no file may hold
        before = text[:position]
        return before.count("\n"), position - (before.rfind("\n") + 1)
    problem, context = getattr(error, "problem", None) or "", getattr(error, "context_mark", None)
    mark = context if context and re.match(_BEGINS, problem) else getattr(error, "problem_mark", None)
    if mark is None:
        return -1, 0
    tab = _line(text, mark.line).find("\t")
    indents = tab >= 0 and not _line(text, mark.line)[:tab].strip()
    return mark.line, tab if indents else mark.column


def _meaning(error: Exception, before: str) -> tuple[str, str]:
    if isinstance(error, RecursionError):
        return "it is nested too deeply", "at most 20 levels"
    if isinstance(error, ValueError | OverflowError):
        return "an escape or a version has a number that is too large", "single quotes, which keep a backslash"
    character = getattr(error, "character", None)
    if isinstance(character, int):
        return f"the invisible character U+{character:04X} is not allowed", "the file without it"
    problem, context = str(getattr(error, "problem", "")), str(getattr(error, "context", ""))
    if not before.strip() and ("'\\t'" in problem or "\t" in before):
        return "a tab indents this line", "spaces instead of the tab"
    for pattern, what, instead in _BY_CONTEXT:
        if re.match(pattern, context):
            return what, instead
    for pattern, what, instead in _MEANINGS:
        if found := re.match(pattern, problem):
            return (what.replace("{}", found[1]) if found.groups() else what), instead
    return _OTHER


def _line(text: str, number: int) -> str:
    lines = re.split(r"\r\n|[\r\n\x85\u2028\u2029]", text)
    return lines[number] if 0 <= number < len(lines) else ""
