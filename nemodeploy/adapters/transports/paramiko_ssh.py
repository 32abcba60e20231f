"""SSH by paramiko: one connection, one authentication, strict host keys, a deadline on everything.

Source of the traps avoided here: paramiko 5.1.0; its `recv_exit_status` knows no timeout, both streams must be
drained together, and TCP_NODELAY is off by default, which costs 44 ms a call.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import paramiko

from nemodeploy.adapters.terminal import Ask
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
from nemodeploy.adapters.transports.paramiko_login import CONNECT_WITHIN_S, Chain
from nemodeploy.core.spec import Cluster
from nemodeploy.errors import ClusterUnreachable
from nemodeploy.values import Command, Completed

# The server is asked for a sign of life so often; without one for so long the connection is dead, whatever TCP says.
KEEPALIVE_S = 15.0
DEAD_AFTER_S = 45.0
WATCH_EVERY_S = 1.0
ADMINISTRATIVELY_PROHIBITED = 1  # RFC 4254, 5.1
SHELL = remote_line()

logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


class ParamikoTransport:
    """One SSH connection to a cluster's login host."""

    def __init__(self, cluster: Cluster, ask: Ask | None = None, again: Ask | None = None) -> None:
        """Nothing is connected before the first command; `ask`: who can be asked for a code, `again`: the same when a
        connection has been lost, while others wait for the new one."""
        self.cluster, self.ask, self.again = cluster, ask, again
        self._hosts = list(cluster.ssh.hosts)
        self._connection: _Connection | None = None
        self._connecting, self._dropping = threading.Lock(), threading.Lock()

    def open(self) -> None:
        """Connect and authenticate now."""
        self._connected()

    def run(self, command: Command) -> Completed:
        """Feed the text to `sh` on its standard input and collect both streams."""
        connection, channel = self._start(command.script)
        deadline = time.monotonic() + command.deadline_s
        streams: tuple[list[bytes], list[bytes]] = ([], [])
        try:
            while not self._drain(channel, streams):
                left = deadline - time.monotonic()
                if left <= 0 or connection.pulse.is_dead:
                    self._drop(connection)  # the next call must not meet a dead connection
                    if left <= 0:
                        raise late(self._name, command)
                    raise ClusterUnreachable(f"{self._name} has been silent for {DEAD_AFTER_S:.0f} s")
                select.select([channel], [], [], min(left, 1.0))
            if not channel.status_event.wait(max(0.0, deadline - time.monotonic())) or channel.exit_status < 0:
                self._drop(connection)
                raise ClusterUnreachable(f"the connection to {self._name} broke before the answer was complete")
            cut = _size(streams[0]) >= OUTPUT_CAP
            return Completed(status=channel.exit_status, stdout=_text(streams[0]), stderr=_text(streams[1]), is_cut=cut)
        finally:
            _close(channel)

    def tunnel(self, host: str, port: int) -> socket.socket:
        """A direct-tcpip channel, which has what a socket has; where the site forbids forwarding, a command on the
        login host that passes bytes on. Raises ForwardingRefused where neither is possible."""
        connection = self._connected()
        try:
            channel = connection.transport.open_channel(
                "direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=CONNECT_WITHIN_S
            )
        except paramiko.ChannelException as error:
            if error.code == ADMINISTRATIVELY_PROHIBITED:
                return self._relay(host, port)
            raise ClusterUnreachable(f"{self._name} cannot reach {host}:{port}: {error}") from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            if not connection.transport.is_active():
                self._drop(connection)  # the next call must not meet a dead connection
            raise ClusterUnreachable(f"{self._name} cannot reach {host}:{port}: {error}") from error
        return channel  # type: ignore[return-value]

    def _relay(self, host: str, port: int) -> socket.socket:
        """Through a command on the login host."""
        mark, command = relay(host, port)
        _, channel = self._exec(command)
        channel.settimeout(CONNECT_WITHIN_S)
        try:
            if is_marked(channel, mark):  # type: ignore[arg-type] # it has what a socket has
                return channel  # type: ignore[return-value]
            no_bash = channel.recv_exit_status() in NO_BASH
        except (paramiko.SSHException, OSError, EOFError) as error:
            _close(channel)
            raise ClusterUnreachable(f"{self._name} cannot reach {host}:{port}: {error}") from error
        raise no_way(self._name, host, port, no_bash=no_bash)

    def close(self) -> None:
        """End the connection."""
        if connection := self._connection:
            self._drop(connection)

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"cluster {self.cluster.name}"

    def _drop(self, connection: _Connection) -> None:
        """End this one; one that another thread has made since stays."""
        with self._dropping:
            if self._connection is connection:
                self._connection = None
        connection.chain.close()

    def _start(self, script: str) -> tuple[_Connection, paramiko.Channel]:
        connection, channel = self._exec(SHELL)
        try:
            channel.sendall(script.encode())
            channel.shutdown_write()
            return connection, channel
        except (paramiko.SSHException, OSError, EOFError) as error:
            self._drop(connection)
            raise ClusterUnreachable(f"the connection to {self._name} broke: {error}") from error

    def _exec(self, command: str) -> tuple[_Connection, paramiko.Channel]:
        """A channel on which a command has been started, and the connection that it belongs to."""
        connection = self._connected()
        try:
            channel = _session(connection.transport)
            channel.settimeout(CONNECT_WITHIN_S)
            with connection.pulse.within(CONNECT_WITHIN_S):  # exec_command itself waits for ever
                channel.exec_command(command)
            return connection, channel
        except (paramiko.SSHException, OSError, EOFError) as error:
            self._drop(connection)
            raise ClusterUnreachable(f"the connection to {self._name} broke: {error}") from error

    def _drain(self, channel: paramiko.Channel, streams: tuple[list[bytes], list[bytes]]) -> bool:
        """Take what has come on both streams. True when both have ended."""
        ended = bool(channel.eof_received or channel.closed)
        while channel.recv_ready():
            _keep(streams[0], channel.recv(65536))
        while channel.recv_stderr_ready():
            _keep(streams[1], channel.recv_stderr(65536))
        return ended

    def _connected(self) -> _Connection:
        with self._connecting:  # a tunnel is used by many threads
            if connection := self._connection:
                return connection
            made, self._hosts = first_reachable(self._hosts, self._connect)
            self._connection, self.ask = made, self.again
            return made

    def _connect(self, host: str) -> _Connection:
        chain = Chain(self.cluster, self.ask)
        transport = chain.connect(host).get_transport()
        assert transport is not None
        return _Connection(chain=chain, transport=transport, pulse=_Pulse(transport))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Connection:
    """One way to a login host, which is closed as this one and no other."""

    chain: Chain
    transport: paramiko.Transport
    pulse: _Pulse


