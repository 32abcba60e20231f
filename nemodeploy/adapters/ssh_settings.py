"""The effective SSH settings of a host: what `ssh -G` says where the client exists, paramiko's parser otherwise.

Source: ssh_config(5), OpenSSH 9.2.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nemodeploy.core.spec import Ssh
from nemodeploy.errors import BadInput

DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
DEVNULL = "/dev/null"
DEFAULT_KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
NOT_SAID = ("", "none", "no")
MOST_HOPS = 8
BEYOND_PARAMIKO = (
    *("CertificateFile", "PKCS11Provider", "KnownHostsCommand", "RevokedHostKeys", "HostbasedAuthentication"),
    *("ProxyUseFdpass", "BindAddress", "BindInterface", "AddressFamily"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SshSettings:
    """Where to connect, as whom, with which keys, trusting which host keys, and by which way.

    `own_known_hosts`: where a new host key is recorded, whether it is there or not. `jumps`: hosts on the way, the
    first one first, each as user@host:port. `agent`: its socket; empty: the one of the environment; none: no agent.
    `only_openssh`: what paramiko cannot do for it.
    """

    alias: str
    host: str
    port: int
    user: str
    key_files: tuple[Path, ...]
    known_hosts: tuple[Path, ...]
    own_known_hosts: Path
    identities_only: bool
    host_key_alias: str
    jumps: tuple[str, ...] = ()
    proxy_command: str = ""
    agent: str = ""
    only_openssh: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.user}@{self.host} port {self.port}"

    @property
    def known_as(self) -> str:
        """Its name in known_hosts; an alias stands there without the port."""
        return self.host_key_alias or (self.host if self.port == 22 else f"[{self.host}]:{self.port}")


def effective(ssh: Ssh, host: str = "") -> SshSettings:
    """The settings of one of a cluster's login hosts, the first one unless it is named.

    The words of the cluster file's `ssh:` section win over the configuration's. Raises BadInput.
    """
    if ssh.config and not Path(ssh.config).expanduser().is_file():
        raise BadInput(f"the ssh configuration {ssh.config} does not exist")
    return _settings(host or ssh.host, ssh.user, ssh.port, ssh.config)


def leads_somewhere(ssh: Ssh) -> bool:
    """Whether ssh would know where its first host is. Raises BadInput for what ssh does not accept."""
    found = effective(ssh)
    if found.jumps or found.proxy_command:
        return True
    try:
        return bool(socket.getaddrinfo(found.host, found.port))
    except (OSError, UnicodeError):
        return False


def way(ssh: Ssh, host: str) -> tuple[SshSettings, ...]:
    """The settings of a login host, and of all hosts on the way, the first one first. Raises BadInput for a way that
    leads in a circle, on which the ssh client itself would start itself for ever."""
    hops = [effective(ssh, host)]
    while hops[0].jumps and not hops[0].proxy_command:
        if len(hops) > MOST_HOPS:
            said = ",".join(hops[0].jumps)
            what = f"more than {MOST_HOPS} jump hosts lead to {host}: ProxyJump {said} leads in a circle"
            raise BadInput(what, hint="ProxyJump none for the jump host itself")
        *before, last = hops[0].jumps
        hop = jump(last, ssh)
        hops.insert(0, replace(hop, jumps=tuple(before), proxy_command="") if before else hop)
    return tuple(hops)


def jump(hop: str, ssh: Ssh) -> SshSettings:
    """The settings of a host on the way: user@host:port, or an alias of the same configuration."""
    user, _, rest = hop.rpartition("@")
    match = re.fullmatch(
        r"(\[(?P<address>[^\[\]]+)\]|(?P<host>[^:\[\]]+))(:(?P<port>\d{1,5}))?", rest.removeprefix("ssh://").rstrip("/")
    )
    if not match:
        raise BadInput(f"the jump host {hop!r} cannot be read", hint="user@host:port")
    port = int(match["port"]) if match["port"] else None
    return _settings(match["host"] or match["address"], user.removeprefix("ssh://"), port, ssh.config)


def hosts(config: Path, depth: int = 0) -> Iterator[str]:
    """The hosts that an ssh configuration names, and those that it includes; patterns are none."""
    try:
        lines = config.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        match = re.match(r"\s*(host|include)[\s=]+(.*)", line, re.IGNORECASE)
        if not match:
            continue
        for word in match[2].replace('"', " ").split():
            if match[1].lower() == "host":
                if not re.search(r"[*?!]", word):
                    yield word
            elif depth < 8:
                path = Path(word).expanduser()
                base = path if path.is_absolute() else config.parent / path
                for one in sorted(base.parent.glob(base.name)):
                    yield from hosts(one, depth + 1)


def options(ssh: Ssh) -> tuple[str, ...]:
    """The same words for the OpenSSH client."""
    return (
        *(("-F", str(Path(ssh.config).expanduser())) if ssh.config else ()),
        *(("-l", ssh.user) if ssh.user else ()),
        *(("-p", str(ssh.port)) if ssh.port else ()),
    )


def _settings(host: str, user: str, port: int | None, config: str) -> SshSettings:
    values = _from_client(host, user, port, config) if shutil.which("ssh") else _from_parser(host, config)

    def said(key: str) -> str:
        word = " ".join(values.get(key, [""]))
        return "" if word in NOT_SAID else word

    name, port, user = values["hostname"][0], port or int(values.get("port", ["22"])[0]), user or values["user"][0]
    known_as = said("hostkeyalias")
    original = host.rpartition("@")[2]
    way = {"h": name, "n": original, "p": str(port), "r": user, "%": "%"}
    tokens = {**way, **_local_tokens(name, port, user), "k": known_as or original}
    files = [_filled(word, tokens) for word in values.get("identityfile", []) if word.lower() != "none"]
    recorded = [_filled(word, tokens) for word in values.get("userknownhostsfile", [])]
    keys = tuple(path for path in map(_path, files) if path.is_file() or Path(f"{path}.pub").is_file())
    return SshSettings(
        alias=host,
        host=name,
        port=port,
        user=user,
        key_files=keys,
        known_hosts=_existing(
            [*recorded, *values.get("globalknownhostsfile", [])] if recorded else DEFAULT_KNOWN_HOSTS
        ),
        own_known_hosts=_recording((*recorded, DEFAULT_KNOWN_HOSTS[0])[0]),
        identities_only=values.get("identitiesonly", ["no"])[0] == "yes",
        host_key_alias=known_as,
        jumps=tuple(filter(None, _filled(said("proxyjump"), way, variables=False).split(","))),
        proxy_command=_filled(said("proxycommand"), way, variables=False),
        agent="none" if values.get("identityagent") == ["none"] else _agent(said("identityagent"), tokens),
        only_openssh=tuple(_only_openssh(said, keys)),
    )


def _recording(name: str) -> Path:
    """`none` is ssh's own word for no file, ssh_config(5); it becomes the device that keeps nothing."""
    return Path(DEVNULL if name.lower() == "none" else name).expanduser()


