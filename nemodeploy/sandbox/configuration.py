"""The text of every configuration file of a sandbox. Pure: values in, text out."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemodeploy.sandbox import accounting
from nemodeploy.sandbox.accounting import Daemon
from nemodeploy.sandbox.place import LOGIN_ADDRESS, Node, Place

SSH_ALIAS = "nemodeploy-sandbox"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the files depend on.

    `user` is the account everything runs as; `path` is a login's search path, and `plugins` the directory of Slurm's
    plugins, empty where Slurm knows it by itself. `ports` is empty in a namespaced sandbox, where every daemon has its
    own host; in a plain one it holds slurmctld's port and then one for each node. `hostname` is this machine's, and
    `address` what it resolves to, if it does. `dbd` is where slurmdbd is, if there is accounting, and `guest` a second
    account that may log in, or empty. `sftp_server` is that program, where each login has to be led to its home.
    """

    place: Place
    user: str
    nodes: tuple[Node, ...]
    first_job_id: int
    path: str
    plugins: str = ""
    ports: tuple[int, ...] = ()
    hostname: str = ""
    address: str = "127.0.0.1"
    resolves: bool = True
    dbd: Daemon | None = None
    guest: str = ""
    sftp_server: str = ""

    @property
    def plain(self) -> bool:
        """Without namespaces: daemons side by side on this machine."""
        return bool(self.ports)


def slurm_conf(settings: Settings) -> str:
    """Slurm's configuration; the same text was accepted by Slurm 20.11, 22.05, 24.11 and 26.05."""
    root = settings.place.root
    munge = f"auth/munge\nAuthInfo=socket={settings.place.munge_socket}\nCredType=cred/munge"
    return _SLURM_CONF.format(
        root=root,
        user=settings.user,
        auth=munge if settings.plain or settings.dbd else _NO_AUTH,
        storage=accounting.slurm_conf(settings.place, settings.dbd) if settings.dbd else _NO_STORAGE,
        preempt="qos" if settings.dbd else "partition_prio",
        first_job_id=settings.first_job_id,
        controller=_controller(settings),
        plugins=f"PluginDir={settings.plugins}\n" if settings.plugins else "",
        nodes="\n".join(_node_line(settings, node) for node in settings.nodes),
    )


_NO_AUTH = "auth/none\nCredType=cred/none"
_NO_STORAGE = "AccountingStorageType=accounting_storage/none"

_SLURM_CONF = """\
ClusterName=sandbox
{controller}
SlurmUser={user}
SlurmdUser={user}
AuthType={auth}
StateSaveLocation={root}/spool/ctld
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
DefMemPerCPU=500
EnforcePartLimits=ALL
ReturnToService=2
SlurmdTimeout=15
KillWait=10
MinJobAge=300
FirstJobId={first_job_id}
MaxJobId=67000000
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=2,bf_window=1440
MpiDefault=none
JobCompType=jobcomp/filetxt
JobCompLoc={root}/log/jobcomp.log
{storage}
PlugStackConfig={root}/etc/plugstack.conf
{plugins}{nodes}
PreemptType=preempt/{preempt}
PreemptMode=REQUEUE
PartitionName=batch Nodes=ALL Default=YES MaxTime=1-00:00:00 DefaultTime=01:00:00 State=UP
PartitionName=short Nodes=ALL MaxTime=00:30:00 State=UP
PartitionName=urgent Nodes=ALL MaxTime=00:30:00 PriorityTier=10 State=UP
"""


def _controller(settings: Settings) -> str:
    if not settings.plain:
        return f"SlurmctldHost=login({LOGIN_ADDRESS})"
    lines = [f"SlurmctldHost={settings.hostname}({settings.address})", f"SlurmctldPort={settings.ports[0]}"]
    if settings.resolves:  # the daemons then listen on the address of the machine's name, and on no other
        lines.append("CommunicationParameters=NoInAddrAny,NoCtldInAddrAny")
    return "\n".join(lines)


def _node_line(settings: Settings, node: Node) -> str:
    where = f"NodeAddr={node.address}"
    if settings.plain:
        where = f"NodeHostname={settings.hostname} NodeAddr={settings.address} Port={settings.ports[node.index]}"
    gres = f" Gres=gpu:{node.gpu_type}:{node.gpus}" if node.gpus else ""
    return f"NodeName={node.name} {where} CPUs=64 RealMemory=200000{gres} State=UNKNOWN"


def gres_conf(settings: Settings) -> str:
    """Fake GPUs. Slurm insists on a device file for each: links to /dev/null satisfy it."""
    return "".join(
        f"NodeName={node.name} Name=gpu Type={node.gpu_type} File={settings.place.root}/dev/nvidia[0-{node.gpus - 1}]\n"
        for node in settings.nodes
        if node.gpus
    )


def hosts(settings: Settings) -> str:
    """The /etc/hosts that login and compute nodes see."""
    rows = ["127.0.0.1 localhost", f"{LOGIN_ADDRESS} login", *(f"{n.address} {n.name}" for n in settings.nodes)]
    return "\n".join(rows) + "\n"


def passwd(lines: Sequence[str], place: Place, user: str, guest: str) -> str:
    """The /etc/passwd that login and compute nodes see: this machine's, where those who log in have another home."""
    homes = {user: place.home} | ({guest: place.home_of(guest)} if guest else {})
    rows = [line.split(":") for line in lines]
    for row in rows:
        if len(row) == 7 and row[0] in homes:
            row[5] = str(homes[row[0]])
    return "".join(f"{':'.join(row)}\n" for row in rows)


