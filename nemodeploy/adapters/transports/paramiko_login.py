"""From a host's settings to an authenticated connection by paramiko: jump hosts, proxy commands, host keys."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from collections.abc import Sequence
from functools import partial
from typing import Any

import paramiko

from nemodeploy.adapters import ssh_settings, streams
from nemodeploy.adapters.ssh_settings import SshSettings
from nemodeploy.adapters.terminal import ANSWER_WITHIN_S, Ask, is_main
from nemodeploy.adapters.transports import greeting, known_hosts
from nemodeploy.adapters.transports.paramiko_keys import Authentication, tilde
from nemodeploy.core.spec import Cluster
from nemodeploy.errors import AuthenticationFailed, ClusterUnreachable, HostKeyRejected, PersonWanted

CONNECT_WITHIN_S = float(greeting.BANNER_WITHIN_S)
FIRST_BYTES = 1024


class Chain:
    """The connections that lead to one login host: those of the hosts on the way, and its own."""

    def __init__(self, cluster: Cluster, ask: Ask | None) -> None:
        """Nothing is connected yet; `ask`: who can be asked for a code."""
        self.cluster, self.ask = cluster, ask
        self.clients: list[paramiko.SSHClient] = []
        self.streams: list[_Stream] = []

    def connect(self, host: str) -> paramiko.SSHClient:
        """Log in to a login host. Raises ClusterUnreachable, AuthenticationFailed or HostKeyRejected, or BadInput for a
        way that leads in a circle; then nothing is left open."""
        try:
            settings, connection = self.dial(host)
            return self._login(settings, connection, pinned=self.cluster.ssh.host_keys)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End them all, the last one first."""
        while self.clients:
            with contextlib.suppress(paramiko.SSHException, OSError, EOFError):  # saying so fails on a dead one
                self.clients.pop().close()
        while self.streams:  # also those on which no client has been started, and a proxy command that heeds no end
            self.streams.pop().close()

    def dial(self, host: str) -> tuple[SshSettings, _Stream]:
        """A byte stream to a login host's SSH server, by way of its jump hosts, which are logged in to."""
        first, *others = ssh_settings.way(self.cluster.ssh, host)
        here, connection = first, self._kept(*_proxy(first) if first.proxy_command else (self._direct(first),))
        for settings in others:
            connection = self._beyond(here, self._login(here, connection), settings)
            here = settings
        return here, connection

    def _kept(self, stream: Any, process: subprocess.Popen[bytes] | None = None) -> _Stream:
        self.streams.append(_Stream(stream, process))
        return self.streams[-1]

    def silent(self, settings: SshSettings, stream: _Stream, error: Exception) -> ClusterUnreachable:
        """Why there is no SSH session on a stream, by what has come on it."""
        where, hint = f"{settings.host} port {settings.port}", self.cluster.when_unreachable
        first = bytes(stream.first)
        if re.search(rb"^SSH-", first, re.MULTILINE):
            return ClusterUnreachable(f"no SSH session with {settings.where}: {error}", hint=hint)
        if settings.proxy_command:
            hint = hint or f"the proxy command leads there: try by hand: ssh {settings.alias}"
        if first:
            return greeting.not_ssh(where, first.splitlines()[0].decode(errors="replace"), hint)
        return greeting.closed(where, hint) if stream.has_ended else greeting.mute(where, hint)

    def _beyond(self, here: SshSettings, client: paramiko.SSHClient, there: SshSettings) -> _Stream:
        transport = client.get_transport()
        assert transport is not None
        try:
            channel = transport.open_channel(
                "direct-tcpip", (there.host, there.port), ("127.0.0.1", 0), timeout=CONNECT_WITHIN_S
            )
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ClusterUnreachable(
                f"the jump host {here.where} cannot reach {there.host} port {there.port}: {error}",
                hint=f"try by hand: ssh {there.alias}",
            ) from error
        return self._kept(channel)

    def _direct(self, settings: SshSettings) -> socket.socket:
        try:
            connection = socket.create_connection((settings.host, settings.port), timeout=CONNECT_WITHIN_S)
        except OSError as error:
            where = f"cluster {self.cluster.name} at {settings.host} port {settings.port}"
            raise greeting.not_connected(where, error, self.cluster.when_unreachable) from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _login(self, settings: SshSettings, connection: _Stream, pinned: Sequence[str] = ()) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        known = trusted(settings, pinned)
        client.set_missing_host_key_policy(_Recorded(known))  # paramiko itself knows no keys, so it always asks
        authentication = Authentication(settings, self.ask if is_main() else None)
        self.clients.append(client)
        try:
            client.connect(
                settings.host_key_alias or settings.host,
                port=settings.port,
                username=settings.user,
                timeout=CONNECT_WITHIN_S,
                banner_timeout=CONNECT_WITHIN_S,
                auth_timeout=CONNECT_WITHIN_S if self.ask is None else ANSWER_WITHIN_S,
                auth_strategy=authentication,  # type: ignore[arg-type] # it needs no more than `authenticate`
                transport_factory=partial(_transport, known),
                sock=connection,  # type: ignore[arg-type] # it has what a socket has
            )
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._translated(error, settings, authentication, connection, pinned) from error
        return client

    def _translated(
        self,
        error: Exception,
        settings: SshSettings,
        authentication: Authentication,
        stream: _Stream,
        pinned: Sequence[str],
    ) -> Exception:
        """What paramiko raises in our words, once, here."""
        where, called = settings.where, self.cluster.called
        config = self.cluster.ssh.config
        by_hand = f"ssh {'-F ' + config + ' ' if config else ''}{settings.alias}"
        if isinstance(error, _Revoked):
            return HostKeyRejected(f"the host key of {where} is revoked in known_hosts; nothing was sent")
        if isinstance(error, paramiko.BadHostKeyException):
            place = "in host_keys of the cluster file" if pinned else "in known_hosts"
            return HostKeyRejected(
                f"the host key of {where} is not the recorded one; nothing was sent",
                hint=f"ask the site whether the key changed, then replace it {place}: nemodeploy trust {called}",
            )
        if isinstance(error, _Unknown):
            files = ", ".join(map(tilde, settings.known_hosts)) or "no known_hosts file exists"
            return HostKeyRejected(
                f"the host key of {where} is unknown ({files}); nothing was sent",
                hint=f"nemodeploy trust {called}   shows its fingerprint, to be compared with the site's",
            )
        if isinstance(error, paramiko.AuthenticationException):
            refused = AuthenticationFailed if is_main() or not self.ask else PersonWanted
            if authentication.wants_person:
                return refused(
                    f"{where} wants a code or a password, and {_why_nobody()}",
                    hint=f"nemodeploy login {called}   on a terminal; what comes later needs no code",
                )
            tried = ", ".join(authentication.tried) or "none"
            return (refused if authentication.locked else AuthenticationFailed)(
                f"{where} refused to let us in; keys tried: {tried}{authentication.beside}",
                hint=f"try by hand: {by_hand}",
            )
        return self.silent(settings, stream, error)


