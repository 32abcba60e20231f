"""Proof of who we are, for paramiko: keys of the agent and of files, then codes and passwords that a person says.

Source of the order: ssh(1), AUTHENTICATION; RFC 4252 and 4256; paramiko 5.1.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import paramiko
from paramiko.agent import AgentSSH

from nemodeploy.adapters.ssh_settings import SshSettings
from nemodeploy.adapters.terminal import Ask

AGENT_WITHIN_S = 20.0
_opened: dict[Path, paramiko.PKey] = {}  # a passphrase is asked for once, and not when a connection is made again


class Authentication:
    """Keys in ssh's own order, then whatever else the server wants and a person can say. Never the same twice."""

    def __init__(self, settings: SshSettings, ask: Ask | None) -> None:
        """`ask`: who can be asked; None: nobody."""
        self.settings, self.ask = settings, ask
        self.tried: list[str] = []
        self.locked: list[str] = []
        self.wants_person = False

    @property
    def beside(self) -> str:
        """What kept other keys from being tried."""
        return f"; without its passphrase: {', '.join(self.locked)}" if self.locked else ""

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Log in. Raises paramiko's AuthenticationException."""
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
        if path in _opened:
            return _opened[path]
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
            _opened[path] = paramiko.PKey.from_path(path, word.encode())  # type: ignore[arg-type] # it wants bytes
            return _opened[path]
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
        connection.settimeout(AGENT_WITHIN_S)
        if path:
            with contextlib.suppress(OSError, paramiko.SSHException):
                connection.connect(path)
                keys = _Agent(connection).get_keys()
        yield keys


def _public(path: Path) -> bytes:
    """The public half that lies beside a key, or is given instead of it, as the agent names it; empty: none."""
    for file in (Path(f"{path}.pub"), path):
        with contextlib.suppress(OSError, ValueError, IndexError):
            kind, blob, *_ = file.read_text().split(None, 2)
            if kind.startswith(("ssh-", "ecdsa-", "sk-")):
                return base64.b64decode(blob)
    return b""


def tilde(path: Path) -> str:
    """A path as people write it."""
    home = str(Path.home())
    return str(path).replace(home, "~", 1) if str(path).startswith(home) else str(path)
