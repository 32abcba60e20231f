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
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from nemodeploy.errors import BadInput, ClusterUnreachable, PreflightFailed
from nemodeploy.sandbox import processes
from nemodeploy.sandbox.configuration import SSH_ALIAS
from nemodeploy.sandbox.files import write_files
from nemodeploy.sandbox.place import Place
from nemodeploy.sandbox.requirements import (
    namespace_words,
    namespaces_allowed,
    prepared_database,
    require_accounting,
    require_guest,
    require_programs,
)
from nemodeploy.sandbox.slurms import MACHINE, SYSTEM_PATH, Slurm
from nemodeploy.sandbox.state import State

# What slurmstepd makes below the spool directory for the batch step, and how long such a path may be.
STEP_SOCKET = "/spool/h100-1/h100-1_60000000.4294967291"
LONGEST_SOCKET_PATH = 107


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
        if guest and not accounting:  # without munge, each user could pose as any other
            raise BadInput("a second user needs accounting", hint=f"nemodeploy sandbox up --accounting --user {guest}")
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
            wanted = State(0, mode, 0, slurm.name, slurm.path, accounting, guest)
            running = self.state()
            if running and (other := _difference(running, wanted)):
                raise PreflightFailed(f"the sandbox runs already, {other}", hint="nemodeploy sandbox down")
            return running or self._start(wanted, slurm, spank)

    def _start(self, wanted: State, slurm: Slurm, spank: str) -> State:
        if wanted.mode == "auto":
            wanted = replace(wanted, mode="namespaces" if namespaces_allowed(slurm.path) else "plain")
        processes.end_all(self.place)
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        wanted = replace(wanted, port=listener.getsockname()[1])
        write_files(self.place, wanted, slurm)
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
            prepared = prepared_database(slurm, getpass.getuser())
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


def _difference(running: State, wanted: State) -> str:
    """What a running sandbox has that was not asked for; empty where it will do."""
    if running.slurm != wanted.slurm:
        return f"with another Slurm ({running.slurm})"
    if (running.accounting, running.guest) == (wanted.accounting, wanted.guest):
        return ""
    user = f" and the user {running.guest}" if running.guest else ""
    return f"with accounting{user}" if running.accounting else "without accounting"
