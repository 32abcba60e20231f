"""Real SSH servers on loopback, each with the habits that a test wants."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from nemodeploy.core.spec import Cluster, Ssh

PAM = """\
auth requisite pam_exec.so quiet expose_authtok {script}
auth required pam_permit.so
account required pam_permit.so
session required pam_permit.so
"""
CHECK = """\
#!/bin/sh
tr -d '\\0' >{seen}
[ "$(cat {seen})" = "$(cat {code})" ]
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def keygen(path: Path, *words: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path), *words], check=True)
    return path


class Sshd:
    """One server; `alias` leads to it by the configuration of the directory."""

    def __init__(self, directory: Path, alias: str, options: Mapping[str, str], *, code: str = "") -> None:
        """`code`: what it asks for besides the key, through PAM; needs root."""
        self.directory, self.alias, self.port = directory, alias, free_port()
        self.home = directory / alias
        self.login = self.home / "login"
        self.login.mkdir(parents=True)
        self.log = self.home / "log"
        self.key = directory / "client_key"
        if not self.key.exists():
            keygen(self.key)
        keygen(self.home / "host_key")
        shutil.copy(f"{self.key}.pub", self.home / "authorized_keys")
        settings = {
            "Port": str(self.port),
            "ListenAddress": "127.0.0.1",
            "HostKey": str(self.home / "host_key"),
            "PidFile": "none",
            "AuthorizedKeysFile": str(self.home / "authorized_keys"),
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "UseDNS": "no",
            "PrintMotd": "no",
            "PrintLastLog": "no",
            "SetEnv": f"HOME={self.login}",  # what the machine's user has in ~/.bashrc is nobody's business here
            **options,
        }
        if code:
            settings |= {
                "UsePAM": "yes",
                "KbdInteractiveAuthentication": "yes",
                "AuthenticationMethods": "publickey,keyboard-interactive",
                "PermitRootLogin": "yes",
            }
        (self.home / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        self.words = ["/usr/sbin/sshd", "-D", "-e", "-f", str(self.home / "sshd_config")]
        if code:
            self.words = ["unshare", "--mount", "sh", "-c", self._with_pam(code)]
        self.process: subprocess.Popen[bytes] | None = None
        self.trust()

    def _with_pam(self, code: str) -> str:
        script = self.home / "check"
        (self.home / "code").write_text(code)
        script.write_text(CHECK.format(seen=self.home / "seen", code=self.home / "code"))
        script.chmod(0o755)
        (self.home / "pam").write_text(PAM.format(script=script))
        return f"mount --bind {self.home}/pam /etc/pam.d/sshd && exec {' '.join(self.words)}"

    def trust(self) -> None:
        """Write its host key, and the way to it, into the directory's files."""
        kind, key, *_ = (self.home / "host_key.pub").read_text().split()
        (self.directory / f"{self.alias}.known").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")
        rows = [
            f"Host {self.alias}",
            "HostName 127.0.0.1",
            f"Port {self.port}",
            f"User {getpass.getuser()}",
            f"IdentityFile {self.key}",
            "IdentitiesOnly yes",
            f"UserKnownHostsFile {self.directory}/{self.alias}.known",
            "GlobalKnownHostsFile /dev/null",
        ]
        (self.home / "ssh_config").write_text("\n    ".join(rows) + "\n")
        self.config.write_text(f"Include {self.directory}/*/ssh_config\n")

    @property
    def config(self) -> Path:
        return self.directory / "ssh_config"

    @property
    def host_key(self) -> str:
        return " ".join((self.home / "host_key.pub").read_text().split()[:2])

    def more(self, *lines: str) -> None:
        """Further settings of the client for it."""
        path = self.home / "ssh_config"
        path.write_text(path.read_text() + "".join(f"    {line}\n" for line in lines))

    def start(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True) if os.getuid() == 0 else None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """It, and every session of its."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                children = subprocess.run(
                    ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
                ).stdout.split()
                for pid in children:
                    os.kill(int(pid), 9)
            self.process.kill()
            self.process.wait()

    def logins(self) -> int:
        """How often somebody was let in."""
        return self.log.read_text(errors="replace").count("Accepted publickey")

    def cluster(self, transport: str, *also: str, **ssh: object) -> Cluster:
        """A cluster whose login hosts are this and others of the directory."""
        return Cluster(
            name="door",
            description="",
            notice="",
            stand_in=False,
            when_unreachable="",
            transport=transport,
            ssh=Ssh(**{"hosts": (self.alias, *also), "config": str(self.config), **ssh}),  # type: ignore[arg-type]
            root="$HOME/.nemodeploy",
            scheduler="slurm",
            endpoint_host="",
            lease_minimum_s=3,
            storage_gb_per_s=1,
        )


@contextlib.contextmanager
def sshd(directory: Path, alias: str = "door", *, code: str = "", **options: str) -> Iterator[Sshd]:
    """Running; ended afterwards."""
    one = Sshd(directory, alias, options, code=code)
    try:
        one.start()
        yield one
    finally:
        one.stop()
