"""SSH by the OpenSSH client, over one connection that it keeps: for whatever paramiko cannot do.

Kerberos, FIDO keys, certificates, PKCS#11 and every odd setup are ssh's own; so are its files. A connection that
`nemodeploy login` has opened is used, and nothing is asked. Source: ssh(1), OpenSSH 9.2; that a stream is open is told
by a line of its log which mux.c has had since 6.0.
"""

from __future__ import annotations

import os
import secrets
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from nemodeploy.adapters import ssh_settings, streams
from nemodeploy.adapters.terminal import AGAIN_WITHIN_S, ANSWER_WITHIN_S, is_main
from nemodeploy.adapters.transports.base import (
    FULL_WITHIN_S,
    NO_BASH,
    OUTPUT_CAP,
    first_reachable,
    is_marked,
    late,
    no_way,
    relay,
    remote_line,
)
from nemodeploy.adapters.transports.openssh_master import ALWAYS, CONNECT_WITHIN_S, Masters, start
from nemodeploy.core.spec import Cluster
from nemodeploy.errors import AuthenticationFailed, ClusterUnreachable, HostKeyRejected, PersonWanted
from nemodeploy.values import Command, Completed

OPENED, REFUSED = b"master session id:", b"forwarding request failed"
# The first word of a client to whom the server gave no session, so that nothing was run: it allows few, and the last
# one may not have ended there yet.
FULL = b"mux_client_request_session: session request failed: Session open refused by peer"
IDLE_S = 300  # how long a connection outlives us when we are killed


class OpenSshTransport:
    """A connection of ssh's to a cluster's login host, and commands and streams over it."""

    def __init__(self, cluster: Cluster, masters: Masters, *, person: bool = False) -> None:
        """Nothing is connected before the first command; `person`: ssh may ask for a code on the terminal."""
        self.cluster, self.masters, self.person = cluster, masters, person
        self._hosts = list(cluster.ssh.hosts)
        self._path: Path | None = None
        self._is_ours = False
        self._answer_within_s = ANSWER_WITHIN_S
        self._connecting = threading.Lock()

    def open(self) -> None:
        """Connect and authenticate now."""
        self._connected()

    def run(self, command: Command) -> Completed:
        """Feed the text to `sh` on its standard input and collect both streams; the last line of the second one is the
        status, without which the answer is not complete."""
        nonce = secrets.token_hex(8)
        told = remote_line(f'/bin/sh -s; printf "\\n%s:%d\\n" {nonce} $? >&2')
        deadline = time.monotonic() + FULL_WITHIN_S
        while True:
            path = self._connected()
            words = [*self._client(path), "--", self._hosts[0], told]
            stdout, stderr = self._fed(path, words, command)
            said, _, status = stderr.rpartition(f"\n{nonce}:".encode())
            if status.strip().isdigit():
                cut = len(stdout) >= OUTPUT_CAP
                return Completed(status=int(status), stdout=_text(stdout), stderr=_text(said), is_cut=cut)
            if not stderr.lstrip().startswith(FULL) or time.monotonic() > deadline:
                self._drop(path)
                raise ClusterUnreachable(f"the connection to {self._name} broke before the answer was complete")
            time.sleep(0.05)

    def _fed(self, path: Path, words: Sequence[str], command: Command) -> tuple[bytes, bytes]:
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        ) as process:
            try:
                return _exchange(process, command.script.encode(), command.deadline_s)
            except TimeoutError:
                self._drop(path)  # the next call must not meet a dead connection
                raise late(self._name, command) from None
            finally:
                process.kill()

    def tunnel(self, host: str, port: int) -> socket.socket:
        """A stream through the login host; where it forwards none, a command on it that passes bytes on. Raises
        ForwardingRefused where neither is possible."""
        return self._forwarded(host, port) or self._relay(host, port)

    def close(self) -> None:
        """End the connection, unless it is one that `login` has opened."""
        if path := self._path:
            self._drop(path)

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"cluster {self.cluster.name}"

    def _drop(self, path: Path) -> None:
        """End this connection if it is ours; one that another thread has made since stays."""
        with self._connecting:
            is_current, is_ours = self._path == path, self._is_ours
            if is_current:
                self._path = None
        if is_current and is_ours:
            self.masters.end(path, self._hosts[0])

    def _client(self, path: Path) -> list[str]:
        """A client of the connection that is kept; it never connects by itself."""
        own = ("-o", "BatchMode=yes", "-o", "ProxyCommand=false", "-o", "ControlMaster=no")
        return ["ssh", "-S", str(path), *own, *ALWAYS, *ssh_settings.options(self.cluster.ssh)]

    def _connected(self) -> Path:
        with self._connecting:
            if self._path is None:
                self._path = self._kept()
                self._is_ours = self._path is None
            if self._path is None:
                self._path = self._connect()
            return self._path

    def _kept(self) -> Path | None:
        """The connection that `login` has opened, to whichever host."""
        for place, host in enumerate(self._hosts):
            path = self.masters.path(self.cluster, host)
            if self.masters.is_open(path, host):
                self._hosts = [*self._hosts[place:], *self._hosts[:place]]
                return path
        return None

    def _connect(self) -> Path:
        path = self.masters.fresh()
        _, self._hosts = first_reachable(self._hosts, lambda host: self._start(host, path))
        self._answer_within_s = AGAIN_WITHIN_S
        return path

    def _start(self, host: str, path: Path) -> None:
        person, within_s = self.person and is_main(), self._answer_within_s
        try:
            start(self.cluster, host, path, self.masters, person=person, keep_s=IDLE_S, within_s=within_s)
        except AuthenticationFailed as error:
            if person or not self.person or isinstance(error, HostKeyRejected):
                raise
            raise PersonWanted(error.message, hint=error.hint) from error

    def _forwarded(self, host: str, port: int) -> socket.socket | None:
        """None: the login host has no way there, or forwards nothing."""
        path = self._connected()
        words = [*self._client(path), "-v", "-W", f"{host}:{port}", "--", self._hosts[0]]
        reading, writing = os.pipe()
        heard = os.fdopen(reading, "rb", buffering=0)
        try:
            stream, process = streams.of_command(words, stderr=writing)
        finally:
            os.close(writing)
        if _opens(heard):
            threading.Thread(target=_swallow, args=(heard,), daemon=True).start()
            return stream
        heard.close()
        stream.close()
        process.kill()
        if not self.masters.is_open(path, self._hosts[0]):
            self._drop(path)
            raise ClusterUnreachable(f"the connection to {self._name} broke")
        return None

    def _relay(self, host: str, port: int) -> socket.socket:
        """Through a command on the login host."""
        mark, command = relay(host, port)
        stream, process = streams.of_command([*self._client(self._connected()), "--", self._hosts[0], command])
        stream.settimeout(CONNECT_WITHIN_S)
        try:
            if is_marked(stream, mark):
                stream.settimeout(None)
                return stream
            no_bash = process.wait(CONNECT_WITHIN_S) in NO_BASH
        except (OSError, subprocess.TimeoutExpired) as error:
            process.kill()
            stream.close()
            raise ClusterUnreachable(f"{self._name} cannot reach {host}:{port}: {error}") from error
        stream.close()
        raise no_way(self._name, host, port, no_bash=no_bash)


