"""What a sandbox needs of this machine, and what to do where it is missing."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

from nemodeploy.adapters.resources import slurm_directory
from nemodeploy.errors import PreflightFailed
from nemodeploy.sandbox import accounting
from nemodeploy.sandbox.place import Place
from nemodeploy.sandbox.slurms import OPENMP, SYSTEM_PATH, Slurm, machine_has, missing_programs

INSTALL = (
    "apt-get install -y --no-install-recommends "
    "slurmctld slurmd slurm-client munge openssh-server openssh-client iproute2 libgomp1"
)
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "sshd", "ssh", "ssh-keygen", "ip", "unshare", "setpriv", "mount")
# Which package of Debian has what accounting needs.
ACCOUNTING_PACKAGES = {
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
    "sacctmgr": "slurm-client",
    "accounting_storage_mysql.so": "slurm-wlm-mysql-plugin",
}
PLUGIN_DIRECTORIES = ("usr/lib/*/slurm-wlm", "usr/lib64/slurm", "usr/lib/slurm", "usr/local/lib/slurm")


def namespace_words() -> tuple[str, ...]:
    """The `unshare` call that makes the login host; killing it kills everything inside."""
    mapped = () if os.geteuid() == 0 else ("--map-current-user", "--keep-caps")
    flags = ("--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")
    return ("unshare", *mapped, *flags)


def namespaces_allowed(path: str = SYSTEM_PATH) -> bool:
    """Whether the kernel lets us make hosts: tried for real with the programs on a search path, since `unshare` alone
    can succeed where these fail."""
    attempt = "hostname sandbox && mount -t tmpfs tmpfs /mnt && ip link add t0 type bridge"
    done = subprocess.run(
        (*namespace_words(), "sh", "-ec", attempt),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env={"PATH": path},
    )
    return done.returncode == 0 and not done.stderr


def missing(slurm: Slurm) -> tuple[str, ...]:
    """What a sandbox with this Slurm needs and cannot find."""
    library = () if machine_has(OPENMP) or slurm.libraries else (OPENMP,)  # llama.cpp's wheel brings none
    return (*missing_programs(NEEDED, slurm.path), *library)


def require_programs(slurm: Slurm) -> None:
    """Raise PreflightFailed, with the command that installs them, when programs of the sandbox are missing."""
    lacking = missing(slurm)
    if lacking:
        raise PreflightFailed(
            f"the sandbox needs Slurm and an SSH server on this machine; not found: {', '.join(lacking)}",
            hint=f"{'' if os.geteuid() == 0 else 'sudo '}{INSTALL}, or without root: nemodeploy sandbox install",
        )
    if importlib.util.find_spec("xllamacpp") is None:
        raise PreflightFailed(
            "the sandbox's stand-in server needs the package xllamacpp in this Python",
            hint=f"{sys.executable} -m pip install 'nemodeploy[sandbox]'",
        )


def require_accounting(slurm: Slurm) -> None:
    """Raise PreflightFailed, with the command that installs them, when programs of accounting are missing."""
    programs = tuple(name for name in ACCOUNTING_PACKAGES if not name.endswith(".so"))
    lacking = (*missing_programs(programs, slurm.path), *_missing_plugin(slurm))
    if lacking:
        packages = " ".join(dict.fromkeys(ACCOUNTING_PACKAGES[name] for name in lacking))
        sudo = "" if os.geteuid() == 0 else "sudo "
        raise PreflightFailed(
            f"accounting needs slurmdbd and MariaDB on this machine; not found: {', '.join(lacking)}",
            hint=f"{sudo}apt-get install -y --no-install-recommends {packages}",
        )


def _missing_plugin(slurm: Slurm) -> tuple[str, ...]:
    """slurmdbd's plugin for MariaDB; where Slurm keeps its plugins elsewhere, slurmdbd itself reports a missing one."""
    known = (Path(slurm.plugins),) if slurm.plugins else [p for s in PLUGIN_DIRECTORIES for p in Path("/").glob(s)]
    plugin = "accounting_storage_mysql.so"
    return (plugin,) if known and not any((place / plugin).exists() for place in known) else ()


def prepared_database(slurm: Slurm, owner: str) -> Path:
    """Where the accounting database is kept that every start copies; another Slurm, MariaDB or user has another."""
    parts = [accounting.accounts(owner)]
    for program in ("slurmdbd", "mariadbd"):
        file = Path(shutil.which(program, path=slurm.path) or program).resolve()
        parts.append(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}")
    return slurm_directory() / "accounting" / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def require_guest(name: str, place: Place) -> None:
    """Raise PreflightFailed when an account cannot log in to the sandbox as a second user."""
    reason, hint = _obstacle(name, place)
    if reason:
        raise PreflightFailed(f"{name} cannot log in to the sandbox: {reason}", hint=hint)


def _obstacle(name: str, place: Place) -> tuple[str, str]:
    """Why an account cannot log in, and what to do; empty where it can."""
    create = f"useradd --create-home --shell /bin/sh --password '*' {name}"
    if os.geteuid() != 0:
        return "only root can start jobs of other users", "sudo nemodeploy sandbox up --accounting --user NAME"
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        return "there is no such account", create
    if account.pw_uid == 0:
        return "it is root, which can log in already", create.replace(name, "guest")
    if _is_locked(name):
        return "its password is locked, and sshd refuses such accounts", f"usermod --password '*' {name}"
    if Path(account.pw_shell).name in ("nologin", "false"):
        return f"its shell is {account.pw_shell}", f"usermod --shell /bin/sh {name}"
    closed = [parent for parent in place.root.parents if parent.exists() and not parent.stat().st_mode & 0o001]
    if closed:
        return (
            f"{closed[-1]} is closed to other users",
            "set NEMODEPLOY_SANDBOX_DIR to a place such as /var/tmp/sandbox",
        )
    return "", ""


def _is_locked(name: str) -> bool:
    rows = (line.split(":") for line in Path("/etc/shadow").read_text().splitlines())
    return any(row[0] == name and row[1].startswith("!") for row in rows)
