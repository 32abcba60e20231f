"""SSH by paramiko: one connection, one authentication, strict host keys, a deadline on everything.

Source of the traps avoided here: paramiko 5.1.0; its `recv_exit_status` knows no timeout, both streams must be
drained together, and TCP_NODELAY is off by default, which costs 44 ms a call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import select
import shlex
import socket
import threading
import time
from pathlib import Path

import paramiko

from nemodeploy.adapters.ssh_settings import SshSettings, effective
from nemodeploy.adapters.transports.base import OUTPUT_CAP
from nemodeploy.core.spec import Cluster
from nemodeploy.errors import AuthenticationFailed, ClusterUnreachable, ForwardingRefused, HostKeyRejected
from nemodeploy.values import Command, Completed

CONNECT_WITHIN_S = 20.0
# The server is asked for a sign of life so often; without one for so long the connection is dead, whatever TCP says.
KEEPALIVE_S = 15.0
DEAD_AFTER_S = 45.0
ADMINISTRATIVELY_PROHIBITED = 1  # RFC 4254, 5.1
SHELL = "exec env LC_ALL=C sh -s"  # understood by every login shell, csh included

logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


class ParamikoTransport:
    """One SSH connection to a cluster's login host."""

    def __init__(self, cluster: Cluster) -> None:
        """Nothing is connected before the first command."""
        self.cluster = cluster
        self._client: paramiko.SSHClient | None = None
        self._pulse = _Pulse(None)
        self._connecting = threading.Lock()

    def open(self) -> None:
        """Connect and authenticate now."""
        self._connected()

    def run(self, command: Command) -> Completed:
        """Feed the text to `sh` on its standard input and collect both streams."""
        channel = self._start(command.script)
        deadline = time.monotonic() + command.deadline_s
        streams: tuple[list[bytes], list[bytes]] = ([], [])
        try:
            while not self._drain(channel, streams):
                left = deadline - time.monotonic()
                if left <= 0 or self._pulse.is_dead:
                    self.close()  # the next call must not meet a dead connection
                    silent = f"has been silent for {DEAD_AFTER_S:.0f} s"
                    late = f"gave no answer within {command.deadline_s:.0f} s"
                    raise ClusterUnreachable(f"{self._name} {silent if left > 0 else late}")
                select.select([channel], [], [], min(left, 1.0))
            if not channel.status_event.wait(max(0.0, deadline - time.monotonic())) or channel.exit_status < 0:
                self.close()
                raise ClusterUnreachable(f"the connection to {self._name} broke before the answer was complete")
            return Completed(status=channel.exit_status, stdout=_text(streams[0]), stderr=_text(streams[1]))
        finally:
            _close(channel)

    def tunnel(self, host: str, port: int) -> socket.socket:
        """A direct-tcpip channel, which has what a socket has; where the site forbids forwarding, a command on the
        login host that passes bytes on. Raises ForwardingRefused where neither is possible."""
        transport = self._connected().get_transport()
        assert transport is not None
        try:
            channel = transport.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=CONNECT_WITHIN_S)
        except paramiko.ChannelException as error:
            if error.code == ADMINISTRATIVELY_PROHIBITED:
                return self._relay(host, port)
            raise ClusterUnreachable(f"{self._name} cannot reach {host}:{port}: {error}") from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            if not transport.is_active():
                self.close()  # the next call must not meet a dead connection
            raise ClusterUnreachable(f"{self._name} cannot reach {host}:{port}: {error}") from error
        return channel  # type: ignore[return-value]

    def _relay(self, host: str, port: int) -> socket.socket:
        """bash opens the connection, says that it is open after whatever the login printed, and passes bytes on."""
        mark = f"relay-{secrets.token_hex(8)}"
        opens = f"exec 3<>/dev/tcp/{host}/{port} || exit 7; echo; echo {mark}; cat <&3 & exec cat >&3"
        channel = self._exec(f"exec bash -c {shlex.quote(opens)}")
        channel.settimeout(CONNECT_WITHIN_S)
        said = b""
        try:
            while not said.endswith(f"\n{mark}\n".encode()):
                byte = channel.recv(1)
                if not byte:
                    status = channel.recv_exit_status()
                    kind = ForwardingRefused if status in (126, 127) else ClusterUnreachable
                    why = "forwards no connections and has no bash" if status in (126, 127) else "has no way to it"
                    raise kind(f"{self._name} cannot reach {host}:{port}: the login host {why}")
                said += byte
        except (paramiko.SSHException, OSError, EOFError) as error:
            _close(channel)
            raise ClusterUnreachable(f"{self._name} cannot reach {host}:{port}: {error}") from error
        return channel  # type: ignore[return-value]

    def close(self) -> None:
        """End the connection."""
        if self._client:
            self._client.close()
            self._client = None

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"cluster {self.cluster.name}"

    def _start(self, script: str) -> paramiko.Channel:
        channel = self._exec(SHELL)
        try:
            channel.sendall(script.encode())
            channel.shutdown_write()
            return channel
        except (paramiko.SSHException, OSError, EOFError) as error:
            self.close()
            raise ClusterUnreachable(f"the connection to {self._name} broke: {error}") from error

    def _exec(self, command: str) -> paramiko.Channel:
        """A channel on which a command has been started."""
        try:
            transport = self._connected().get_transport()
            assert transport is not None
            channel = transport.open_session(timeout=CONNECT_WITHIN_S)
            channel.settimeout(CONNECT_WITHIN_S)
            give_up = threading.Timer(CONNECT_WITHIN_S, transport.close)  # exec_command itself waits for ever
            give_up.start()
            try:
                channel.exec_command(command)
            finally:
                give_up.cancel()
            return channel
        except (paramiko.SSHException, OSError, EOFError) as error:
            self.close()
            raise ClusterUnreachable(f"the connection to {self._name} broke: {error}") from error

    def _drain(self, channel: paramiko.Channel, streams: tuple[list[bytes], list[bytes]]) -> bool:
        """Take what has come on both streams. True when both have ended."""
        ended = bool(channel.eof_received or channel.closed)
        while channel.recv_ready():
            _keep(streams[0], channel.recv(65536))
        while channel.recv_stderr_ready():
            _keep(streams[1], channel.recv_stderr(65536))
        return ended

    def _connected(self) -> paramiko.SSHClient:
        with self._connecting:  # a tunnel is used by many threads
            if self._client is None:
                settings = effective(self.cluster.ssh)
                self._client = self._login(settings, self._dial(settings))
            return self._client

    def _dial(self, settings: SshSettings) -> socket.socket:
        try:
            connection = socket.create_connection((settings.host, settings.port), timeout=CONNECT_WITHIN_S)
        except OSError as error:
            raise ClusterUnreachable(
                f"cannot connect to {self._name} at {settings.host} port {settings.port}: {error.strerror or error}",
                hint=self.cluster.when_unreachable or f"try by hand: ssh {self.cluster.ssh.host}",
            ) from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _login(self, settings: SshSettings, connection: socket.socket) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        for path in settings.known_hosts:
            client.load_host_keys(str(path)) if os.access(path, os.W_OK) else client.load_system_host_keys(str(path))
        name = settings.host_key_alias or settings.host
        try:
            client.connect(
                name,
                port=settings.port,
                username=settings.user,
                key_filename=[str(path) for path in settings.key_files],  # type: ignore[arg-type] # takes a list, too
                allow_agent=not settings.identities_only,
                look_for_keys=False,
                timeout=CONNECT_WITHIN_S,
                banner_timeout=CONNECT_WITHIN_S,
                auth_timeout=CONNECT_WITHIN_S,
                sock=connection,
            )
        except Exception as error:
            client.close()
            raise self._translated(error, settings) from error
        transport = client.get_transport()
        assert transport is not None
        self._pulse = _Pulse(transport)
        return client

    def _translated(self, error: Exception, settings: SshSettings) -> Exception:
        """What paramiko raises in our words, once, here."""
        where = f"{settings.user}@{settings.host} port {settings.port}"
        by_hand = (
            f"ssh {'-F ' + self.cluster.ssh.config + ' ' if self.cluster.ssh.config else ''}{self.cluster.ssh.host}"
        )
        if isinstance(error, paramiko.BadHostKeyException):
            return HostKeyRejected(
                f"the host key of {where} is not the recorded one; nothing was sent",
                hint="ask the site whether the key changed, then replace its line in known_hosts",
            )
        if isinstance(error, paramiko.AuthenticationException) or "No authentication methods" in str(error):
            keys = ", ".join(map(_tilde, settings.key_files)) or "none"
            return AuthenticationFailed(
                f"{where} refused to let us in; keys tried: {keys}", hint=f"try by hand: {by_hand}"
            )
        if "not found in known_hosts" in str(error):
            files = ", ".join(map(_tilde, settings.known_hosts)) or "no known_hosts file exists"
            return HostKeyRejected(
                f"the host key of {where} is unknown ({files}); nothing was sent",
                hint=f"check the fingerprint with the site, then accept it once: {by_hand}",
            )
        if isinstance(error, (paramiko.SSHException, OSError, EOFError)):
            return ClusterUnreachable(f"no SSH session with {where}: {error}", hint=self.cluster.when_unreachable)
        return error


