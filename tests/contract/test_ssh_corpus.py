"""What `ssh HOST` does with odd settings and known_hosts, each transport does: one table, one server."""

from __future__ import annotations

import contextlib
import getpass
import os
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from paramiko.hostkeys import HostKeys

from nemodeploy.adapters.transports import choose
from nemodeploy.adapters.transports.openssh import OpenSshTransport
from nemodeploy.adapters.transports.openssh_master import Masters
from nemodeploy.adapters.transports.paramiko_ssh import ParamikoTransport
from nemodeploy.core.cluster_files import decode_cluster
from nemodeploy.core.documents import Document
from nemodeploy.errors import NemodeployError
from nemodeploy.values import Command
from tests.contract.sshd import Sshd, keygen, sshd

pytestmark = [pytest.mark.sandbox, pytest.mark.long]
HOST, KEY = "127.0.0.1", "IdentityFile {dir}/client_key"


@dataclass(frozen=True, kw_only=True)
class Case:
    """`config`: lines for the host; `known`: known_hosts; PORT, KEY, OTHER, RSA stand for the server's.
    `by`: what `auto` takes."""

    host: str = "door"
    config: tuple[str, ...] = (KEY,)
    known: str = "[127.0.0.1]:PORT KEY"
    works: bool = True
    by: str = "paramiko"


TOKENS = {
    "%r, %h and %p": "IdentityFile {dir}/keys/%r@%h-%p",
    "%n and %%": "IdentityFile {dir}/keys/%%-%n",
    "%u, %i and %k": "IdentityFile {dir}/keys/%u-%i-%k",
    "%L": "IdentityFile {dir}/keys/%L",
    "%l": "IdentityFile {dir}/keys/%l.l",
    "%C": "IdentityFile {dir}/keys/%C",
    "a variable": "IdentityFile ${{ND_KEYS}}/named",
    "a blank": 'IdentityFile "{dir}/keys/with blank"',
    "the second of two": "IdentityFile {dir}/none\n    " + KEY,
}
CASES = {
    **{f"IdentityFile with {name}": Case(config=(line,)) for name, line in TOKENS.items()},
    "a variable that is not set": Case(config=("IdentityFile ${{ND_UNSET}}/named",), works=False, by=""),
    "a certificate beside the key": Case(config=("IdentityFile {dir}/keys/certified",)),
    "CertificateFile": Case(
        config=("IdentityFile {dir}/keys/apart", "CertificateFile {dir}/keys/%n-cert.pub"), by="openssh"
    ),
    "UserKnownHostsFile with %k": Case(config=(KEY, "UserKnownHostsFile {dir}/known.d/%k"), known=""),
    "UserKnownHostsFile, two": Case(config=(KEY, "UserKnownHostsFile {dir}/none {dir}/known.d/door"), known=""),
    "HostKeyAlias": Case(config=(KEY, "HostKeyAlias other"), known="other KEY"),
    "KnownHostsCommand": Case(config=(KEY, "KnownHostsCommand /bin/cat {dir}/known.d/door"), known="", by="openssh"),
    "AddressFamily": Case(config=(KEY, "AddressFamily inet"), by="openssh"),
    "ControlPath of one's own": Case(config=(KEY, "ControlMaster auto", "ControlPath {dir}/cm-%C")),
    "ProxyCommand with tokens": Case(config=(KEY, "ProxyCommand {dir}/relay %h %p %n %r 100%%")),
    "an alias with a plus": Case(host="jump+door"),
    "an alias with an equals sign": Case(host="site=a"),
    "user@host": Case(host=f"{getpass.getuser()}@door"),
    "an address": Case(host="127.0.0.1"),
    "an address of IPv6": Case(host="::1", known="[::1]:PORT KEY"),
    "the entry without a port": Case(known="127.0.0.1 KEY"),
    "the entry without a port, of another key": Case(known="127.0.0.1 OTHER", works=False),
    "another key with a port": Case(known="[127.0.0.1]:PORT OTHER\n127.0.0.1 KEY", works=False),
    "a star": Case(known="[127.0.0.*]:PORT KEY"),
    "a question mark": Case(known="[127.?.0.1]:* KEY"),
    "a star without a port": Case(known="*.0.0.1 KEY"),
    "a negation": Case(known="*,![127.0.0.1]:PORT KEY", works=True),
    "a negation of both": Case(known="*,![127.0.0.1]:PORT,!127.0.0.1 KEY", works=False),
    "only a negation": Case(known="!other KEY", works=False),
    "brackets are no pattern": Case(known="[1]27.0.0.1 KEY", works=False),
    "a hashed name": Case(known="HASHED KEY"),
    "a hashed name without a port": Case(known="HASHEDBARE KEY"),
    "two keys of one type": Case(known="[127.0.0.1]:PORT OTHER\n[127.0.0.1]:PORT KEY"),
    "another type only": Case(known="[127.0.0.1]:PORT RSA"),
    "revoked": Case(known="[127.0.0.1]:PORT KEY\n@revoked * KEY", works=False),
    "revoked for another": Case(known="[127.0.0.1]:PORT KEY\n@revoked other KEY"),
    "revoked for it alone": Case(known="[127.0.0.1]:PORT KEY\n@revoked [127.0.0.1]:PORT KEY", works=False),
    "tabs, a comment, no end": Case(known="# x\n\n  [127.0.0.1]:PORT\tKEY me and you"),
    "unknown": Case(known="other KEY", works=False),
}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One server for all, which takes two types of host key, and certificates."""
    directory = tmp_path_factory.mktemp("corpus")
    authority, rsa = keygen(directory / "authority"), directory / "rsa_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(rsa)], check=True)
    with sshd(directory, MaxStartups="100", TrustedUserCAKeys=f"{authority}.pub") as one:
        path = one.home / "sshd_config"
        path.write_text(path.read_text() + f"ListenAddress ::1\nHostKey {rsa}\n")
        one.stop()
        one.start()
        _prepare(one, authority)
        yield one


def _prepare(door: Sshd, authority: Path) -> None:
    directory, user, here = door.directory, getpass.getuser(), os.uname().nodename
    (directory / "keys").mkdir()
    (directory / "known.d").mkdir()
    (directory / "known.d" / "door").write_text(f"[127.0.0.1]:{door.port} {door.host_key}\n")
    (directory / "relay").write_text(
        '#!/bin/sh\n[ "$3 $5" = "door 100%" ] || exit 9\nexec 2>/dev/null\n'
        'exec python3 -c "import socket,sys,threading,os\ns=socket.create_connection((sys.argv[1],sys.argv[2]))\n'
        "threading.Thread(target=lambda:[s.sendall(d) for d in iter(lambda:os.read(0,9999),b'')],daemon=True).start()\n"
        '[os.write(1,d) for d in iter(lambda:s.recv(9999),b\'\')]" "$1" "$2"\n'
    )
    (directory / "relay").chmod(0o755)
    names = [f"{user}@127.0.0.1-{door.port}", "%-door", f"{user}-{os.getuid()}-door", here.partition(".")[0]]
    said = subprocess.run(
        ["ssh", "-G", "-F", str(_config(door, Case(config=("ControlPath /%C",)))), "door"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    names += [f"{here}.l", said.partition("controlpath /")[2].split()[0], "named", "with blank"]
    for name in names:
        path = directory / "keys" / name
        path.write_bytes(door.key.read_bytes())
        path.chmod(0o600)
    for name, certificate in (("certified", "certified"), ("apart", "door")):
        key = keygen(directory / "keys" / name)
        subprocess.run(["ssh-keygen", "-q", "-s", str(authority), "-I", "x", "-n", user, f"{key}.pub"], check=True)
        key.with_name(f"{name}-cert.pub").rename(key.with_name(f"{certificate}-cert.pub"))


def _config(door: Sshd, case: Case) -> Path:
    """The client's configuration of a case, and its known_hosts."""
    directory, own = door.directory, "\n    ".join(line.format(dir=door.directory) for line in case.config)
    number = list(CASES.values()).index(case) if case in CASES.values() else "none"
    path, known = directory / f"case{number}", directory / f"case{number}.known"
    alias = case.host.rpartition("@")[2]
    name = alias if ":" in alias or alias[0].isdigit() else "127.0.0.1"
    path.write_text(
        f"Host {alias}\n    HostName {name}\n    Port {door.port}\n    User {getpass.getuser()}\n    {own}\n"
        f"    IdentitiesOnly yes\n    UserKnownHostsFile {known}\n    GlobalKnownHostsFile /dev/null\n"
    )
    words = {
        "HASHEDBARE": HostKeys.hash_host("127.0.0.1"),
        "HASHED": HostKeys.hash_host(f"[127.0.0.1]:{door.port}"),
        "OTHER": " ".join(Path(f"{door.key}.pub").read_text().split()[:2]),
        "KEY": door.host_key,
        "RSA": " ".join((directory / "rsa_key.pub").read_text().split()[:2]),
        "PORT": str(door.port),
    }
    text = case.known
    for word, value in words.items():
        text = text.replace(word, value)
    known.write_text(text)
    return path


