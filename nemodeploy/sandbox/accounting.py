"""What a sandbox with accounting begins with: its accounts, QOS and users, and slurmdbd's configuration. Pure text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nemodeploy.sandbox.place import LOGIN_ADDRESS, Place

CLUSTER = "sandbox"
# slurmdbd knows gres/gpu only after slurmctld has registered once, so the cluster comes before all that has limits.
FIRST = f"add cluster {CLUSTER}\n"
GRACE_S = 5
QOS = ("normal", "short", "small", "strict", "urgent")
# sacctmgr looks up the names of QOS once in each run, so all of them come before the first that names another.
LIMITS = f"""\
add qos short MaxWall=00:10:00
add qos small MaxTRESPerUser=gres/gpu=8
add qos strict MaxTRESPerUser=gres/gpu=8 Flags=DenyOnLimit
add qos urgent
modify qos urgent set Preempt=normal,short
modify qos normal set GraceTime={GRACE_S}
add account research,other,closed Organization=sandbox QOS={",".join(QOS)} DefaultQOS=normal
"""


def accounts(owner: str) -> str:
    """What sacctmgr reads after FIRST: limits, accounts, and the accounts of the sandbox's own user."""
    # root has an account of its own in every database, and keeps it as its default unless told otherwise.
    default = "modify user root set DefaultAccount=research\n" if owner == "root" else ""
    return f"{LIMITS}add user {owner} Account=research,other DefaultAccount=research\n{default}"


def guest_account(name: str) -> str:
    """What sacctmgr reads to let a second user in."""
    return f"add user {name} Account=research,closed DefaultAccount=research\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Daemon:
    """Where slurmdbd is reached: the name of its host, its address and its port."""

    host: str = "login"
    address: str = LOGIN_ADDRESS
    port: int = 6819


def slurm_conf(place: Place, daemon: Daemon) -> str:
    """The lines of slurm.conf that stand for accounting."""
    # sacct and sacctmgr take munge's socket from AccountingStoragePass: they ignore AuthInfo (seen on 22.05).
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={daemon.address}
AccountingStoragePort={daemon.port}
AccountingStoragePass={place.munge_socket}
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux"""


def slurmdbd_conf(place: Place, daemon: Daemon, *, user: str, plugins: str = "") -> str:
    """The configuration of slurmdbd; the file must be readable by SlurmUser only.

    `plugins` is the directory of Slurm's plugins, empty where Slurm knows it.
    """
    directory = f"PluginDir={plugins}\n" if plugins else ""
    return f"""\
DbdHost={daemon.host}
DbdAddr={daemon.address}
DbdPort={daemon.port}
SlurmUser={user}
AuthType=auth/munge
AuthInfo=socket={place.munge_socket}
CommunicationParameters=NoInAddrAny
LogFile={place.root}/log/slurmdbd.log
PidFile={place.root}/run/slurmdbd.pid
{directory}StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
"""


def database_words(place: Place, *, as_root: bool) -> tuple[str, ...]:
    """The command line of mariadbd: reached through a socket only, and careless of power cuts, since it starts afresh
    every time."""
    root = place.root
    return (
        *("mariadbd", "--no-defaults", f"--datadir={place.database}", f"--socket={place.database_socket}"),
        *("--skip-networking", f"--pid-file={root}/run/mariadbd.pid", f"--log-error={root}/log/mariadbd.log"),
        *("--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--innodb-autoextend-increment=4"),
        *("--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync", "--skip-innodb-doublewrite"),
        *("--innodb-lock-wait-timeout=900", "--skip-name-resolve"),
        *(("--user=root",) if as_root else ()),
    )


def install_words(directory: Path, *, as_root: bool) -> tuple[str, ...]:
    """The command line that makes an empty database; its root needs no password, since the socket is private."""
    return (
        *("mariadb-install-db", "--no-defaults", f"--datadir={directory}", "--skip-test-db"),
        *("--auth-root-authentication-method=normal", "--innodb-log-file-size=8M"),
        *(("--user=root",) if as_root else ()),
    )