class _Pulse:
    """Asks the server for a sign of life for as long as a connection stands, in a thread of its own."""

    def __init__(self, transport: paramiko.Transport | None) -> None:
        self.transport, self.heard = transport, time.monotonic()
        if transport:
            threading.Thread(target=self._beat, args=(transport,), daemon=True).start()

    @property
    def is_dead(self) -> bool:
        return self.transport is not None and time.monotonic() - self.heard > DEAD_AFTER_S

    def _beat(self, transport: paramiko.Transport) -> None:
        while transport.is_active():
            with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
                transport.global_request("keepalive@openssh.com", wait=True)  # yes and no are both an answer
                if transport.is_active():
                    self.heard = time.monotonic()
            time.sleep(KEEPALIVE_S)


def _close(channel: paramiko.Channel) -> None:
    """Closing says so to the other side, which fails when there is none any more."""
    with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
        channel.close()


def _keep(parts: list[bytes], chunk: bytes) -> None:
    if sum(map(len, parts)) < OUTPUT_CAP:
        parts.append(chunk)


def _text(parts: list[bytes]) -> str:
    whole = b"".join(parts)
    parts.clear()
    return str(memoryview(whole)[:OUTPUT_CAP], "utf-8", "replace")


def _tilde(path: Path) -> str:
    home = str(Path.home())
    return str(path).replace(home, "~", 1) if str(path).startswith(home) else str(path)
