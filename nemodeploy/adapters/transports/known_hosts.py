"""known_hosts files as ssh reads them: a line that cannot be read, or speaks of others, is passed over.

Source: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT. Of certificate authorities it is only known that they are there.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, HostKeys

MARKS = ("@cert-authority", "@revoked")


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What is recorded of one host: its keys, the keys that must not be trusted, and whether there is an authority that
    may vouch for it. `portless`: keys of the entry without a port, where no key of that type is in `keys`."""

    keys: tuple[paramiko.PKey, ...]
    revoked: frozenset[bytes] = frozenset()
    authority: bool = False
    portless: tuple[paramiko.PKey, ...] = ()

    def has(self, key: paramiko.PKey) -> bool:
        """Whether ssh trusts it: one of several recorded keys of a type is enough."""
        found = key in self.keys or (not self.changed(key) and key in self.portless)
        return found and key.asbytes() not in self.revoked

    def changed(self, key: paramiko.PKey) -> bool:
        """Whether other keys of its type are recorded, and not this one."""
        return key not in self.keys and any(one.get_name() == key.get_name() for one in self.keys)

    def first(self, algorithms: Sequence[str]) -> list[str]:
        """Signature algorithms, those for recorded keys first, so that the server shows a key that can be compared."""
        kinds = {key.get_name() for key in (*self.keys, *self.portless)}
        return sorted(algorithms, key=lambda name: _kind(name) not in kinds)


def read(name: str, paths: Sequence[Path]) -> Known:
    """What the files say of a name, which has its port as `[host]:port` unless that is 22; a file that cannot be read
    says nothing. As ssh does, the entry without a port is looked at where the one with it has no key (sshconnect.c)."""
    bare = name[1:].rpartition("]:")[0] if name.startswith("[") else ""
    keys: list[paramiko.PKey] = []
    portless: list[paramiko.PKey] = []
    revoked, authority = set(), False
    for line in _lines(paths):
        mark, rest = [*line.split(None, 1), ""][:2] if line.startswith("@") else ("", line)
        here, there = concerns(rest, name), bool(bare) and concerns(rest, bare)
        if mark == "@revoked" and (here or there):
            revoked |= set(_blob(rest))
        elif mark == "@cert-authority":
            authority = authority or here or there
        elif not mark and here:
            keys += pinned((rest.split(None, 1)[1],))
        elif not mark and there:
            portless += pinned((rest.split(None, 1)[1],))
    return Known(keys=tuple(keys), revoked=frozenset(revoked), authority=authority, portless=tuple(portless))


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
    """Whether a line without a mark speaks of this host: by its name, a hash of it, or patterns, of which one with `!`
    takes it out."""
    fields = line.split(None, 2)
    if len(fields) < 3 or line.startswith("#"):
        return False
    words = fields[0].split(",")
    if any(word.startswith("!") and _is(word[1:], name) for word in words):
        return False
    return any(_is(word, name) for word in words)


def without(line: str, name: str) -> str:
    """A line that names this host no more; empty: no other is left on it. A pattern stays: it is for others, too."""
    if line.startswith(("#", *MARKS)) or not concerns(line, name):
        return line
    names, _, rest = line.lstrip().partition(" ")
    left = [word for word in names.split(",") if re.search(r"[*?]", word) or not _is(word, name)]
    return f"{','.join(left)} {rest}" if left else ""


def _is(word: str, name: str) -> bool:
    """Whether a pattern has a name, in which only `*` and `?` are special; or whether a hash is that of it."""
    if not word.startswith("|1|"):
        return re.fullmatch(_expression(word.lower()), name.lower()) is not None
    try:
        return HostKeys.hash_host(name.lower(), word) == word
    except (ValueError, binascii.Error, AssertionError):
        return False


def _expression(pattern: str) -> str:
    return re.sub(r"(\\\*)+", ".*", re.escape(pattern)).replace(r"\?", ".")


def _kind(algorithm: str) -> str:
    """The type of key that a signature algorithm wants."""
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


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
