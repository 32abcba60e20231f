"""The effective SSH settings of a host: what `ssh -G` says where the client exists, paramiko's parser otherwise."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nemodeploy.core.spec import Ssh
from nemodeploy.errors import BadInput, PreflightFailed

DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
DEFAULT_KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True, kw_only=True, slots=True)
class SshSettings:
    """Where to connect, as whom, with which keys, trusting which host keys."""

    host: str
    port: int
    user: str
    key_files: tuple[Path, ...]
    known_hosts: tuple[Path, ...]
    identities_only: bool
    host_key_alias: str


def effective(ssh: Ssh) -> SshSettings:
    """Ask for the settings of a cluster's `ssh:` section; its own words win over the configuration's."""
    if ssh.config and not Path(ssh.config).expanduser().is_file():
        raise BadInput(f"the ssh configuration {ssh.config} does not exist")
    values = _from_client(ssh) if shutil.which("ssh") else _from_parser(ssh)
    for unsupported in ("proxyjump", "proxycommand"):
        said = values.get(unsupported, ["none"])[0]
        if said != "none":
            raise PreflightFailed(
                f"{ssh.host} is reached through {unsupported} {said}, which is not supported yet",
                hint="name a login host in the cluster file that can be reached directly",
            )
    return SshSettings(
        host=values["hostname"][0],
        port=ssh.port or int(values.get("port", ["22"])[0]),
        user=ssh.user or values["user"][0],
        key_files=_existing(values.get("identityfile", [])),
        known_hosts=_existing(
            [*values.get("userknownhostsfile", []), *values.get("globalknownhostsfile", [])] or DEFAULT_KNOWN_HOSTS
        ),
        identities_only=values.get("identitiesonly", ["no"])[0] == "yes",
        host_key_alias=values.get("hostkeyalias", [""])[0],
    )


def _from_client(ssh: Ssh) -> Mapping[str, list[str]]:
    words = ["ssh", "-G", *(("-F", str(Path(ssh.config).expanduser())) if ssh.config else ())]
    words += [*(("-l", ssh.user) if ssh.user else ()), "--", ssh.host]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise BadInput(f"ssh does not accept the settings of {ssh.host}: {done.stderr.strip()}")
    values: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        parts = value.split() if key.endswith("knownhostsfile") else [value]
        values.setdefault(key.lower(), []).extend(parts)
    return values


def _from_parser(ssh: Ssh) -> Mapping[str, list[str]]:
    import getpass

    import paramiko

    path = Path(ssh.config or "~/.ssh/config").expanduser()
    found: Mapping[str, object] = paramiko.SSHConfig.from_path(str(path)).lookup(ssh.host) if path.is_file() else {}
    values = {key: [*map(str, value)] if isinstance(value, list) else [str(value)] for key, value in found.items()}
    values.setdefault("hostname", [ssh.host])
    values.setdefault("user", [getpass.getuser()])
    values.setdefault("identityfile", list(DEFAULT_KEYS))
    return values


def _existing(names: tuple[str, ...] | list[str]) -> tuple[Path, ...]:
    paths = (Path(name.strip('"')).expanduser() for name in names)
    return tuple(path for path in paths if path.is_file())
