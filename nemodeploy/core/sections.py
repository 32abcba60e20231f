"""Remote answers between markers: what a login shell prints around them is noise and is passed over."""

from __future__ import annotations

import base64
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
    """A POSIX shell text that runs every part in a subshell of its own and marks its output. A later part finds the
    status of an earlier one in `$status_NAME`, where its name is a plain word."""
    lines = []
    for name, body in parts.items():
        lines.append(f"printf '\\n%s BEGIN %s\\n' {shlex.quote(nonce)} {shlex.quote(name)}")
        lines.append(f"(\n{body}\n)")
        keep, status = (f"status_{name}=$?; ", f"$status_{name}") if name.isidentifier() else ("", "$?")
        lines.append(f"{keep}printf '\\n%s END %s %d\\n' {shlex.quote(nonce)} {shlex.quote(name)} {status}")
    return "\n".join(lines) + "\n"


def parse(nonce: str, text: str) -> Mapping[str, Section]:
    """The parts that came back whole; one without its end marker is missing, as if it had not been asked."""
    mark = re.escape(nonce)
    found = re.finditer(rf"^{mark} BEGIN (\S+)\n(.*?)\n{mark} END \1 (\d+)$", text, re.DOTALL | re.MULTILINE)
    return {match[1]: Section(int(match[3]), match[2]) for match in found}


def here_document(name: str, text: str) -> str:
    """Shell text that writes a file whole, byte for byte, whatever is in it; `name` is relative to the directory.

    In base64, since dash 0.5.12 mangles some non-ASCII bytes of a here-document.
    """
    encoded = base64.encodebytes(text.encode()).decode()
    new, end = shlex.quote(name) + ".new", "END-OF-FILE"  # a word that base64 cannot hold
    return f"base64 -d >{new} <<'{end}' && mv -f {new} {shlex.quote(name)}\n{encoded}{end}\n"