def _exchange(process: subprocess.Popen[bytes], text: bytes, within_s: float) -> tuple[bytes, bytes]:
    """Feed a process and drain both its streams; what is beyond the cap is thrown away, but for the end of the second
    one. Raises TimeoutError."""
    assert process.stdin
    assert process.stdout
    assert process.stderr
    deadline = time.monotonic() + within_s
    found = {process.stdout: bytearray(), process.stderr: bytearray()}
    left = memoryview(text)
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        for stream in found:
            selector.register(stream, selectors.EVENT_READ)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            ready = selector.select(max(deadline - time.monotonic(), 0))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                if key.fileobj is process.stdin:
                    left = _feed(key.fd, left)
                    if not left:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    continue
                stream = process.stdout if key.fileobj is process.stdout else process.stderr
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(stream)
                _keep(found[stream], chunk)
    return bytes(found[process.stdout]), bytes(found[process.stderr])


def _feed(handle: int, left: memoryview) -> memoryview:
    """Nothing is left when nobody reads any more."""
    try:
        return left[os.write(handle, left[:65536]) :]
    except BlockingIOError:
        return left
    except BrokenPipeError:
        return left[:0]


def _keep(part: bytearray, chunk: bytes) -> None:
    """Beyond the cap the middle goes, so that the last line, which tells the status, is there."""
    part += chunk
    if len(part) > OUTPUT_CAP + 2**20:
        del part[OUTPUT_CAP:-4096]


def _text(raw: bytes) -> str:
    return raw[:OUTPUT_CAP].decode(errors="replace")


def _opens(heard: IO[bytes]) -> bool:
    """Whether ssh says that the stream is open."""
    said, deadline = b"", time.monotonic() + CONNECT_WITHIN_S
    with selectors.DefaultSelector() as selector:
        selector.register(heard, selectors.EVENT_READ)
        while OPENED not in said and REFUSED not in said:
            chunk = heard.read(65536) if selector.select(max(deadline - time.monotonic(), 0)) else b""
            if not chunk:
                break
            said += chunk
    return OPENED in said


def _swallow(heard: IO[bytes]) -> None:
    with heard:
        while heard.read(65536):
            pass
