"""Process 1 of a sandbox: brings the hosts up, lets SSH connections in, and takes node commands until told to stop.

Run as `python -m nemodeploy.sandbox.init` by `Sandbox.up`, inside fresh user, network, mount, UTS, IPC and process
namespaces where the kernel allows them (mode `namespaces`), otherwise straight on this machine (mode `plain`). In
namespaces nothing can outlive it: when process 1 ends, the kernel ends every process, mount and network link of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nemodeploy.sandbox.database import Database, end
from nemodeploy.sandbox.place import LOGIN_ADDRESS, NODES, Node, Place

BRIDGE = "nsb0"
IDLE_WITHIN_S = 30.0
DROP_CAPABILITIES = ("setpriv", "--ambient-caps=-all", "--inh-caps=-all")

# A compute node: a host of its own that keeps existing when its slurmd is killed, and starts it again on `go`.
NODE_SCRIPT = """
set -u
hostname "$1"; ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.01; done
ip addr add "$2/24" dev eth0; ip link set eth0 up
echo 0 2>/dev/null >/proc/sys/net/ipv4/ip_unprivileged_port_start || true
mount -t tmpfs -o mode=0755 tmpfs "$4"
name=$1 run=$3; shift 4
while :; do
  "$@"
  until [ -e "$run/go-$name" ]; do sleep 0.1; done
  rm -f "$run/go-$name"
