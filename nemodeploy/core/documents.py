"""A YAML document as plain values that remember where each of them was written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from: a file with line and column (from 1), or a word such as a flag."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source

    @property
    def exact(self) -> str:
        """With the column, as error messages show it."""
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Document:
    """Plain values (mappings, lists, text, numbers, booleans, None) and an origin for every path in them."""

    data: Mapping[str, Any]
    origins: Mapping[Path, Origin] = field(default_factory=dict)
    source: str = ""

    def origin(self, path: Path) -> Origin:
        """The origin of the nearest thing that was written at or above the path."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return Origin(self.source)

    def without(self, *keys: str) -> Document:
        """The same document less some of its top-level keys."""
        return Document(
            {key: value for key, value in self.data.items() if key not in keys},
            {path: origin for path, origin in self.origins.items() if path[0] not in keys},
            self.source,
        )

    def pruned(self, paths: Collection[Path]) -> Document:
        """The same document less whatever stands at some paths."""
        origins = {path: origin for path, origin in self.origins.items() if not _below(path, paths)}
        return Document(_pruned(self.data, (), paths), origins, self.source)

    def renamed(self, names: Mapping[str, str]) -> Document:
        """The same document with some top-level keys under other names, unless those are taken."""
        new = {old: name for old, name in names.items() if name not in self.data}
        return Document(
            {new.get(key, key): value for key, value in self.data.items()},
            {(new.get(path[0], path[0]), *path[1:]): origin for path, origin in self.origins.items()},
            self.source,
        )

    def with_value(self, key: str, value: Any) -> Document:
        """The same document with another value for one top-level key, written where the old one was."""
        return Document({**self.data, key: value}, self.origins, self.source)

    def section(self, key: str) -> Document:
        """The mapping below a top-level key as a document of its own; empty when it is not there."""
        data = self.data.get(key)
        return Document(
            data if isinstance(data, Mapping) else {},
            {path[1:]: origin for path, origin in self.origins.items() if path[0] == key and len(path) > 1},
            self.source,
        )


def _below(path: Path, paths: Collection[Path]) -> bool:
    return any(path[:end] in paths for end in range(1, len(path) + 1))


def _pruned(value: Any, here: Path, paths: Collection[Path]) -> Any:
    if isinstance(value, Mapping):
        return {key: _pruned(item, (*here, key), paths) for key, item in value.items() if (*here, key) not in paths}
    if isinstance(value, list):
        return [item for index, item in enumerate(value) if (*here, str(index)) not in paths]
    return value
