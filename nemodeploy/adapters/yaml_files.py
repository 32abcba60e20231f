"""Reading YAML as data: the few scalars everyone means, every value with its line and column, nothing clever.

PyYAML's YAML 1.1 reads `4:00:00` as 14400, `on` as true, `0123` as 83 and `1_000` as 1000; YAML 1.2 reads them as
text. Whoever writes such a word without quotes is asked which one is meant. Tags, anchors, duplicate keys, templates
and literal secrets are refused. Everything wrong in a file is told at once.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any

import yaml

from nemodeploy.adapters.yaml_words import not_yaml
from nemodeploy.core.documents import Document, Origin, Path
from nemodeploy.errors import BadInput

LARGEST_BYTES = 1_000_000
DEEPEST = 20
MOST_PROBLEMS = 30
# The last two: escapes and versions with numbers that Python cannot hold.
_UNREADABLE = (yaml.YAMLError, RecursionError, ValueError, OverflowError)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)?\.[0-9]+([eE][-+]?[0-9]+)?|[-+]?(0|[1-9][0-9]*)(\.[0-9]*)?[eE][-+]?[0-9]+")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_AMBIGUOUS = (
    (re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?"), "a number in base 60"),
    (re.compile(r"[-+]?0[0-9_]+|[-+]?0o[0-7]+"), "an octal number"),
    (re.compile(r"[-+]?0[xb][0-9a-fA-F_]+"), "a hexadecimal or binary number"),
    (re.compile(r"[-+]?[0-9][0-9]*_[0-9_]*(\.[0-9_]*)?"), "a number with underscores"),
    (re.compile(r"(?i:on|off|yes|no)"), "a boolean"),
    (re.compile(r"[-+]?\.(?i:inf|nan)"), "an infinite number"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?"), "a date"),
)
_SECRET = re.compile(
    r"hf_[A-Za-z0-9]{20,}|hf_(?=[A-Za-z]*[0-9A-Z])[A-Za-z0-9]{8,}|nvapi-[A-Za-z0-9_-]{8,}|sk-[A-Za-z0-9_-]{20,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^/\s:@]+:[^/\s@]+@"
)
_TEMPLATE = re.compile(r"\{\{|\{%")


def load(path: FilePath, shown: str = "") -> Document:
    """One file. Raises BadInput with file, line and column."""
    name = shown or str(path)
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"{name} is not a file")
        with path.open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error
    if len(raw) > LARGEST_BYTES:
        raise BadInput(f"{name} is too large: more than {LARGEST_BYTES} bytes")
    try:
        document = parse(raw.decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise BadInput(f"{name}:{line}:{column}: not UTF-8 text (byte {raw[error.start]:#04x})") from error
    if not document.data:
        raise BadInput(f"{name} is empty: it must hold keys and values", hint=f"see docs/files.md, then fill {name}")
    return document


@lru_cache(maxsize=256)
def parse(text: str, name: str) -> Document:
    """A document from text; it must be a mapping at the top."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except _UNREADABLE as error:
        raise not_yaml(error, text, name) from error
    if node is None:
        return Document({}, {}, name)
    if not isinstance(node, yaml.MappingNode):
        raise BadInput(f"{name}: the file must hold keys and values (a mapping), not a list or a single value")
    builder = _Builder(name)
    data = builder.build(node, (), 0)
    if builder.problems:
        count = len(builder.problems)
        first = builder.problems[0] if count == 1 else f"{name} has {count} problems"
        raise BadInput(first, detail=tuple(builder.problems[:MOST_PROBLEMS]))
    return Document(data, builder.origins, name)


def parse_scalar(text: str, name: str = "--set") -> Any:
    """A value as written after `--set key=`: a scalar, or a list or mapping in flow style. Ambiguous words are text."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except _UNREADABLE:
        node = None
    builder = _Builder(name, typed=True)
    value = builder.build(node, (), 0) if node is not None else builder.checked(text, Origin(name), ())
    if builder.problems:
        raise BadInput(builder.problems[0])
    return value


class _Builder:
    """Values from YAML's nodes. `typed`: a person typed it into a shell, where quotes are hard to keep."""

    def __init__(self, name: str, *, typed: bool = False) -> None:
        self.name, self.typed = name, typed
        self.origins: dict[Path, Origin] = {}
        self.problems: list[str] = []
        self.seen: set[int] = set()

    def build(self, node: yaml.Node, path: Path, depth: int) -> Any:
        if path:
            self.origins[path] = self._origin(node)
        if depth > DEEPEST:
            return self._complain(node, path, f"nested deeper than {DEEPEST}", "")
        if id(node) in self.seen:
            return self._complain(node, path, "anchors and aliases are not supported", "write it out")
        self.seen.add(id(node))
        if _begins_with(node, "&"):
            return self._complain(node, path, "anchors and aliases are not supported", "write it out")
        if _begins_with(node, "!"):
            return self._complain(node, path, "tags (words that begin with !) are not allowed", "a plain value")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, str(index)), depth + 1) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._complain(key_node, path, "a key must be a plain word", "")
                continue
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in found:
                self._complain(key_node, (*path, key), f"duplicate key, also on line {lines[key]}", "keep one of them")
                continue
            lines[key] = line
            found[key] = self.build(value_node, (*path, key), depth + 1)
            self.origins[(*path, key)] = self._origin(key_node)
        return found

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        text = str(node.value)
        if getattr(node, "style", None):
            return self.checked(text, self._origin(node), path)
        if text.lower() in _WORDS and text in (text.lower(), text.capitalize(), text.upper()):
            return _WORDS[text.lower()]
        if _INTEGER.fullmatch(text):
            return int(text) if len(text) < 40 else text
        if _FLOAT.fullmatch(text):
            return float(text)
        meant = "" if self.typed else next((what for form, what in _AMBIGUOUS if form.fullmatch(text)), "")
        if meant:
            return self._complain(node, path, f"{text} would be {meant} to other YAML readers", f'quote it: "{text}"')
        return self.checked(text, self._origin(node), path)

    def checked(self, text: str, origin: Origin, path: Path) -> str:
        """The text, unless it is something that no file may hold. A secret is never repeated."""
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            self._note(origin, path, "is not UTF-8 text", "")
        if _SECRET.search(text):
            self._note(origin, path, "looks like a secret", "name its variable in secrets: and export it here")
        elif _TEMPLATE.search(text):
            self._note(origin, path, "{{ and {% mean nothing here: files are data, not templates", "the value itself")
        return text

    def _origin(self, node: yaml.Node) -> Origin:
        return Origin(self.name, node.start_mark.line + 1, node.start_mark.column + 1)

    def _complain(self, node: yaml.Node, path: Path, what: str, instead: str) -> None:
        self._note(self._origin(node), path, what, instead)

    def _note(self, origin: Origin, path: Path, what: str, instead: str) -> None:
        place = f"  {'.'.join(path)}" if path else ""
        self.problems.append(f"{origin.exact}{place}: {what}{'; ' if instead else ''}{instead}")


def _begins_with(node: yaml.Node, sign: str) -> bool:
    """Whether the text itself has a tag or an anchor there: `node.tag` holds what PyYAML guessed as well."""
    mark = node.start_mark
    return isinstance(mark.buffer, str) and mark.buffer[mark.pointer : mark.pointer + 1] == sign