def _agent(said: str, tokens: Mapping[str, str]) -> str:
    if re.fullmatch(r"\$[A-Za-z_]\w*", said):  # a variable that holds the path
        return os.environ.get(said[1:], "none")
    return "" if said in ("SSH_AUTH_SOCK", "") else str(_path(_filled(said, tokens)))


def _local_tokens(host: str, port: int, user: str) -> Mapping[str, str]:
    """What stands for this machine and its user, ssh_config(5), TOKENS."""
    here = socket.gethostname()
    joined = f"{here}{host}{port}{user}"
    return {
        "d": str(Path.home()),
        "i": str(os.getuid()),
        "u": getpass.getuser(),
        "l": here,
        "L": here.partition(".")[0],
        "C": hashlib.sha1(joined.encode(), usedforsecurity=False).hexdigest(),
    }


def _filled(text: str, tokens: Mapping[str, str], *, variables: bool = True) -> str:
    """With values for %-tokens, those that are none left, and for ${VAR}. Raises BadInput for a variable that is not
    set, as ssh does."""

    def value(match: re.Match[str]) -> str:
        if match["token"]:
            return tokens.get(match["token"], match[0])
        if not variables:
            return match[0]
        if match["name"] not in os.environ:
            raise BadInput(f"the ssh configuration says {text}, and {match['name']} is not set in the environment")
        return os.environ[match["name"]]

    return re.sub(r"%(?P<token>.)|\$\{(?P<name>[^}]+)\}", value, text)


def _path(name: str) -> Path:
    """Raises no error for a user that does not exist."""
    try:
        return Path(name.strip('"')).expanduser()
    except RuntimeError:
        return Path(name)


def _only_openssh(said: Callable[[str], str], keys: Sequence[Path]) -> list[str]:
    """What paramiko 5.1 does not know, as reasons."""
    found = [f"{word} {said(word.lower())}" for word in BEYOND_PARAMIKO if said(word.lower()) not in ("", "any")]
    found += [f"{path.name} is a FIDO key" for path in keys if _is_fido(path)]
    if said("gssapiauthentication") == "yes" and _has_ticket():
        found.append("a Kerberos ticket")
    return found


def _is_fido(path: Path) -> bool:
    public = Path(f"{path}.pub")
    return public.is_file() and public.read_text(errors="replace").startswith("sk-")


def _has_ticket() -> bool:
    program = shutil.which("klist")
    if not program:
        return False
    done = subprocess.run([program, "-s"], capture_output=True, check=False, timeout=10, stdin=subprocess.DEVNULL)
    return done.returncode == 0


def _from_client(host: str, user: str, port: int | None, config: str) -> Mapping[str, list[str]]:
    words = ["ssh", "-G", *options(Ssh(hosts=(host,), user=user, port=port, config=config)), "--", host]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise BadInput(f"ssh does not accept the settings of {host}: {done.stderr.strip()}")
    values: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        parts = value.split() if key.endswith("knownhostsfile") and not _path(value).is_file() else [value]
        values.setdefault(key.lower(), []).extend(parts)
    return values


def _from_parser(host: str, config: str) -> Mapping[str, list[str]]:
    import paramiko

    class Unfilled(paramiko.SSHConfig):
        """What paramiko would fill in it knows less of than we do."""

        TOKENS_BY_CONFIG_KEY = {  # noqa: RUF012 # its own kind of table
            key: paramiko.SSHConfig.TOKENS_BY_CONFIG_KEY[key] for key in ("hostname", "match-exec")
        }

    user, _, host = host.rpartition("@")

    path = Path(config or "~/.ssh/config").expanduser()
    found: Mapping[str, object] = Unfilled.from_path(str(path)).lookup(host) if path.is_file() else {}
    values = {key: [*map(str, value)] if isinstance(value, list) else [str(value)] for key, value in found.items()}
    values.setdefault("hostname", [host])
    values["user"] = [user] if user else values.get("user", [getpass.getuser()])
    values.setdefault("identityfile", list(DEFAULT_KEYS))
    return values


def _existing(names: tuple[str, ...] | list[str]) -> tuple[Path, ...]:
    return tuple(path for path in map(_path, names) if path.is_file())
