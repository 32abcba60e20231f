"""The output of `tail -v` over several files, taken apart."""

from __future__ import annotations

from collections.abc import Mapping


def tail_header(line: str) -> str:
    """The path in a heading of `tail -v`; empty for any other line."""
    return line[4:-4] if line.startswith("==> ") and line.endswith(" <==") else ""


def split_tails(text: str) -> Mapping[str, str]:
    """The output of `tail -v` over several files, by path."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines(keepends=True):
        header = tail_header(line.rstrip("\n"))
        if header:
            name = header
            found[name] = []
        elif name:
            found[name].append(line)
    return {path: "".join(lines) for path, lines in found.items()}
