"""Remote answers between markers: what a login shell prints around them is noise and is passed over."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """What one part of a script printed, and the status it ended with."""

    status: int
    text: str


def script(nonce: str, parts: Mapping[str, str]) -> str:
    """A POSIX shell text that runs every part in a subshell of its own and marks its output."""
    lines = []
    for name, body in parts.items():
        lines.append(f"printf '\\n%s BEGIN %s\\n' {shlex.quote(nonce)} {shlex.quote(name)}")
        lines.append(f"(\n{body}\n)")
        lines.append(f"printf '\\n%s END %s %d\\n' {shlex.quote(nonce)} {shlex.quote(name)} $?")
    return "\n".join(lines) + "\n"


def parse(nonce: str, text: str) -> Mapping[str, Section]:
    """The parts that came back whole; one without its end marker is missing, as if it had not been asked."""
    mark = re.escape(nonce)
    found = re.finditer(rf"^{mark} BEGIN (\S+)\n(.*?)\n{mark} END \1 (\d+)$", text, re.DOTALL | re.MULTILINE)
    return {match[1]: Section(int(match[3]), match[2]) for match in found}


def here_document(nonce: str, name: str, text: str) -> str:
    """Shell text that writes a file whole, byte for byte, whatever is in it; `name` is relative to the directory."""
    end = f"EOF_{nonce}"
    if end in text:
        raise ValueError("the text holds its own end marker")
    body = text if text.endswith("\n") else text + "\n"
    return f"cat >{shlex.quote(name)}.new <<'{end}' && mv -f {shlex.quote(name)}.new {shlex.quote(name)}\n{body}{end}\n"
