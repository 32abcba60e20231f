"""From a host's settings to an authenticated connection by paramiko: jump hosts, proxy commands, keys, codes.

Source of the order: ssh(1), AUTHENTICATION; RFC 4252 and 4256; paramiko 5.1.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import paramiko
from paramiko.agent import AgentSSH

from nemodeploy.adapters import ssh_settings, streams
from nemodeploy.adapters.ssh_settings import SshSettings
from nemodeploy.adapters.terminal import Ask
from nemodeploy.adapters.transports import known_hosts
from nemodeploy.core.spec import Cluster
from nemodeploy.errors import AuthenticationFailed, ClusterUnreachable, HostKeyRejected

CONNECT_WITHIN_S = 20.0
ANSWER_WITHIN_S = 120.0  # a person looks for the code


class Chain:
    """The connections that lead to one login host: those of the hosts on the way, and its own."""

    def __init__(self, cluster: Cluster, ask: Ask | None) -> None:
        """Nothing is connected yet; `ask`: who can be asked for a code."""
        self.cluster, self.ask = cluster, ask
        self.clients: list[paramiko.SSHClient] = []

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

    def dial(self, host: str) -> tuple[SshSettings, socket.socket]:
        """A byte stream to a login host's SSH server, by way of its jump hosts, which are logged in to."""
        first, *others = ssh_settings.way(self.cluster.ssh, host)
        here, connection = first, _proxy(first) if first.proxy_command else self._direct(first)
        for settings in others:
            connection = self._beyond(here, self._login(here, connection), settings)
            here = settings
        return here, connection

    def _beyond(self, here: SshSettings, client: paramiko.SSHClient, there: SshSettings) -> socket.socket:
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
        return _Stream(channel)  # type: ignore[return-value]

    def _direct(self, settings: SshSettings) -> socket.socket:
        try:
            connection = socket.create_connection((settings.host, settings.port), timeout=CONNECT_WITHIN_S)
        except OSError as error:
            raise ClusterUnreachable(
                f"cannot connect to cluster {self.cluster.name} at {settings.host} port {settings.port}: "
                f"{error.strerror or error}",
                hint=self.cluster.when_unreachable or f"try by hand: ssh {settings.alias}",
            ) from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _login(
        self, settings: SshSettings, connection: socket.socket, pinned: Sequence[str] = ()
    ) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        known = trusted(settings, pinned)
        name = settings.host_key_alias or settings.host
        for key in known.keys.values():  # under the name by which paramiko looks it up
            client.get_host_keys().add(
                name if settings.port == 22 else f"[{name}]:{settings.port}", key.get_name(), key
            )
        authentication = Authentication(settings, self.ask, known.revoked)
        self.clients.append(client)
        try:
            client.connect(
                name,
                port=settings.port,
                username=settings.user,
                timeout=CONNECT_WITHIN_S,
                banner_timeout=CONNECT_WITHIN_S,
                auth_timeout=CONNECT_WITHIN_S if self.ask is None else ANSWER_WITHIN_S,
                auth_strategy=authentication,  # type: ignore[arg-type] # it needs no more than `authenticate`
                sock=connection,
            )
        except Exception as error:
            raise self._translated(error, settings, authentication, pinned) from error
        return client

    def _translated(
        self, error: Exception, settings: SshSettings, authentication: Authentication, pinned: Sequence[str]
    ) -> Exception:
        """What paramiko raises in our words, once, here."""
        where, called = settings.where, self.cluster.called
        config = self.cluster.ssh.config
        by_hand = f"ssh {'-F ' + config + ' ' if config else ''}{settings.alias}"
        if isinstance(error, paramiko.BadHostKeyException):
            place = "in host_keys of the cluster file" if pinned else "in known_hosts"
            return HostKeyRejected(
                f"the host key of {where} is not the recorded one; nothing was sent",
                hint=f"ask the site whether the key changed, then replace it {place}: nemodeploy trust {called}",
            )
        if "not found in known_hosts" in str(error):
            files = ", ".join(map(tilde, settings.known_hosts)) or "no known_hosts file exists"
            return HostKeyRejected(
                f"the host key of {where} is unknown ({files}); nothing was sent",
                hint=f"nemodeploy trust {called}   shows its fingerprint, to be compared with the site's",
            )
        if isinstance(error, paramiko.AuthenticationException):
            if authentication.wants_person:
                return AuthenticationFailed(
                    f"{where} wants a code or a password, and there is no terminal to ask for it",
                    hint=f"nemodeploy login {called}   on a terminal; what comes later needs no code",
                )
            tried = ", ".join(authentication.tried) or "none"
            return AuthenticationFailed(
                f"{where} refused to let us in; keys tried: {tried}{authentication.beside}",
                hint=f"try by hand: {by_hand}",
            )
        if isinstance(error, (paramiko.SSHException, OSError, EOFError)):
            return ClusterUnreachable(f"no SSH session with {where}: {error}", hint=self.cluster.when_unreachable)
        return error


