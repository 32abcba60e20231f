"""The Python interface of the sandbox: start, stop, look, run a command on it, and break it on purpose."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nemodeploy.errors import BadInput, ClusterUnreachable, PreflightFailed
from nemodeploy.sandbox import configuration, processes
from nemodeploy.sandbox.accounting import Daemon, Users, slurmdbd_conf
from nemodeploy.sandbox.configuration import SSH_ALIAS, Settings
from nemodeploy.sandbox.place import NODES, Place
from nemodeploy.sandbox.requirements import (
    namespace_words,
    namespaces_allowed,
    prepared_database,
    require_accounting,
    require_guest,
    require_programs,
)
from nemodeploy.sandbox.slurms import MACHINE, SYSTEM_PATH, Slurm
from nemodeploy.sandbox.software import stand_ins

GPU_FILES = 8
# What slurmstepd makes below the spool directory for the batch step, and how long such a path may be.
STEP_SOCKET = "/spool/h100-1/h100-1_60000000.4294967291"
LONGEST_SOCKET_PATH = 107


@dataclass(frozen=True, slots=True)
class State:
    """What runs: the process that keeps it, how it is made, the loopback port of its SSH server, which Slurm, the
    search path of its programs, whether it has accounting, and the second account that may log in (empty: none)."""

    pid: int
    mode: str
    port: int
    slurm: str = MACHINE.name
    path: str = SYSTEM_PATH
    accounting: bool = False
    guest: str = ""


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

    def up(
        self,
        mode: str = "auto",
        slurm: Slurm = MACHINE,
        spank: str = "",
        *,
        accounting: bool = False,
        guest: str = "",
    ) -> State:
        """Start a cold cluster and return when every node is idle; a running one is left as it is.

        `mode` is `auto`, `namespaces` or `plain`; `spank`: Slurm's plugstack.conf. `accounting` adds slurmdbd, and
        `guest` an account of this machine that may log in, too (root only). Raises PreflightFailed when something it
        needs is missing, with the command that installs it, and when one runs already with another Slurm or accounting.
        """
        path, most = str(self.place.root), LONGEST_SOCKET_PATH - len(STEP_SOCKET)
        if len(path) > most or not re.fullmatch(r"[A-Za-z0-9._/+@=-]+", path):
            raise BadInput(
                f"the sandbox cannot live in {path}: at most {most} plain characters",
                hint="set NEMODEPLOY_SANDBOX_DIR",
            )
        require_programs(slurm)
        if accounting:
            require_accounting(slurm)
        if guest:
            require_guest(guest, self.place)
        self.place.root.mkdir(parents=True, exist_ok=True)
        with (self.place.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two at once: the second finds it running
            running = self.state()
            if running and running.slurm != slurm.name:
                raise PreflightFailed(
                    f"the sandbox runs already, with another Slurm ({running.slurm})", hint="nemodeploy sandbox down"
                )
            if running and (running.accounting, running.guest) != (accounting, guest):
                how = f"with{'' if running.accounting else 'out'} accounting"
                raise PreflightFailed(
                    f"the sandbox runs already, {how}{f' and the user {running.guest}' if running.guest else ''}",
                    hint="nemodeploy sandbox down",
                )
            return running or self._start(State(0, mode, 0, slurm.name, slurm.path, accounting, guest), slurm, spank)

    def _start(self, wanted: State, slurm: Slurm, spank: str) -> State:
        if wanted.mode == "auto":
            wanted = replace(wanted, mode="namespaces" if namespaces_allowed(slurm.path) else "plain")
        processes.end_all(self.place)
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        wanted = replace(wanted, port=listener.getsockname()[1])
        self._write_files(wanted, slurm)
        (self.place.root / "etc/plugstack.conf").write_text(spank)
        with listener:
            state = replace(wanted, pid=self._launch(wanted, listener, slurm))
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

    def exec(self, *words: str, stdin: str | None = None, user: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command on the login node, over SSH as a user would; `user`: the guest instead of the owner."""
        argv = [*self.ssh_words(*(("-l", user) if user else ())), "--", shlex.join(words)]
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
        """Send a signal to `slurmctld`, `slurmd-NODE`, `slurmdbd` or `mariadbd`; STOP and CONT stall, KILL ends."""
        self.command("signal", name, int(number))

    def start_controller(self, *, cold: bool = False) -> None:
        """Start slurmctld again after it was killed, with its saved state; `cold`: it has forgotten every job."""
        self.command("start-controller", "cold" if cold else "")

    def start_dbd(self) -> None:
        """Start slurmdbd again after it was killed, and mariadbd if that is gone, too; returns when sacctmgr is
        answered."""
        self.command("start-dbd")

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

    def _write_files(self, wanted: State, slurm: Slurm) -> None:
        root = self.place.root
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
            self._let_in(wanted.guest)
        self._write_configuration(wanted, slurm)

    def _let_in(self, guest: str) -> None:
        """Give a guest a home, and close to it what only the owner may use: the sockets and the saved state."""
        for name in ("run", "spool/ctld"):
            (self.place.root / name).chmod(0o700)
        home = self.place.home_of(guest)
        home.mkdir(parents=True, mode=0o700)
        shutil.chown(home, guest)

    def _write_configuration(self, wanted: State, slurm: Slurm) -> None:
        root, plain = self.place.root, wanted.mode == "plain"
        hostname = socket.gethostname()
        address = _address_of(hostname) if plain else ""
        ports = tuple(_free_ports(2 + len(NODES))) if plain else ()
        daemon = Daemon(host=hostname, address=address or "127.0.0.1", port=ports[-1]) if plain else Daemon()
        settings = Settings(
            place=self.place,
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
        )
        self._write_keys(wanted.port, slurm)
        texts = {
            "etc/slurm.conf": configuration.slurm_conf(settings),
            "etc/gres.conf": configuration.gres_conf(settings),
            "etc/hosts": configuration.hosts(settings),
            "ssh/sshd_config": configuration.sshd_config(settings),
            "ssh/config": configuration.ssh_config(settings, wanted.port),
        }
        for name, text in texts.items():
            (root / name).write_text(text)
        (root / "etc/slurmdbd.conf").unlink(missing_ok=True)
        if wanted.accounting:
            conf = root / "etc/slurmdbd.conf"
            conf.touch(mode=0o600)  # slurmdbd refuses one that others can read
            conf.write_text(slurmdbd_conf(self.place, daemon, user=settings.user, plugins=slurm.plugins))
        if plain or wanted.accounting:
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

    def _launch(self, wanted: State, listener: socket.socket, slurm: Slurm) -> int:
        """Start process 1 and wait until it says it is ready. Returns the pid that keeps everything alive."""
        read_end, write_end = os.pipe()
        init: tuple[str, ...] = (
            sys.executable,
            "-m",
            "nemodeploy.sandbox.init",
            "--root",
            str(self.place.root),
            "--mode",
            wanted.mode,
        )
        descriptors = ("--listener", str(listener.fileno()), "--ready", str(write_end))
        if wanted.accounting:
            prepared = prepared_database(slurm, Users(owner=getpass.getuser(), guest=wanted.guest))
            init += ("--prepared", str(prepared), "--guest", wanted.guest)
        with self.place.log.open("ab") as log, os.fdopen(read_end) as ready:
            process = subprocess.Popen(
                (*(namespace_words() if wanted.mode == "namespaces" else ()), *init, *descriptors),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(listener.fileno(), write_end),
                start_new_session=True,
                env=self._environment(slurm),
            )
            os.close(write_end)
            self.place.state.write_text(json.dumps(asdict(replace(wanted, pid=process.pid, port=0))))
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
