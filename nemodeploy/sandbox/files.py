"""The directories, keys and configuration files of a sandbox, written before it starts."""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from nemodeploy.sandbox import configuration
from nemodeploy.sandbox.accounting import Daemon, slurmdbd_conf
from nemodeploy.sandbox.configuration import Settings
from nemodeploy.sandbox.place import NODES, Place
from nemodeploy.sandbox.slurms import Slurm
from nemodeploy.sandbox.software import stand_ins
from nemodeploy.sandbox.state import State

GPU_FILES = 8
POSIX_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "ash")
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")


def write_files(place: Place, wanted: State, slurm: Slurm) -> None:
    """Write everything that a sandbox reads when it starts; what an earlier one left is removed."""
    root = place.root
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o711 if wanted.guest else 0o700)
    for name in ("spool", "run", "shared", "munge", "shims"):
        shutil.rmtree(root / name, ignore_errors=True)
    for name in ("etc", "ssh", "log", "run", "spool/ctld", "shared/home", "local", "dev", "munge", "shims"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for node in NODES:
        (root / "spool" / node.name).mkdir(exist_ok=True)
    for index in range(GPU_FILES):
        with contextlib.suppress(FileExistsError):
            (root / f"dev/nvidia{index}").symlink_to("/dev/null")
    if wanted.guest:
        _let_in(place, wanted.guest)
    _write_configuration(place, wanted, slurm)


def _let_in(place: Place, guest: str) -> None:
    """Give a guest a home, and close to it what only the owner may use: the sockets and the saved state."""
    for name in ("run", "spool/ctld"):
        (place.root / name).chmod(0o700)
    home = place.home_of(guest)
    home.mkdir(parents=True, mode=0o700)
    shutil.chown(home, guest)


def _write_configuration(place: Place, wanted: State, slurm: Slurm) -> None:
    root, plain = place.root, wanted.mode == "plain"
    hostname = socket.gethostname()
    address = _address_of(hostname) if plain else ""
    ports = tuple(_free_ports(2 + len(NODES))) if plain else ()
    daemon = Daemon(host=hostname, address=address or "127.0.0.1", port=ports[-1]) if plain else Daemon()
    settings = Settings(
        place=place,
        user=getpass.getuser(),
        nodes=NODES,
        first_job_id=_first_job_id(),
        path=slurm.path,
        plugins=slurm.plugins,
        ports=ports[:-1],
        hostname=hostname,
        address=address or "127.0.0.1",
        resolves=bool(address),
        dbd=daemon if wanted.accounting else None,
        guest=wanted.guest,
        sftp_server=_sftp_server() if plain else "",
    )
    _write_keys(place, wanted.port, slurm)
    texts = {
        "etc/slurm.conf": configuration.slurm_conf(settings),
        "etc/gres.conf": configuration.gres_conf(settings),
        "etc/hosts": configuration.hosts(settings),
        "etc/passwd": configuration.passwd(_accounts(), place, settings.user, settings.guest),
        "ssh/sshd_config": configuration.sshd_config(settings),
        "ssh/config": configuration.ssh_config(settings, wanted.port),
    }
    for name, text in texts.items():
        (root / name).write_text(text, errors="surrogateescape")
    (root / "etc/slurmdbd.conf").unlink(missing_ok=True)
    if wanted.accounting:
        conf = root / "etc/slurmdbd.conf"
        conf.touch(mode=0o600)  # slurmdbd refuses one that others can read
        conf.write_text(slurmdbd_conf(place, daemon, user=settings.user, plugins=slurm.plugins))
    if plain or wanted.accounting:
        (root / "munge/key").write_bytes(os.urandom(128))
        (root / "munge/key").chmod(0o600)
    (root / "cluster.yaml").write_text(
        configuration.cluster_file(place, stand_ins(), plain=plain, libraries=slurm.libraries)
    )


def _sftp_server() -> str:
    """The program for scp and sftp; empty where there is none, or where the login shell speaks another language."""
    with contextlib.suppress(KeyError):
        if Path(pwd.getpwuid(os.getuid()).pw_shell or "/bin/sh").name in POSIX_SHELLS:
            return next((path for path in SFTP_SERVERS if os.access(path, os.X_OK)), "")
    return ""


def _accounts() -> list[str]:
    """The lines of /etc/passwd; whoever comes from a directory service instead has one here all the same."""
    try:
        lines = Path("/etc/passwd").read_text(errors="surrogateescape").splitlines()
    except OSError:
        lines = []
    with contextlib.suppress(KeyError):
        own = pwd.getpwuid(os.getuid())
        if not any(line.startswith(f"{own.pw_name}:") for line in lines):
            lines.append(":".join(map(str, own)))
    return lines


def _write_keys(place: Place, port: int, slurm: Slurm) -> None:
    ssh, generate = place.root / "ssh", shutil.which("ssh-keygen", path=slurm.path) or "ssh-keygen"
    for name in ("host_key", "id_ed25519"):
        if not (ssh / name).exists():
            words = (generate, "-q", "-t", "ed25519", "-N", "", "-C", "nemodeploy sandbox", "-f")
            subprocess.run((*words, str(ssh / name)), check=True, capture_output=True)
    (ssh / "authorized_keys").write_text((ssh / "id_ed25519.pub").read_text())
    kind, key, *_ = (ssh / "host_key.pub").read_text().split()
    (ssh / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")


def _first_job_id() -> int:
    """A job id no earlier sandbox has used: seconds since 2026, which a cold controller counts up from."""
    return (int(time.time()) - 1_767_225_600) % 60_000_000


def _free_ports(count: int) -> Iterator[int]:
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            yield server.getsockname()[1]


def _address_of(hostname: str) -> str:
    """What the machine's name resolves to; empty when it does not."""
    try:
        return socket.gethostbyname(hostname)
    except OSError:
        return ""