@pytest.fixture(scope="module")
def outcomes(door: Sshd) -> Mapping[str, Mapping[str, str]]:
    """What each way says of each case, all at the same time: a login waits more than it works."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(8) as pool:
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        patch.delenv("ND_UNSET", raising=False)
        patch.setenv("ND_KEYS", str(door.directory / "keys"))
        return dict(zip(CASES, pool.map(lambda case: _tried(door, case), CASES.values()), strict=True))


def _tried(door: Sshd, case: Case) -> Mapping[str, str]:
    config = _config(door, case)
    words = [
        "ssh",
        "-F",
        str(config),
        *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"),
        "-o",
        "ControlMaster=no",
    ]
    done = subprocess.run([*words, "--", case.host, "echo in"], capture_output=True, text=True, check=False, timeout=60)
    cluster = decode_cluster("door", Document({"ssh": {"host": case.host, "config": str(config)}}, source="the case"))
    masters = Masters(Path(f"/tmp/nd-corpus-{os.getpid()}"))
    found = {"ssh": done.stdout or done.stderr}
    for transport in (ParamikoTransport(cluster), OpenSshTransport(cluster, masters)):
        with contextlib.closing(transport):
            try:
                said = transport.run(Command(script="echo in\n", deadline_s=60)).stdout
            except NemodeployError as error:
                said = error.message
        found[type(transport).__name__] = said
    with contextlib.suppress(NemodeployError):
        found["auto"] = choose(cluster)[0]
    return found


@pytest.mark.parametrize("name", CASES)
def test_what_ssh_does_each_transport_does(outcomes: Mapping[str, Mapping[str, str]], name: str) -> None:
    case, found = CASES[name], outcomes[name]
    assert found.get("auto", "") == case.by
    by = ("ssh", "OpenSshTransport", *(("ParamikoTransport",) if case.by != "openssh" else ()))
    assert [(way, found[way] == "in\n") for way in by] == [(way, case.works) for way in by], found