def sshd_config(settings: Settings) -> str:
    """The login node's SSH server: one account and perhaps a guest, one key, no passwords."""
    ssh = settings.place.root / "ssh"
    return (
        textwrap.dedent(f"""\
        HostKey {ssh}/host_key
        PidFile none
        AuthorizedKeysFile {ssh}/authorized_keys
        StrictModes no
        UsePAM no
        PermitRootLogin prohibit-password
        PasswordAuthentication no
        KbdInteractiveAuthentication no
        UseDNS no
        PrintMotd no
        PrintLastLog no
        AllowTcpForwarding yes
        MaxSessions 64
        MaxStartups 100
        {_environment(settings, settings.place.home)}
        """)
        + _begin_at_home(settings)
        + _guest(settings)
    )


# Without namespaces sshd begins where the real /etc/passwd says. The login shell itself goes on from there, so that
# what its own files define is there; a word that they redefine is passed by.
_AT_HOME = (
    'command cd "$HOME" || exit; nd=$SSH_ORIGINAL_COMMAND; unset SSH_ORIGINAL_COMMAND; '
    '[ -n "$nd" ] || exec "$SHELL" -l; eval "$nd"'
)


def _begin_at_home(settings: Settings) -> str:
    if not settings.sftp_server:
        return "Subsystem sftp internal-sftp\n"
    return f"Subsystem sftp {settings.sftp_server}\nForceCommand {_AT_HOME}\n"


def _environment(settings: Settings, home: Path) -> str:
    path = f"{settings.place.shims}:{settings.place.programs}:{settings.path}"
    return f"SetEnv SLURM_CONF={settings.place.slurm_conf} HOME={home} PATH={path}"


def _guest(settings: Settings) -> str:
    home = settings.place.home_of(settings.guest)
    return f"Match User {settings.guest}\n    {_environment(settings, home)}\n" if settings.guest else ""


def ssh_config(settings: Settings, port: int) -> str:
    """How a client logs in, as a site's users have it in ~/.ssh/config."""
    ssh = settings.place.root / "ssh"
    return textwrap.dedent(f"""\
        Host {SSH_ALIAS}
            HostName 127.0.0.1
            Port {port}
            User {settings.user}
            IdentityFile {ssh}/id_ed25519
            IdentitiesOnly yes
            UserKnownHostsFile {ssh}/known_hosts
            GlobalKnownHostsFile /dev/null
            StrictHostKeyChecking yes
        """)


@dataclass(frozen=True, kw_only=True, slots=True)
class Software:
    """What takes the place of the engines' programs and of the models' checkpoints, and what people are told of it;
    `stand_in`: the weights are not the models' own. `runtime`, `image` and `mounts` are as in any cluster
    file; `one_host`: the login node serves by itself, without Slurm; `itself`: engines
    whose own program serves the model's own weights, so that there is nothing to tell.

    `checkpoints` gives a path for each model, or one for each kind of checkpoint.
    """

    notice: str
    stand_in: bool
    programs: Mapping[str, tuple[str, ...]]
    checkpoints: Mapping[str, str | Mapping[str, str]]
    runtime: str = "none"
    image: str = ""
    mounts: tuple[str, ...] = ()
    one_host: bool = False
    itself: tuple[str, ...] = ()


def cluster_file(place: Place, software: Software, *, plain: bool, libraries: str = "") -> str:
    """The sandbox as nemodeploy sees it: a cluster file like any site's.

    `libraries`: a directory of shared libraries that the programs need and the machine has not.
    """
    environment = {"OMP_NUM_THREADS": "1", **({"LD_LIBRARY_PATH": libraries} if libraries else {})}
    return _CLUSTER_FILE.format(
        alias=SSH_ALIAS,
        config=place.ssh_config,
        root=place.shared / "nemodeploy",
        notices=json.dumps({name: software.notice for name in software.programs if name not in software.itself}),
        stand_in="stand_in: true\n" if software.stand_in else "",
        runtime=software.runtime,
        images=json.dumps(dict.fromkeys(software.programs, software.image) if software.image else {}),
        mounts=json.dumps(software.mounts),
        programs="".join(f"\n  {name}: {json.dumps(words)}" for name, words in software.programs.items()),
        checkpoints="".join(f"\n  {name}: {json.dumps(path)}" for name, path in software.checkpoints.items()),
        environment=json.dumps(environment),
        plain="port: auto\nendpoint_host: 127.0.0.1\n" if plain else "",
        scheduler="scheduler: none\n" if software.one_host else _SLURM,
    )


_SLURM = """\
slurm: {partition: batch}
gpus:
  h100: {request: "--gpus-per-node=h100:8"}
  a100: {request: "--gpus-per-node=a100:8"}
  a100-40g: {request: "--gpus-per-node=a100:8"} # the same nodes play both
  h200: {request: "--gpus-per-node=h200:8"}
"""

_CLUSTER_FILE = """\
# Written by `nemodeploy sandbox up`; a real Slurm on this machine, without real GPUs.
description: the sandbox on this machine
notices: {notices}
{stand_in}when_unreachable: "nemodeploy sandbox up"
ssh: {{host: {alias}, config: "{config}", reconnect_wait_s: 0}}
root: "{root}"
{scheduler}runtime: {runtime}
images: {images}
mounts: {mounts}
programs:{programs}
checkpoints:{checkpoints}
env: {environment}
lease: {{minimum_s: 3}}
storage_gb_per_s: 1000
{plain}"""
