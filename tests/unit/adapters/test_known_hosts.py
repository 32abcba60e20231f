"""known_hosts as people have it: marks, hashes, several names, damage, other encodings."""

from __future__ import annotations

from pathlib import Path

import paramiko
import pytest
from paramiko.hostkeys import HostKeys

from nemodeploy.adapters.transports import known_hosts
from tests.contract.sshd import keygen


@pytest.fixture
def key(tmp_path: Path) -> str:
    return " ".join(keygen(tmp_path / "key").with_suffix(".pub").read_text().split()[:2])


def keys(path: Path, name: str = "door") -> list[str]:
    return [one.get_base64() for one in known_hosts.read(name, [path]).keys]


def test_what_cannot_be_read_hides_nothing_after_it(tmp_path: Path, key: str) -> None:
    path = tmp_path / "known"
    damage = b"@cert-authority *.example ssh-rsa AAAA...\nother ssh-ed25519 AAAAC3!!!x\n# caf\xe9\nshort\n\n"
    path.write_bytes(damage + f"|1|x|y ssh-rsa A\ndoor {key}\n".encode())
    assert keys(path) == [key.split()[1]]
    assert keys(tmp_path / "none") == []


def test_hashed_and_many_names_are_found_and_taken_off(tmp_path: Path, key: str) -> None:
    path = tmp_path / "known"
    hashed = HostKeys.hash_host("door")
    path.write_text(f"{hashed} {key}\nlogin,[door]:22 {key}\n")
    assert keys(path) == keys(path, "login") == [key.split()[1]]
    assert known_hosts.without(f"{hashed} {key}", "door") == ""
    assert known_hosts.without(f"login,door,x {key} me", "door") == f"login,x {key} me"
    for line in (f"@revoked door {key}", f"# door {key}", f"login {key}", "door"):
        assert known_hosts.without(line, "door") == line


def test_a_revoked_key_is_told(tmp_path: Path, key: str) -> None:
    path = tmp_path / "known"
    path.write_text(f"door {key}\n@revoked * {key}\n@revoked x\n")
    found = known_hosts.read("door", [path])
    assert found.revoked == {paramiko.PKey.from_path(tmp_path / "key").asbytes()}


def test_the_entry_without_a_port_counts_where_the_other_has_no_key(tmp_path: Path, key: str) -> None:
    path, name = tmp_path / "known", "[door]:2299"
    mine = paramiko.PKey.from_path(tmp_path / "key")
    other = " ".join(keygen(tmp_path / "other").with_suffix(".pub").read_text().split()[:2])
    for text, has, changed in (
        (f"door {key}", True, False),
        (f"d*,!dog {key}", True, False),
        (f"{name} {other}\ndoor {key}", False, True),
        (f"{name} {other}\n{name} {key}", True, False),
        (f"door {other}", False, False),
        (f"door {key}\n@revoked\t{name}\t{key}", False, False),
        (f"*,!{name},!door {key}", False, False),
    ):
        path.write_text(text + "\n")
        found = known_hosts.read(name, [path])
        assert (found.has(mine), found.changed(mine)) == (has, changed), text
    assert known_hosts.without(f"*.x,door {key}", "door") == f"*.x {key}"
    assert known_hosts.without(f"d* {key}", "door") == f"d* {key}"
