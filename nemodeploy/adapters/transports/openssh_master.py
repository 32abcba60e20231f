"""Connections that the OpenSSH client keeps (ControlMaster): for one command, or until `nemodeploy logout`.

Source: ssh(1), -M, -O, -S; ssh_config(5), ControlPersist; OpenSSH 9.2.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from nemodeploy.adapters import ssh_settings
from nemodeploy.adapters.terminal import ANSWER_WITHIN_S
from nemodeploy.adapters.transports import greeting
from nemodeploy.core.foreign import wash
from nemodeploy.core.spec import Cluster
from nemodeploy.errors import AuthenticationFailed, BadInput, ClusterUnreachable, HostKeyRejected, NemodeployError

CONNECT_WITHIN_S = greeting.BANNER_WITHIN_S
ALIVE_EVERY_S, ALIVE_MISSES = 15, 3  # dead after 45 s of silence
LONGEST_PATH = 60  # of a socket's 107 characters our names take 20, and ssh appends 17 while it makes it
_WORDS = {
    "StrictHostKeyChecking": "yes",
    "UpdateHostKeys": "no",
    "ConnectTimeout": CONNECT_WITHIN_S,
    "ServerAliveInterval": ALIVE_EVERY_S,
    "ServerAliveCountMax": ALIVE_MISSES,
    "ClearAllForwardings": "yes",
    "RequestTTY": "no",
    "RemoteCommand": "none",
    "PermitLocalCommand": "no",
    "NumberOfPasswordPrompts": 1,  # a refused code is not tried again
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "LogLevel": "INFO",  # what goes wrong is read from what it says
}
ALWAYS = tuple(word for key, value in _WORDS.items() for word in ("-o", f"{key}={value}"))


class Masters:
    """The sockets of kept connections, in a directory that nobody else can enter."""

    def __init__(self, directory: Path) -> None:
        """Made when something is to be put there."""
        self.directory = directory

    def path(self, cluster: Cluster, host: str) -> Path:
        """Where the connection that `login` opens to a host is found again; `start` makes the directory."""
        ssh = cluster.ssh
        words = "\0".join((cluster.name, host, ssh.user, str(ssh.port), ssh.config, *ssh.host_keys))
        return self.directory / hashlib.sha256(words.encode()).hexdigest()[:12]

    def fresh(self) -> Path:
        """A place for a connection of one command."""
        return self.directory / f"{os.getpid()}-{secrets.token_hex(4)}"

    def keep(self, fresh: Path, path: Path, host: str) -> bool:
        """Have a connection found under another path from now on; False: one is found there already, and this one is
        closed."""
        if not self.is_open(path, host):
            path.unlink(missing_ok=True)
        try:
            path.hardlink_to(fresh)
        except FileExistsError:
            self.end(fresh, host)
            return False
        return True

    def is_open(self, path: Path, host: str) -> bool:
        """Whether a connection stands there."""
        return self.is_ours and path.exists() and self._tell(path, host, "check")

    def end(self, path: Path, host: str) -> bool:
        """Close it; False: there was none."""
        return self.is_ours and path.exists() and self._tell(path, host, "exit")

    def _tell(self, path: Path, host: str, what: str) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            words = ["ssh", "-F", "none", "-S", str(path), "-O", what, "--", host]
            return subprocess.run(words, capture_output=True, check=False, timeout=10).returncode == 0
        return False

    def make(self) -> None:
        """The directory. Raises BadInput where it cannot be made, or is not ours alone."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{self.directory} cannot be made: {error.strerror}") from error
        if not self.is_ours:
            raise BadInput(f"{self.directory} is not ours alone", hint=f"rm -r {self.directory}")

    @property
    def is_ours(self) -> bool:
        """Whether the directory is there, and nobody else's."""
        if not self.directory.is_dir():
            return False
        found = self.directory.stat()
        return found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077


def masters() -> Masters:
    """Where they are for this user: the directory of the session, else one beside other temporary files."""
    session, temporary = os.environ.get("XDG_RUNTIME_DIR", ""), os.environ.get("TMPDIR", "")
    for base, name in ((session, "nemodeploy"), (temporary, f"nemodeploy-{os.getuid()}")):
        directory = Path(base) / name
        if base and Path(base).is_dir() and len(str(directory)) <= LONGEST_PATH:
            return Masters(directory)
    return Masters(Path(f"/tmp/nemodeploy-{os.getuid()}"))


