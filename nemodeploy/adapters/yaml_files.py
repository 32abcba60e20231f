"""Reading YAML as data: the few scalars everyone means, every value with its line and column, nothing clever.

PyYAML's YAML 1.1 reads `4:00:00` as 14400, `on` as true and `0123` as 83; here they are text. Tags, anchors and
duplicate keys are refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any

import yaml

from nemodeploy.core.documents import Document, Origin, Path
from nemodeploy.errors import BadInput

LARGEST_BYTES = 1_000_000
DEEPEST = 32
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)?\.[0-9]+([eE][-+]?[0-9]+)?|[-+]?(0|[1-9][0-9]*)(\.[0-9]*)?[eE][-+]?[0-9]+")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


def load(path: FilePath, shown: str = "") -> Document:
    """One file. Raises BadInput with file, line and column."""
    name = shown or str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {name}: {error.strerror}") from error
    if len(raw) > LARGEST_BYTES:
        raise BadInput(f"{name} is larger than {LARGEST_BYTES} bytes")
    try:
        return parse(raw.decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} is not UTF-8 text (byte {error.start})") from error


@lru_cache(maxsize=256)
def parse(text: str, name: str) -> Document:
    """A document from text; it must be a mapping at the top."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadInput(f"{name} is not YAML: {_where(error, name)}") from error
    if node is None:
        return Document({}, {}, name)
    origins: dict[Path, Origin] = {}
    data = _Builder(name, origins).build(node, (), 0)
    if not isinstance(data, dict):
        raise BadInput(f"{name}: the file must hold keys and values")
    return Document(data, origins, name)


def parse_scalar(text: str) -> Any:
    """A value as written after `--set key=`: a scalar, or a list or mapping in flow style."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return text
    return _Builder("--set", {}).build(node, (), 0) if node is not None else text


class _Builder:
    def __init__(self, name: str, origins: dict[Path, Origin]) -> None:
        self.name, self.origins = name, origins
        self.seen: set[int] = set()

    def build(self, node: yaml.Node, path: Path, depth: int) -> Any:
        if depth > DEEPEST:
            raise self._error(node, f"nested deeper than {DEEPEST}")
        if id(node) in self.seen:
            raise self._error(node, "anchors and aliases are not supported")
        self.seen.add(id(node))
        if _has_tag(node):
            raise self._error(node, "tags (words that begin with !) are not supported")
        if path:
            self.origins[path] = self._origin(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (), depth + 1) for item in node.value]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a key must be a plain word")
            key = str(key_node.value)
            if key in found:
                raise self._error(key_node, f"duplicate key {key!r}")
            found[key] = self.build(value_node, (*path, key), depth + 1)
            self.origins[(*path, key)] = self._origin(key_node)
        return found

    def _scalar(self, node: yaml.Node) -> Any:
        text = str(node.value)
        if getattr(node, "style", None):
            return text
        if text.lower() in _WORDS and text in (text.lower(), text.capitalize(), text.upper()):
            return _WORDS[text.lower()]
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text

    def _origin(self, node: yaml.Node) -> Origin:
        return Origin(self.name, node.start_mark.line + 1, node.start_mark.column + 1)

    def _error(self, node: yaml.Node, what: str) -> BadInput:
        return BadInput(f"{self._origin(node).exact}: {what}")


def _has_tag(node: yaml.Node) -> bool:
    """Whether the text says so itself: `node.tag` holds what PyYAML guessed as well."""
    mark = node.start_mark
    return isinstance(mark.buffer, str) and mark.buffer[mark.pointer] == "!"


def _where(error: Exception, name: str) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{name}:{mark.line + 1}:{mark.column + 1}: {problem}" if mark else problem
