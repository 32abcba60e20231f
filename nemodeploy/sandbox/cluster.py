"""The Python interface of the sandbox: start, stop, look, run a command on it, and break it on purpose."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from nemodeploy.errors import BadInput, ClusterUnreachable, PreflightFailed
from nemodeploy.sandbox import configuration, processes
from nemodeploy.sandbox.configuration import SSH_ALIAS, Settings
from nemodeploy.sandbox.place import NODES, Place
from nemodeploy.sandbox.slurms import MACHINE, OPENMP, SYSTEM_PATH, Slurm, machine_has, missing_programs
from nemodeploy.sandbox.software import stand_ins

INSTALL = (
    "apt-get install -y --no-install-recommends "
    "slurmctld slurmd slurm-client munge openssh-server openssh-client iproute2 libgomp1"
)
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "sshd", "ssh", "ssh-keygen", "ip", "unshare", "setpriv", "mount")
GPU_FILES = 8
# What slurmstepd makes below the spool directory for the batch step, and how long such a path may be.
STEP_SOCKET = "/spool/h100-1/h100-1_60000000.4294967291"
LONGEST_SOCKET_PATH = 107


@dataclass(frozen=True, slots=True)
class State:
    """What runs: the process that keeps it, how it is made, the loopback port of its SSH server, which Slurm, and the
    search path of its programs."""

    pid: int
    mode: str
    port: int
    slurm: str = MACHINE.name
    path: str = SYSTEM_PATH


class Sandbox:
    """One sandbox in one directory. Every method may be called by any process of the same user."""

    def __init__(self, place: Place) -> None:
        """Name the directory; nothing is started or read yet."""
        self.place = place

    # -- life ----------------------------------------------------------------------------------------------------

    def state(self) -> State | None:
        """What runs now, or None. A record whose process is gone counts as nothing."""
        try:
            state = State(**json.loads(self.place.state.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return state if state.pid in processes.marked(self.place) else None

    def up(self, mode: str = "auto", slurm: Slurm = MACHINE, spank: str = "") -> State:
        """Start a cold cluster and return when every node is idle; a running one is left as it is.

        `mode` is `auto`, `namespaces` or `plain`; `spank`: Slurm's plugstack.conf. Raises PreflightFailed when
        something it needs is missing, with the command that installs it, and when one runs already with another Slurm.
        """
        path, most = str(self.place.root), LONGEST_SOCKET_PATH - len(STEP_SOCKET)
        if len(path) > most or not re.fullmatch(r"[A-Za-z0-9._/+@=-]+", path):
            raise BadInput(
                f"the sandbox cannot live in {path}: at most {most} plain characters",
                hint="set NEMODEPLOY_SANDBOX_DIR",
            )
        _require_programs(slurm)
        self.place.root.mkdir(parents=True, exist_ok=True)
        with (self.place.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two at once: the second finds it running
            running = self.state()
            if running and running.slurm != slurm.name:
                raise PreflightFailed(
                    f"the sandbox runs already, with another Slurm ({running.slurm})", hint="nemodeploy sandbox down"
                )
            return running or self._start(mode, slurm, spank)

    def _start(self, mode: str, slurm: Slurm, spank: str) -> State:
        chosen = ("namespaces" if namespaces_allowed(slurm.path) else "plain") if mode == "auto" else mode
        processes.end_all(self.place)
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        port = listener.getsockname()[1]
        self._write_files(chosen, port, slurm)
        (self.place.root / "etc/plugstack.conf").write_text(spank)
        with listener:
            pid = self._launch(chosen, listener, slurm)
        state = State(pid, chosen, port, slurm.name, slurm.path)
        self.place.state.write_text(json.dumps(asdict(state)))
        return state

    def down(self) -> bool:
        """Stop it and return when no process of it is left; idempotent. Tells whether anything ran."""
        state = self.state()
        if state:
            with contextlib.suppress(ClusterUnreachable):
                self.command("stop")
            self._await_end(state.pid)
        left = processes.end_all(self.place)
        with contextlib.suppress(OSError):  # nothing to remove where nothing can be
            self.place.state.unlink(missing_ok=True)
        return bool(state) or left

    def node_states(self) -> Mapping[str, str]:
        """What Slurm says of each node, in Slurm's own words."""
        done = self.exec("sinfo", "-h", "-N", "-p", "batch", "-o", "%N %T")
        rows = (line.split() for line in done.stdout.splitlines())
        return {row[0]: row[1] for row in rows if len(row) == 2}

    def exec(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command on the login node, over SSH as a user would."""
        argv = [*self.ssh_words(), "--", shlex.join(words)]
        feed: Mapping[str, object] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        return subprocess.run(argv, capture_output=True, text=True, check=False, **feed)  # type: ignore[call-overload, no-any-return]

    def ssh_words(self, *options: str) -> list[str]:
        """The ssh command that logs in, without a command to run."""
        ssh = shutil.which("ssh") or shutil.which("ssh", path=self.search_path) or "ssh"
        return [ssh, "-F", str(self.place.ssh_config), *options, SSH_ALIAS]

    @property
    def search_path(self) -> str:
        """Where its programs are found: a login's PATH, without the place for faults."""
        state = self.state()
        return state.path if state else SYSTEM_PATH

    # -- faults --------------------------------------------------------------------------------------------------

    def kill_node(self, name: str) -> None:
        """A host loses power: its processes and its network are gone; Slurm notices by itself."""
        self.command("kill-node", name)

    def start_node(self, name: str) -> None:
        """Give a killed host its network and its slurmd back."""
        self.command("start-node", name)

    def cut_node(self, name: str) -> None:
        """Pull a host's network cable; its processes go on."""
        self.command("cut-node", name)

    def mend_node(self, name: str) -> None:
        """Plug the cable in again."""
        self.command("mend-node", name)

    def signal_daemon(self, name: str, number: signal.Signals) -> None:
        """Send a signal to `slurmctld` or `slurmd-NODE`: STOP and CONT stall it, KILL ends it."""
        self.command("signal", name, int(number))

    def start_controller(self, *, cold: bool = False) -> None:
        """Start slurmctld again after it was killed, with its saved state; `cold`: it has forgotten every job."""
        self.command("start-controller", "cold" if cold else "")

    def command(self, verb: str, target: str = "", number: int = 0) -> None:
        """Tell process 1 something. Raises ClusterUnreachable when nobody listens, BadInput when it refuses."""
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connection.settimeout(10)
            try:
                connection.connect(str(self.place.control))
                connection.sendall(json.dumps({"verb": verb, "target": target, "signal": number}).encode() + b"\n")
                reply = json.loads(connection.makefile().readline() or "{}")
            except (OSError, ValueError) as error:
                raise ClusterUnreachable("the sandbox is not running", hint="nemodeploy sandbox up") from error
        if not reply.get("ok"):
            raise BadInput(f"the sandbox refused {verb} {target}: {reply.get('error', 'no answer')}")

    # -- inside --------------------------------------------------------------------------------------------------

    def _write_files(self, mode: str, port: int, slurm: Slurm) -> None:
        root = self.place.root
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)
        for name in ("spool", "run", "shared", "munge", "shims"):
            shutil.rmtree(root / name, ignore_errors=True)
        for name in ("etc", "ssh", "log", "run", "spool/ctld", "shared/home", "local", "dev", "munge", "shims"):
            (root / name).mkdir(parents=True, exist_ok=True)
        for node in NODES:
            (root / "spool" / node.name).mkdir(exist_ok=True)
        for index in range(GPU_FILES):
            with contextlib.suppress(FileExistsError):
                (root / f"dev/nvidia{index}").symlink_to("/dev/null")
        self._write_configuration(mode, port, slurm)

    def _write_configuration(self, mode: str, port: int, slurm: Slurm) -> None:
        root, plain = self.place.root, mode == "plain"
        hostname = socket.gethostname()
        address = _address_of(hostname) if plain else ""
        settings = Settings(
            place=self.place,
            user=getpass.getuser(),
            nodes=NODES,
            first_job_id=_first_job_id(),
            path=slurm.path,
            plugins=slurm.plugins,
            ports=tuple(_free_ports(1 + len(NODES))) if plain else (),
            hostname=hostname,
            address=address or "127.0.0.1",
            resolves=bool(address),
        )
        self._write_keys(port, slurm)
        texts = {
            "etc/slurm.conf": configuration.slurm_conf(settings),
            "etc/gres.conf": configuration.gres_conf(settings),
            "etc/hosts": configuration.hosts(settings),
            "ssh/sshd_config": configuration.sshd_config(settings),
            "ssh/config": configuration.ssh_config(settings, port),
        }
        for name, text in texts.items():
            (root / name).write_text(text)
        if plain:
            (root / "munge/key").write_bytes(os.urandom(128))
            (root / "munge/key").chmod(0o600)
        (root / "cluster.yaml").write_text(
            configuration.cluster_file(self.place, stand_ins(), plain=plain, libraries=slurm.libraries)
        )

    def _write_keys(self, port: int, slurm: Slurm) -> None:
        ssh, generate = self.place.root / "ssh", shutil.which("ssh-keygen", path=slurm.path) or "ssh-keygen"
        for name in ("host_key", "id_ed25519"):
            if not (ssh / name).exists():
                words = (generate, "-q", "-t", "ed25519", "-N", "", "-C", "nemodeploy sandbox", "-f")
                subprocess.run((*words, str(ssh / name)), check=True, capture_output=True)
        (ssh / "authorized_keys").write_text((ssh / "id_ed25519.pub").read_text())
        kind, key, *_ = (ssh / "host_key.pub").read_text().split()
        (ssh / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")

    def _launch(self, mode: str, listener: socket.socket, slurm: Slurm) -> int:
        """Start process 1 and wait until it says it is ready. Returns the pid that keeps everything alive."""
        read_end, write_end = os.pipe()
        init = (sys.executable, "-m", "nemodeploy.sandbox.init", "--root", str(self.place.root), "--mode", mode)
        descriptors = ("--listener", str(listener.fileno()), "--ready", str(write_end))
        with self.place.log.open("ab") as log, os.fdopen(read_end) as ready:
            process = subprocess.Popen(
                (*(namespace_words() if mode == "namespaces" else ()), *init, *descriptors),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(listener.fileno(), write_end),
                start_new_session=True,
                env=self._environment(slurm),
            )
            os.close(write_end)
            self.place.state.write_text(json.dumps(asdict(State(process.pid, mode, 0, slurm.name, slurm.path))))
            word = ready.readline().strip()  # a line, not the end: unshare keeps its own copy open
        if word != "ready":
            processes.end_all(self.place)
            self.place.state.unlink(missing_ok=True)
            raise PreflightFailed(
                f"the sandbox did not start: {word or 'its first process ended'}", hint=f"see {self.place.log}"
            )
        return process.pid

    def _environment(self, slurm: Slurm) -> dict[str, str]:
        """A login's environment, and the mark by which `down` finds what is left of this sandbox."""
        package = Path(__file__).parents[2]
        kept = {name: os.environ[name] for name in ("HOME", "USER", "LOGNAME", "LANG") if name in os.environ}
        return {
            "HOME": str(Path.home()),
            "USER": getpass.getuser(),
            "LOGNAME": getpass.getuser(),
            **kept,
            "PATH": f"{self.place.programs}:{slurm.path}",
            processes.MARK: str(self.place.slurm_conf),
            "PYTHONPATH": str(package),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _await_end(self, pid: int, within_s: float = 5.0) -> None:
        deadline = time.monotonic() + within_s
        while pid in processes.marked(self.place) and time.monotonic() < deadline:
            processes.reap(pid)
            time.sleep(0.01)


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


def _require_programs(slurm: Slurm) -> None:
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