def start(
    cluster: Cluster,
    host: str,
    path: Path,
    masters: Masters,
    *,
    person: bool,
    keep_s: int,
    within_s: float = ANSWER_WITHIN_S,
) -> None:
    """Connect and authenticate, and leave the connection to a process of its own, which ends after so long without use.

    `person`: ssh may ask on the terminal, and an answer must come within `within_s`. Raises ClusterUnreachable,
    AuthenticationFailed or HostKeyRejected.
    """
    masters.make()
    ssh_settings.way(cluster.ssh, host)
    words = ["ssh", "-M", "-N", "-S", str(path), *ssh_settings.options(cluster.ssh), *ALWAYS]
    words += ["-f", "-o", f"BatchMode={'no' if person else 'yes'}", "-o", f"ControlPersist={keep_s}"]
    with _trusted(cluster, host) as trusted, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*words, *trusted, "--", host],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=not person,  # a code is read from the terminal that is ours
        )
        try:
            deadline = time.monotonic() + (within_s if person else 2 * CONNECT_WITHIN_S)
            while not masters.is_open(path, host) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            if masters.is_open(path, host):
                process.wait()
                return
        except BaseException:  # nobody wants it any more, and it must not get there by itself
            _kill(process, alone=not person)
            masters.end(path, host)
            raise
        _kill(process, alone=not person)
        said.seek(0)
        raise translated(cluster, host, wash(said.read().decode(errors="replace")), person=person)


def _kill(process: subprocess.Popen[bytes], *, alone: bool) -> None:
    """With its proxy command, which ssh itself ends only where it is not killed. `alone`: it leads its group."""
    if alone:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.terminate()  # so that it gives the terminal back as it was
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
    process.kill()
    process.wait()


@contextlib.contextmanager
def _trusted(cluster: Cluster, host: str) -> Iterator[tuple[str, ...]]:
    """Options for pinned host keys; without any, known_hosts decides."""
    if not cluster.ssh.host_keys:
        yield ()
        return
    known_as = ssh_settings.effective(cluster.ssh, host).known_as
    with tempfile.NamedTemporaryFile("w", suffix=".known_hosts") as file:
        file.writelines(f"{known_as} {line}\n" for line in cluster.ssh.host_keys)
        file.flush()
        yield "-o", f"UserKnownHostsFile={file.name}", "-o", "GlobalKnownHostsFile=/dev/null"


def translated(cluster: Cluster, host: str, said: str, *, person: bool = False) -> NemodeployError:
    """What ssh says before it ends with 255, in our words."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith(("@", "debug"))]
    last = lines[-1] if lines else "it said nothing"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        return HostKeyRejected(
            f"the host key of {host} is not the recorded one; nothing was sent",
            hint=f"ask the site whether the key changed, then replace it: nemodeploy trust {cluster.called}",
        )
    if "REVOKED HOST KEY" in said:
        return HostKeyRejected(f"the host key of {host} is revoked in known_hosts; nothing was sent")
    if "Host key verification failed" in said or "host key is known" in said:
        return HostKeyRejected(
            f"the host key of {host} is unknown; nothing was sent",
            hint=f"nemodeploy trust {cluster.called}   shows its fingerprint, to be compared with the site's",
        )
    denied = re.search(r"Permission denied \(([^)]*)\)", said)
    if denied and not person and re.search(r"keyboard-interactive|password", denied[1]):
        return AuthenticationFailed(
            f"{host} wants a code or a password, and there is no terminal to ask for it ({denied[1]})",
            hint=f"nemodeploy login {cluster.called}   on a terminal; what comes later needs no code",
        )
    if denied or "Too many authentication failures" in said:
        return AuthenticationFailed(f"{host} refused to let us in: {last}", hint=f"try by hand: ssh {host}")
    settings = ssh_settings.effective(cluster.ssh, host)
    is_direct = not (settings.jumps or settings.proxy_command)  # else it may speak of a host on the way
    where = f"{settings.host} port {settings.port}" if is_direct else f"{host}, or a host on the way,"
    known = greeting.from_client(
        where, said, cluster.when_unreachable, (settings.host, settings.port) if is_direct else None
    )
    return known or ClusterUnreachable(
        f"no SSH session with cluster {cluster.name} at {host}: {last}",
        hint=cluster.when_unreachable or f"try by hand: ssh {host}",
    )