class _Pulse:
    """Asks the server for a sign of life for as long as a connection stands, and ends one on which an answer has not
    come in time, in threads of its own: a timer for each call would cost as much as a fortieth of it."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self.transport, self.heard = transport, time.monotonic()
        self._deadlines: dict[object, float] = {}
        for work in (self._beat, self._watch):
            threading.Thread(target=work, args=(transport,), daemon=True).start()

    @property
    def is_dead(self) -> bool:
        return time.monotonic() - self.heard > DEAD_AFTER_S

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """What is done in the block ends in time, or the connection does."""
        this = object()
        self._deadlines[this] = time.monotonic() + seconds
        try:
            yield
        finally:
            del self._deadlines[this]

    def _watch(self, transport: paramiko.Transport) -> None:
        while transport.is_active():
            now = time.monotonic()
            if any(deadline < now for deadline in tuple(self._deadlines.values())):
                transport.close()
            time.sleep(WATCH_EVERY_S)

    def _beat(self, transport: paramiko.Transport) -> None:
        while transport.is_active():
            with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
                transport.global_request("keepalive@openssh.com", wait=True)  # yes and no are both an answer
                if transport.is_active():
                    self.heard = time.monotonic()
            time.sleep(KEEPALIVE_S)


def _session(transport: paramiko.Transport) -> paramiko.Channel:
    """A session; where the server allows few, the last one may not have ended there yet."""
    deadline = time.monotonic() + FULL_WITHIN_S
    while True:
        try:
            return transport.open_session(timeout=CONNECT_WITHIN_S)
        except paramiko.ChannelException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _close(channel: paramiko.Channel) -> None:
    """Closing says so to the other side, which fails when there is none any more."""
    with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
        channel.close()


def _keep(parts: list[bytes], chunk: bytes) -> None:
    if _size(parts) < OUTPUT_CAP:
        parts.append(chunk)


def _size(parts: list[bytes]) -> int:
    return sum(map(len, parts))


def _text(parts: list[bytes]) -> str:
    whole = b"".join(parts)
    parts.clear()
    return str(memoryview(whole)[:OUTPUT_CAP], "utf-8", "replace")