done
"""


class Init:
    """The daemons of one sandbox and the two sockets through which the world reaches it."""

    def __init__(self, place: Place, mode: str, listener: socket.socket) -> None:
        """Take over a listening TCP socket that was bound on this machine's own loopback."""
        self.place, self.mode, self.listener = place, mode, listener
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.controller: subprocess.Popen[bytes] | None = None
        self.munge: subprocess.Popen[bytes] | None = None
        self.log = place.log.open("ab")
        self.environment = dict(os.environ, SLURM_CONF=str(place.slurm_conf))
        self.stopping = False
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.database: Database | None = None

    # -- bringing up ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Everything from nothing to all nodes idle. Raises RuntimeError or OSError with the reason."""
        self.control.bind(str(self.place.control))
        self.control.listen(8)
        if self.mode == "namespaces":
            self._become_login_host()
        if self.mode == "plain" or self.database:
            self._start_munge()
        if os.geteuid() == 0 and not self._mapped():
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # root's sshd does not start without it
        if self.database:
            self.database.start()  # before slurmctld, which takes the accounts from it
        self.controller = self.daemon(*self.controller_words("-c"))
        if self.database:  # it takes a second to register, and a slurmd that finds it closed retries after three
            self.wait_until(lambda: "is UP" in self._ask("scontrol", "ping"), "slurmctld did not answer")
        for node in NODES:
            self._start_node(node)
        self._await_idle()

    def _become_login_host(self) -> None:
        self._run("hostname", "login")
        with contextlib.suppress(PermissionError):
            Path("/etc/hosts").touch()  # a minimal installation has none, and a mount needs something to lie on
        self._run("mount", "--bind", str(self.place.root / "etc/hosts"), "/etc/hosts")
        self._run("mount", "--bind", str(self.place.root / "etc/passwd"), "/etc/passwd")
        if os.geteuid() == 0 and not self._mapped():
            self._run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
        else:
            self._own_terminals()
        self._ip(
            "link set lo up",
            f"link add {BRIDGE} type bridge",
            f"addr add {LOGIN_ADDRESS}/24 dev {BRIDGE}",
            f"link set {BRIDGE} up",
        )

    def controller_words(self, *options: str) -> tuple[str, ...]:
        """The command line of slurmctld; `-c`: it starts cold."""
        return ("slurmctld", *options, "-D", "-f", str(self.place.slurm_conf))

    def _mapped(self) -> bool:
        """Whether this is a user namespace of an ordinary user."""
        return Path("/proc/self/uid_map").read_text().split()[2] == "1"

    def _own_terminals(self) -> None:
        """Pseudo-terminals that sshd can hand out: it may not give them to the group `tty` of the real root."""
        group = self.place.root / "etc/group"
        lines = Path("/etc/group").read_text().splitlines(keepends=True)
        group.write_text("".join(line for line in lines if not line.startswith("tty:")))
        self._run("mount", "--bind", str(group), "/etc/group")
        options = f"newinstance,ptmxmode=0666,mode=0600,gid={os.getgid()}"
        self._run("mount", "-t", "devpts", "-o", options, "devpts", "/dev/pts")
        self._run("mount", "--bind", "/dev/pts/ptmx", "/dev/ptmx")

    def _start_munge(self) -> None:
        munge = self.place.root / "munge"
        self.munge = self.daemon(
            *("munged", "-F", "--force", f"--socket={munge}/socket", f"--key-file={munge}/key"),
            *(f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed", "--num-threads=2"),
        )
        self.wait_until(lambda: (munge / "socket").exists(), "munged did not open its socket")

    def _start_node(self, node: Node) -> None:
        slurmd = ("slurmd", "-D", "-f", str(self.place.slurm_conf), "-N", node.name)
        if self.mode == "plain":
            self.nodes[node.name] = self.daemon(*slurmd)
            return
        where = (node.name, node.address, str(self.place.root / "run"), str(self.place.local))
        words = ("sh", "-c", NODE_SCRIPT, "node", *where, *self._unprivileged(), *slurmd)
        process = self._spawn("unshare", "--net", "--uts", "--mount", *words)
        self.nodes[node.name] = process
        self.wait_until(lambda: self._network(process.pid) != self._network(os.getpid()), f"{node.name} got no network")
        self._ip(
            f"link add v{node.name} type veth peer name eth0 netns {process.pid}",
            f"link set v{node.name} master {BRIDGE}",
            f"link set v{node.name} up",
        )

    def _await_idle(self) -> None:
        def all_idle() -> bool:
            if self.controller is None or self.controller.poll() is not None:
                raise RuntimeError("slurmctld ended at start")
            answer = self._ask("sinfo", "-h", "-N", "-p", "batch", "-o", "%T")
            return answer.split() == ["idle"] * len(NODES)

        self.wait_until(all_idle, "the nodes did not become idle")

    def wait_until(self, condition: Callable[[], bool], complaint: str) -> None:
        """Return when a condition holds. Raises RuntimeError with the complaint when it takes too long."""
        deadline = time.monotonic() + IDLE_WITHIN_S
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(complaint)
            time.sleep(0.01)

    # -- processes -----------------------------------------------------------------------------------------------

    def _unprivileged(self) -> tuple[str, ...]:
        """What makes daemons, jobs and SSH sessions as powerless as a real user's."""
        return DROP_CAPABILITIES if self.mode == "namespaces" and self._mapped() else ()

    def daemon(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a program without capabilities."""
        return self._spawn(*self._unprivileged(), *words)

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env=self.environment,
            start_new_session=True,
        )

    def _run(self, *words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=self.environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")

    def _ip(self, *commands: str) -> None:
        text = "\n".join(commands)
        done = subprocess.run(("ip", "-batch", "-"), input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ip: {done.stderr.strip()}")

    def _ask(self, *words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, check=False, env=self.environment).stdout

    @staticmethod
    def _network(pid: int) -> str:
        try:
            return str(Path(f"/proc/{pid}/ns/net").readlink())
        except OSError:
            return ""

    # -- serving -------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Accept SSH connections and node commands until told to stop."""
        while not self.stopping:
            readable, _, _ = select.select([self.listener, self.control], [], [], 0.2)
            with contextlib.suppress(OSError, ValueError, TypeError):  # one bad connection ends nothing but itself
                if self.listener in readable:
                    self._let_in()
                if self.control in readable:
                    self._take_command()
            self._reap()

    def _let_in(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            sshd = (
                shutil.which("sshd", path=self.environment["PATH"]) or "/usr/sbin/sshd"
            )  # it insists on its full path
            subprocess.Popen(
                (*self._unprivileged(), sshd, "-i", "-e", "-f", str(self.place.root / "ssh/sshd_config")),
                stdin=connection.fileno(),
                stdout=connection.fileno(),
                stderr=self.log,
                env=self.environment,
                start_new_session=True,
            )

    def _take_command(self) -> None:
        connection, _ = self.control.accept()
        with connection:
            connection.settimeout(5)
            request = json.loads(connection.makefile().readline())
            try:
                self._obey(request["verb"], request.get("target", ""), request.get("signal", 0))
                reply: dict[str, object] = {"ok": True}
            except (RuntimeError, OSError, KeyError) as error:
                reply = {"ok": False, "error": str(error)}
            connection.sendall(json.dumps(reply).encode() + b"\n")

    def _obey(self, verb: str, target: str, number: int) -> None:
        if verb.endswith("-node") and (self.mode == "plain" or target not in self.nodes):
            raise RuntimeError("no such host" if self.mode == "namespaces" else "in plain mode nodes are not hosts")
        match verb:
            case "stop":
                self.stopping = True
            case "kill-node":
                self._ip(f"link set v{target} down")
                self._kill_all_on(target)
            case "start-node":
                self._ip(f"link set v{target} up")
                (self.place.root / f"run/go-{target}").touch()
            case "cut-node":
                self._ip(f"link set v{target} down")
            case "mend-node":
                self._ip(f"link set v{target} up")
            case "signal":
                pid = int((self.place.root / f"run/{target}.pid").read_text())
                os.kill(pid, number)
            case "start-controller":
                self.controller = self.daemon(*self.controller_words(*(("-c",) if target == "cold" else ())))
            case "start-dbd" if self.database:
                self.database.start_again()
            case _:
                raise RuntimeError(f"unknown command {verb!r}")

    def _kill_all_on(self, name: str) -> None:
        """A host loses power: every process on it is gone at once, except the one that keeps the host itself."""
        keeper = self.nodes[name].pid
        network = self._network(keeper)
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            if pid != keeper and self._network(pid) == network:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def stop(self) -> None:
        """Let slurmctld and then the database write their state; in namespaces the kernel ends the rest."""
        if self.controller:
            end(self.controller, within_s=3)  # with accounting it hands over its last records first
        if self.database:
            self.database.stop()
        for process in filter(None, (*self.nodes.values(), self.munge) if self.mode == "plain" else ()):
            end(process, within_s=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Start, say so on the file descriptor `--ready`, and serve until stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--mode", choices=("namespaces", "plain"), required=True)
    parser.add_argument("--listener", type=int, required=True)
    parser.add_argument("--ready", type=int, required=True)
    parser.add_argument("--prepared", type=Path, help="with accounting: where its database is prepared")
    parser.add_argument("--guest", default="")
    options = parser.parse_args(arguments)
    init = Init(Place(options.root), options.mode, socket.socket(fileno=options.listener))
    if options.prepared:
        init.database = Database(init, options.prepared, guest=options.guest)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(init, "stopping", True))
    with os.fdopen(options.ready, "w") as ready:
        try:
            init.start()
        except (RuntimeError, OSError) as error:
            ready.write(f"{error}\n")
            sys.exit(1)
        ready.write("ready\n")
    try:
        init.serve()
    finally:
        init.stop()


if __name__ == "__main__":
    main()
