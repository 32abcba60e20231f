"""The part of a cluster file that says how to reach a site; every key of it is read here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from nemodeploy.core.defaults import DEFAULTS
from nemodeploy.core.documents import Document
from nemodeploy.core.reading import REQUIRED, Reader
from nemodeploy.core.spec import Cluster, Registry, Ssh

TRANSPORTS = ("auto", "paramiko", "openssh", "local")
MODULE = r"/?[A-Za-z0-9_][A-Za-z0-9_.+@:/-]*"
REGISTRY = r"[A-Za-z0-9][A-Za-z0-9.-]*(:\d{1,5})?"
HOST = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}"
# What ssh takes as its host: an alias, a name or an address, with a user before it or not. No blank, nothing of a
# shell's, and no option.
SSH_HOST = (
    r"([A-Za-z0-9_.][A-Za-z0-9_.+@-]{0,127}@)?"
    r"([A-Za-z0-9_][A-Za-z0-9._+:=-]{0,252}|::|::?[0-9A-Fa-f][0-9A-Fa-f:.]*|[0-9A-Fa-f:]+%[A-Za-z0-9._-]+)"
)
HOST_KEY = r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]{40,}={0,3}( .*)?"
LIKE_HOST_KEY = "a host key such as `ssh-ed25519 AAAA…`; nemodeploy trust shows them"
SLURM_CLUSTER = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
SLURM_PATH = r"/[A-Za-z0-9_./+@-]*"
REMOTE_PATH = r"(/|\$HOME/)[^\x00-\x1f\x7f%\\]*"
LIKE_PATH = "an absolute path on the cluster, or one that begins with $HOME/"


def decode_cluster(name: str, document: Document, schedulers: Iterable[str] = ("slurm", "none")) -> Cluster:
    """The part of a cluster file that says how to reach it; enough for status, logs and down."""
    reader = Reader.of(document)
    cluster = read_cluster(name, reader, schedulers)
    slurm = document.data.get("slurm")
    if reader.problems:
        reader.asked.update(document.data)
        reader.section("slurm").ignore(*(slurm if isinstance(slurm, Mapping) else ()))  # a deployment's settings
        reader.finish(f"cluster {name}")
    partition = slurm.get("partition", "") if isinstance(slurm, Mapping) else ""
    names = document.data.get("secrets")
    secrets = tuple(map(str, names)) if isinstance(names, list) else ()
    return replace(cluster, partition=str(partition or ""), secrets=secrets)


def read_cluster(name: str, reader: Reader, schedulers: Iterable[str]) -> Cluster:
    """Its keys among all others."""
    transport = reader.choice("transport", TRANSPORTS, DEFAULTS.data["transport"])
    slurm = reader.section("slurm")
    return Cluster(
        name=name,
        description=reader.text("description", ""),
        notice=reader.text("notice", ""),
        stand_in=reader.flag("stand_in", False),
        when_unreachable=reader.text("when_unreachable", ""),
        transport=transport,
        ssh=_ssh(reader.section("ssh"), needed=transport != "local"),
        root=reader.text("root", DEFAULTS.data["root"], pattern=REMOTE_PATH, like=LIKE_PATH),
        scheduler=reader.choice("scheduler", schedulers, DEFAULTS.data["scheduler"]),
        endpoint_host=reader.text("endpoint_host", "", pattern=HOST, like="a host name"),
        lease_minimum_s=reader.section("lease").integer("minimum_s", DEFAULTS.data["lease"]["minimum_s"], most=86400),
        storage_gb_per_s=reader.number("storage_gb_per_s", DEFAULTS.data["storage_gb_per_s"], most=1e6),
        modules=reader.texts("modules", pattern=MODULE, like="the name of a module such as cuda/12.4"),
        prolog=_prolog(reader),
        registries=tuple(_registries(reader)),
        slurm_cluster=slurm.text("cluster", "", pattern=SLURM_CLUSTER, like="the name of one cluster of the slurmdbd"),
        slurm_path=slurm.text("path", "", pattern=SLURM_PATH, like="an absolute path, such as /opt/slurm/bin"),
    )


def _prolog(reader: Reader) -> tuple[str, ...]:
    """The site's own lines of shell, which nobody can check; so somebody has to vouch for them."""
    lines = reader.texts("prolog", like="lines of shell, each in one line")
    if lines and not reader.flag("allow_raw", False):
        reader.complain("prolog", "is shell that nobody checks", "allow_raw: true beside it, once you have read it")
    reader.ignore("allow_raw")
    return lines


def _registries(reader: Reader) -> Iterator[Registry]:
    for host, one in reader.sections("registries").items():
        if not re.fullmatch(REGISTRY, host):
            reader.complain("registries", f"{host!r} is no registry", "its host, such as nvcr.io, without a scheme")
        user = one.text("user", pattern=r"[^\s\x00-\x1f\x7f]+", like="the name of the account, such as $oauthtoken")
        secret = one.text("secret", pattern=r"[A-Za-z_][A-Za-z0-9_]*", like="the name of an environment variable")
        yield Registry(host=host, user=str(user), secret=str(secret))


def _ssh(reader: Reader, *, needed: bool) -> Ssh:
    like = "a host name, an address or an alias of ssh_config, as `ssh HOST` takes it; user@ may stand before it"
    several = reader.texts("hosts", pattern=SSH_HOST, like=like)
    one = reader.text("host", REQUIRED if needed and not several else "", pattern=SSH_HOST, like=like)
    if one and several:
        reader.complain("host", "stands beside hosts", "leave one of them out")
    return Ssh(
        hosts=several or ((one,) if one else ()),
        user=reader.text("user", "", pattern=r"[A-Za-z0-9_.@-]*", like="a user name"),
        port=reader.integer("port", None, most=65535),
        config=reader.text("config", ""),
        host_keys=reader.texts("host_keys", pattern=HOST_KEY, like=LIKE_HOST_KEY),
        reconnect_wait_s=reader.integer("reconnect_wait_s", 15, least=0, most=600),
    )
