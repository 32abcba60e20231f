"""A forwarded port: bytes, their end, many at once, and who is in the way."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemodeploy.adapters.forwarding import Forwarder, listen
from nemodeploy.errors import BadInput, ClusterUnreachable


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it was sent, once all of it has come, and then its end."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            whole = b"".join(iter(lambda: connection.recv(65536), b""))
            connection.sendall(whole[::-1])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def ask(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_bytes_and_their_end_go_both_ways_and_many_at_once(echo: int) -> None:
    forwarder = Forwarder(listen(0), lambda: socket.create_connection(("127.0.0.1", echo)))
    forwarder.start()
    answers: dict[int, bytes] = {}
    data = {number: os.urandom(200_000 + number) for number in range(20)}

    def one(number: int) -> None:
        answers[number] = ask(forwarder.listener.getsockname()[1], data[number])

    threads = [threading.Thread(target=one, args=(number,)) for number in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: sent[::-1] for number, sent in data.items()}
    port = forwarder.listener.getsockname()[1]
    forwarder.close()
    with pytest.raises(OSError, match="refused"):
        ask(port, b"late")


def test_a_server_that_cannot_be_reached_ends_the_connection_and_not_the_port(echo: int) -> None:
    there = threading.Event()

    def dial() -> socket.socket:
        if not there.is_set():
            raise ClusterUnreachable("not now")
        return socket.create_connection(("127.0.0.1", echo))

    forwarder = Forwarder(listen(0), dial)
    forwarder.start()
    with contextlib.suppress(OSError):  # reset instead of ended: as good
        assert ask(forwarder.listener.getsockname()[1], b"abc") == b""
    there.set()
    assert ask(forwarder.listener.getsockname()[1], b"abc") == b"cba"
    forwarder.close()


def test_only_this_machine_can_use_it(echo: int) -> None:
    forwarder = Forwarder(listen(0), lambda: socket.create_connection(("127.0.0.1", echo)))
    assert forwarder.listener.getsockname()[0] == "127.0.0.1"
    forwarder.close()


def test_who_has_the_port_is_named() -> None:
    said = rf"is taken by .* \(process {os.getpid()}\)"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BadInput, match=said):
        listen(taken.getsockname()[1])


def test_more_clients_than_files_end_nothing() -> None:
    def nobody() -> socket.socket:
        raise ClusterUnreachable("nobody is there")

    forwarder = Forwarder(listen(0), nobody)
    forwarder.start()
    port = forwarder.listener.getsockname()[1]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(4)]
        there = max(int(one.name) for one in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (there + 1, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        for client in clients:
            client.connect(("127.0.0.1", port))
        time.sleep(0.3)
    assert ask(port, b"") == b"", "it is taken up, and ended as its dial says"
    forwarder.close()