def _why_nobody() -> str:
    return "there is no terminal to ask for it" if is_main() else "it is not asked for while other work goes on"


class _Stream:
    """A socket, a channel under another connection, or a proxy command; what came first on it is kept, because paramiko
    does not tell a host that says nothing from one that says something else. paramiko closes it in a thread of its own,
    where it must not raise because the connection that it belongs to has ended before."""

    def __init__(self, stream: Any, process: subprocess.Popen[bytes] | None = None) -> None:
        """`process`: the command behind it, which ends with it."""
        self._stream, self._process = stream, process
        self.first, self.has_ended = bytearray(), False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def recv(self, size: int) -> bytes:
        """As the stream does."""
        try:
            data = bytes(self._stream.recv(size))
        except ConnectionError:
            self.has_ended = True
            raise
        self.has_ended = not data
        if len(self.first) < FIRST_BYTES:
            self.first += data[:FIRST_BYTES]
        return data

    def close(self) -> None:
        """Without a word when the other end has gone."""
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._stream.close()
        process, self._process = self._process, None
        if process:
            streams.end(process)


class _Unknown(paramiko.SSHException):
    """No key of that type is recorded."""


class _Revoked(paramiko.SSHException):
    """The key must not be trusted."""


class _Recorded(paramiko.MissingHostKeyPolicy):
    """Only recorded keys are accepted, by ssh's rules."""

    def __init__(self, known: known_hosts.Known) -> None:
        self.known = known

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Raises _Revoked, _Unknown, or paramiko's BadHostKeyException."""
        del client
        if key.asbytes() in self.known.revoked:
            raise _Revoked
        if self.known.has(key):
            return
        if self.known.changed(key):
            raise paramiko.BadHostKeyException(hostname, key, self.known.keys[0])
        raise _Unknown


def _transport(known: known_hosts.Known, *words: Any, **more: Any) -> paramiko.Transport:
    """paramiko's, which asks for a host key of a recorded type first."""
    made = paramiko.Transport(*words, **more)
    security = made.get_security_options()
    security.key_types = known.first(security.key_types)
    return made


def trusted(settings: SshSettings, pinned: Sequence[str]) -> known_hosts.Known:
    """Pinned keys and no others, or those of the known_hosts files."""
    if not pinned:
        return known_hosts.read(settings.known_as, settings.known_hosts)
    return known_hosts.Known(keys=tuple(known_hosts.pinned(pinned)))


def _proxy(settings: SshSettings) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Standard input and output of a command that leads there, run by a shell as ssh does."""
    return streams.of_command(("sh", "-c", f"exec {settings.proxy_command}"))  # paramiko's own never notices its end