class _Stream:
    """A channel under another connection: paramiko closes it in a thread of its own, where it must not raise because
    the connection that it belongs to has ended before."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def close(self) -> None:
        """Without a word when nobody is there any more."""
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._channel.close()


class Authentication:
    """Keys in ssh's own order, then whatever else the server wants and a person can say. Never the same twice."""

    def __init__(self, settings: SshSettings, ask: Ask | None, revoked: Collection[bytes]) -> None:
        """`revoked`: host keys that must not be trusted."""
        self.settings, self.ask, self.revoked = settings, ask, revoked
        self.tried: list[str] = []
        self.locked: list[str] = []
        self.wants_person = False

    @property
    def beside(self) -> str:
        """What kept other keys from being tried."""
        return f"; without its passphrase: {', '.join(self.locked)}" if self.locked else ""

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Log in. Raises paramiko's AuthenticationException, or HostKeyRejected before anything is sent."""
        if transport.get_remote_server_key().asbytes() in self.revoked:
            raise HostKeyRejected(f"the host key of {self.settings.where} is revoked in known_hosts; nothing was sent")
        try:
            transport.auth_none(self.settings.user)
            return
        except paramiko.BadAuthenticationType as error:
            allowed = list(error.allowed_types)
        if "publickey" in allowed:
            with _agent(self.settings.agent) as held:
                allowed = self._by_keys(transport, allowed, held)
        while allowed:
            allowed = self._by_person(transport, allowed)

    def _by_keys(self, transport: paramiko.Transport, allowed: list[str], held: Sequence[paramiko.PKey]) -> list[str]:
        """What is still wanted; nothing when a key was enough. `held`: the agent's keys."""
        for name, key in self._keys(held):
            self.tried.append(name)
            try:
                return list(transport.auth_publickey(self.settings.user, key))
            except paramiko.BadAuthenticationType as error:
                allowed = list(error.allowed_types)
            except paramiko.AuthenticationException:
                continue
        return [method for method in allowed if method != "publickey"] or self._refused()

    def _by_person(self, transport: paramiko.Transport, allowed: list[str]) -> list[str]:
        said = [method for method in ("keyboard-interactive", "password") if method in allowed]
        self.wants_person = bool(said) and self.ask is None
        if not said or self.ask is None:
            return self._refused()
        ask, user = self.ask, self.settings.user
        if said[0] == "password":
            (word,) = ask("", [(f"{user}@{self.settings.host}'s password: ", False)])
            return list(transport.auth_password(user, word, fallback=False))

        def answer(title: str, instructions: str, prompts: Sequence[tuple[str, bool]]) -> list[str]:
            return ask("\n".join(filter(None, (title, instructions))), prompts) if prompts else []

        return list(transport.auth_interactive(user, answer))

    def _refused(self) -> list[str]:
        raise paramiko.AuthenticationException("every key was refused")

    def _keys(self, agents: Sequence[paramiko.PKey]) -> Iterator[tuple[str, paramiko.PKey]]:
        """The agent's that are named, the files', then the agent's others unless only named ones may be tried."""
        held = {key.asbytes(): key for key in agents}
        for path in self.settings.key_files:
            blob = _public(path)
            if blob in held:
                yield tilde(path), held.pop(blob)
                continue
            key = self._read(path)
            if key:
                held.pop(key.asbytes(), None)
                yield tilde(path), key
        if not self.settings.identities_only:
            yield from (("the agent's", key) for key in held.values())

    def _read(self, path: Path) -> paramiko.PKey | None:
        try:
            return paramiko.PKey.from_path(path)
        except (paramiko.PasswordRequiredException, TypeError):  # cryptography 46 says TypeError
            if self.ask is None:
                self.locked.append(tilde(path))
                return None
        except (paramiko.SSHException, OSError, ValueError):
            return None
        assert self.ask is not None
        (word,) = self.ask("", [(f"passphrase of {tilde(path)}: ", False)])
        with contextlib.suppress(paramiko.SSHException, OSError, ValueError):
            return paramiko.PKey.from_path(path, word.encode())  # type: ignore[arg-type] # cryptography wants bytes
        self.locked.append(tilde(path))
        return None


class _Agent(AgentSSH):
    """The agent behind a connection."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connect(connection)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _agent(said: str) -> Iterator[Sequence[paramiko.PKey]]:
    """What the agent holds, for as long as it can be used; none where there is none."""
    path = "" if said == "none" else said or os.environ.get("SSH_AUTH_SOCK", "")
    keys: Sequence[paramiko.PKey] = ()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CONNECT_WITHIN_S)
        if path:
            with contextlib.suppress(OSError, paramiko.SSHException):
                connection.connect(path)
                keys = _Agent(connection).get_keys()
        yield keys


def _public(path: Path) -> bytes:
    """The public half that lies beside a key, as the agent names it; empty where there is none."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return base64.b64decode(Path(f"{path}.pub").read_text().split()[1])
    return b""


def trusted(settings: SshSettings, pinned: Sequence[str]) -> known_hosts.Known:
    """Pinned keys and no others, or those of the known_hosts files."""
    if not pinned:
        return known_hosts.read(settings.known_as, settings.known_hosts)
    return known_hosts.Known(keys={key.get_name(): key for key in known_hosts.pinned(pinned)}, revoked=frozenset())


def _proxy(settings: SshSettings) -> socket.socket:
    """Standard input and output of a command that leads there, run by a shell as ssh does."""
    words = {"%h": settings.host, "%p": str(settings.port), "%r": settings.user, "%n": settings.alias, "%%": "%"}
    command = settings.proxy_command
    text, rest = "", command
    while rest:
        step = 2 if rest[:2] in words else 1
        text += words.get(rest[:2], rest[0])
        rest = rest[step:]
    return streams.of_command(("sh", "-c", f"exec {text}"))[0]  # paramiko's own never notices its end


def tilde(path: Path) -> str:
    """A path as people write it."""
    home = str(Path.home())
    return str(path).replace(home, "~", 1) if str(path).startswith(home) else str(path)
