"""known_hosts files as ssh reads them: a line that cannot be read, or speaks of others, is passed over.

Source: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT. Of certificate authorities it is only known that they are there.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, HostKeys

MARKS = ("@cert-authority", "@revoked")


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What is recorded of one host: its keys by type, the keys that nobody must trust any more, and whether there is an
    authority that may vouch for it."""

    keys: Mapping[str, paramiko.PKey]
    revoked: frozenset[bytes]
    authority: bool = False


def read(name: str, paths: Sequence[Path]) -> Known:
    """What the files say of a name, the first key of each type; a file that cannot be read says nothing."""
    keys: dict[str, paramiko.PKey] = {}
    revoked, authority = set(), False
    for line in _lines(paths):
        mark, _, rest = line.partition(" ") if line.startswith("@") else ("", "", line)
        if mark == "@revoked":
            revoked |= set(_blob(rest))
        elif mark == "@cert-authority":
            authority = authority or _matches(rest.split(None, 1)[0] if rest.strip() else "", name)
        elif not mark and concerns(rest, name):
            for key in pinned((rest.split(None, 1)[1],)):
                keys.setdefault(key.get_name(), key)
    return Known(keys=keys, revoked=frozenset(revoked), authority=authority)


def pinned(lines: Sequence[str]) -> Iterator[paramiko.PKey]:
    """The keys in lines such as `ssh-ed25519 AAAA…`; what is none is passed over."""
    for line in lines:
        try:
            entry = HostKeyEntry.from_line(f"host {line}")
        except (paramiko.SSHException, binascii.Error, ValueError, IndexError):
            continue
        if entry is not None and entry.key is not None:
            yield entry.key


def concerns(line: str, name: str) -> bool:
    """Whether a line without a mark names this host."""
    fields = line.split(None, 2)
    if len(fields) < 3 or line.startswith("#"):
        return False
    return any(_is(word, name) for word in fields[0].split(","))


def without(line: str, name: str) -> str:
    """A line that names this host no more; empty: nobody is left on it."""
    if line.startswith(("#", *MARKS)) or not concerns(line, name):
        return line
    names, _, rest = line.lstrip().partition(" ")
    left = [word for word in names.split(",") if not _is(word, name)]
    return f"{','.join(left)} {rest}" if left else ""


def _is(word: str, name: str) -> bool:
    if not word.startswith("|1|"):
        return word == name
    try:
        return HostKeys.hash_host(name, word) == word
    except (ValueError, binascii.Error, AssertionError):
        return False


def _matches(patterns: str, name: str) -> bool:
    """Whether a list of patterns, `!` before those that take back, has a name. `[` is no pattern here."""
    found = False
    for word in patterns.lower().split(","):
        wanted = word.lstrip("!").replace("[", "[[]")
        if fnmatch.fnmatchcase(name.lower(), wanted):
            if word.startswith("!"):
                return False
            found = True
    return found


def _blob(rest: str) -> Iterator[bytes]:
    fields = rest.split()
    try:
        yield base64.b64decode(fields[2], validate=True)
    except (IndexError, binascii.Error):
        return


def _lines(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        try:
            text = path.read_text("utf-8", errors="replace")
        except OSError:
            continue
        yield from (line.strip() for line in text.splitlines() if line.strip())
