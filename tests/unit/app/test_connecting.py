"""A connection that is kept: what its thread does when things fail, and what it tells a program."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from nemodeploy.app import connecting
from nemodeploy.app.connecting import Connection
from nemodeploy.errors import AuthenticationFailed, BadInput, ClusterUnreachable
from nemodeploy.values import Endpoint, Epoch, Secret, Token

PLAN = {
    "served": "m",
    "prompting": {"template": "{prompt}", "turn": "{prompt}", "stop": [], "probe": "p"},
}
TOKEN = Token.make("tiny", milliseconds=1, entropy=1)
GONE = SimpleNamespace(endpoint=None, manifest=None, exit=None)
SERVES = SimpleNamespace(
    endpoint=Endpoint(host="h", port=1, protocol="openai", model="m", epoch=Epoch("1", 0), nonce="n"),
    manifest={"x": 1},
    exit=None,
)


class Rig:
    """A connection whose clock runs ten seconds at each look."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.renewals = 0
        self.ttl: float | None = 300.0
        self.fails: Exception | None = None
        self.directory = SERVES
        seconds = itertools.count(0, 10)
        site = SimpleNamespace(
            renew=self.renew, look=lambda **_: SimpleNamespace(directory=lambda _: self.directory), transport=None
        )
        ports = SimpleNamespace(
            clock=SimpleNamespace(now=lambda: float(next(seconds))),
            reporter=SimpleNamespace(say=lambda _, text: self.said.append(text)),
            key=lambda _: Secret("the key"),
            nonce=lambda: "n",
        )
        sites: Any = site
        worlds: Any = ports
        self.site = site
        self.connection = Connection(sites, worlds, TOKEN, {"served": "m", "engine": "vllm"}, SERVES.endpoint)

    def another(self, protocol: str, engine: str, *, raw: bool = False) -> Connection:
        """The same to a server that speaks another protocol."""
        endpoint = replace(SERVES.endpoint, protocol=protocol)
        return Connection(
            self.connection.site, self.connection.ports, TOKEN, {**PLAN, "engine": engine}, endpoint, raw=raw
        )

    def renew(self, _: Token) -> float | None:
        self.renewals += 1
        if self.fails:
            raise self.fails
        return self.ttl

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(connecting, "TEND_EVERY_S", 0.005)
    rig = Rig()
    rig.connection.tend()
    yield rig
    rig.connection.close()


def test_a_renewal_that_fails_does_not_hide_the_end(rig: Rig) -> None:
    rig.until(lambda: rig.renewals > 0)
    rig.fails = ClusterUnreachable("there is no such directory")
    rig.directory = GONE
    rig.until(lambda: bool(rig.said))
    assert rig.said == ["tiny has ended: it is gone"]


def test_a_lease_that_is_given_later_is_renewed_too(rig: Rig) -> None:
    rig.ttl = None
    rig.until(lambda: rig.renewals > 3)


def test_who_is_refused_does_not_ask_again_and_says_so(rig: Rig) -> None:
    rig.fails = AuthenticationFailed("the key is not taken any more")
    rig.until(lambda: bool(rig.said))
    assert "its lease not renewed: the key is not taken any more" in rig.said[0]
    asked = rig.renewals
    time.sleep(0.1)
    assert rig.renewals == asked


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://proxy:1"}, "127.0.0.1"),
        ({"http_proxy": "http://proxy:1", "no_proxy": "a,b", "NO_PROXY": "c"}, "a,b,127.0.0.1"),
        ({"ALL_PROXY": "http://proxy:1", "NO_PROXY": "c"}, "c,127.0.0.1"),
    ],
)
def test_proxies_are_not_for_our_port(rig: Rig, environment: dict[str, str], expected: str | None) -> None:
    found = rig.connection.variables(environment)
    assert (found.get("no_proxy"), found.get("NO_PROXY")) == (expected, expected)


class Server(ThreadingHTTPServer):
    """Answers every request with 200; remembers their keys."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.keys: list[str | None] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class Answering(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        yield one
        one.shutdown()


def status(connection: Connection, path: str, **headers: str) -> int:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", connection.port, timeout=20)) as client:
        client.request("GET", path, headers=headers)
        return client.getresponse().status


@pytest.mark.parametrize(
    ("protocol", "engine", "raw"),
    [
        ("openai", "vllm", False),
        ("openai", "llamacpp", True),
        ("nemo-generate", "nemo-eval", False),
        ("nemo-generate", "nemo-eval", True),
        ("triton", "nemo-triton", True),
    ],
)
def test_every_port_wants_the_key_and_refuses_strangers(
    rig: Rig, server: Server, protocol: str, engine: str, raw: bool
) -> None:
    rig.site.transport = SimpleNamespace(tunnel=lambda *_: socket.create_connection(("127.0.0.1", server.server_port)))
    connection = rig.another(protocol, engine, raw=raw)
    connection.open(0)
    with contextlib.closing(connection):
        told = connection.variables({})
        assert told["NEMODEPLOY_API_KEY"] == "the key"
        assert told.get("OPENAI_API_KEY", "raw") == ("raw" if raw and protocol != "openai" else "the key")
        key = {"Authorization": f"Bearer {told['NEMODEPLOY_API_KEY']}"}
        assert status(connection, "/v1/models", **key) == 200
        assert status(connection, "/v1/models") == 401
        for path in ("/v1/models", "/health", "/openapi.json", "/nothing"):
            assert status(connection, path, Host="evil.example", **key) == 403
            assert status(connection, path, Origin="http://evil.example", **key) == 403
    assert set(server.keys) <= {None}, "the key does not reach the server"


def test_what_keeps_a_cluster_from_being_asked_again_says_nothing_of_what_was_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from nemodeploy.adapters import transports
    from tests.unit.core.test_decode import spec

    failing: list[Exception] = []

    class Fake:
        def open(self) -> None:
            if failing:
                raise failing[0]

    monkeypatch.setattr(transports, "choose", lambda _: ("paramiko", "it is asked for"))
    monkeypatch.setattr(transports, "TRANSPORTS", {"paramiko": lambda _: Fake()})
    chosen = transports.connect(spec().cluster)
    failing[:] = [BadInput("ssh does not accept the settings")]
    with pytest.raises(BadInput):
        chosen.open()
    failing.clear()
    chosen.open()
    for one in (BadInput("ssh does not accept the settings"), OSError(28, "No space left on device")):
        failing[:] = [one]
        with pytest.raises(ClusterUnreachable):
            chosen.open()
