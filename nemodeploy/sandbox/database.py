"""slurmdbd and its database in process 1 of a sandbox: prepared once, then copied for every start."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from nemodeploy.sandbox import accounting
from nemodeploy.sandbox.place import Place

Process = subprocess.Popen[bytes]


class Host(Protocol):
    """What process 1 does for its daemons."""

    place: Place
    environment: dict[str, str]

    def daemon(self, *words: str) -> Process:
        """Start a program without capabilities."""
        ...

    def controller_words(self, *options: str) -> tuple[str, ...]:
        """The command line of slurmctld; `-c`: it starts cold."""
        ...

    def wait_until(self, condition: Callable[[], bool], complaint: str) -> None:
        """Return when a condition holds. Raises RuntimeError with the complaint when it takes too long."""
        ...


class Database:
    """mariadbd and slurmdbd of one sandbox.

    `prepared` is the directory of a database that has the accounts already; the first start makes it. `guest` is a
    second user that is added at each start, or empty.
    """

    def __init__(self, host: Host, prepared: Path, *, guest: str = "") -> None:
        """Name the directory; nothing is started yet."""
        self.host, self.prepared, self.guest = host, prepared, guest
        self.server: Process | None = None
        self.dbd: Process | None = None

    def start(self) -> None:
        """Start both on a fresh copy of the prepared database, and return when sacctmgr is answered."""
        if not self.prepared.is_dir():
            self._prepare()
        data = self.host.place.database
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(self.prepared, data)
        self._start_server()
        self.start_dbd()
        if self.guest:
            self._sacctmgr(accounting.guest_account(self.guest))

    def start_dbd(self) -> None:
        """Start slurmdbd, also after it was killed, and return when sacctmgr is answered."""
        # The MariaDB client library reads the path of its socket from this variable; slurmdbd.conf has no key for it.
        socket_path = f"MYSQL_UNIX_PORT={self.host.place.database_socket}"
        self.dbd = self.host.daemon("env", socket_path, "slurmdbd", "-D")
        self.host.wait_until(self._answers, "slurmdbd did not answer; see log/slurmdbd.log")

    def start_again(self) -> None:
        """Start whichever of the two was killed."""
        if self.server is None or self.server.poll() is not None:
            self._start_server()
        self.start_dbd()

    def stop(self) -> None:
        """End slurmdbd, then the database, so that each can write what it holds."""
        for process in filter(None, (self.dbd, self.server)):
            end(process, within_s=3)

    def _prepare(self) -> None:
        """Make the database with all accounts. Two sandboxes may do so at once: the first to finish wins."""
        data = self.host.place.database
        shutil.rmtree(data, ignore_errors=True)
        self._run(*accounting.install_words(data, as_root=os.geteuid() == 0))
        self._start_server()
        self.start_dbd()
        self._sacctmgr(accounting.FIRST)
        controller = self.host.daemon(*self.host.controller_words("-c"))
        try:
            self.host.wait_until(lambda: "gres|gpu" in self._ask("tres", "type,name"), "slurmctld did not register")
            self._sacctmgr(accounting.accounts(getpass.getuser()))
        finally:
            end(controller, within_s=3)
            self.stop()
        self._keep(data)

    def _keep(self, data: Path) -> None:
        self.prepared.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=self.prepared.parent))
        shutil.copytree(data, new, dirs_exist_ok=True)
        with contextlib.suppress(OSError):  # another sandbox was quicker, and its database is the same
            new.rename(self.prepared)
        shutil.rmtree(new, ignore_errors=True)

    def _start_server(self) -> None:
        self.server = self.host.daemon(*accounting.database_words(self.host.place, as_root=os.geteuid() == 0))
        self.host.wait_until(self._accepts, "mariadbd did not start; see log/mariadbd.log")

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.connect(str(self.host.place.database_socket))
            return True
        return False

    def _answers(self) -> bool:
        if self.dbd and self.dbd.poll() is not None:
            raise RuntimeError("slurmdbd ended at start; see log/slurmdbd.log")
        return "normal" in self._ask("qos", "name")

    def _ask(self, what: str, columns: str) -> str:
        words = ("sacctmgr", "-n", "-P", "show", what, f"format={columns}")
        return subprocess.run(words, capture_output=True, text=True, check=False, env=self.host.environment).stdout

    def _sacctmgr(self, script: str) -> None:
        """Make changes, all in one process: each of its own would take 0.3 s."""
        self._run("sacctmgr", "-i", "-Q", feed=script)

    def _run(self, *words: str, feed: str = "") -> None:
        done = subprocess.run(words, input=feed, capture_output=True, text=True, check=False, env=self.host.environment)
        if done.returncode:
            raise RuntimeError(f"{words[0]}: {(done.stderr or done.stdout).strip()}")


def end(process: Process, *, within_s: float) -> None:
    """Ask a process to end, and wait for it as long as it may take."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(within_s)
