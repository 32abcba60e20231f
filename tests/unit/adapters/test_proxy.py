"""A proxy before a small HTTP server: who is let in, and what goes through, piece by piece."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nemodeploy.adapters.forwarding import listen
from nemodeploy.adapters.proxy import HEAD_BYTES, Proxy
from nemodeploy.errors import ClusterUnreachable
from nemodeploy.values import Secret
from tests.unit.held import held, nothing_more_than

KEY = {"Authorization": "Bearer the key"}
LARGE = os.urandom(300_000)


class Handler(BaseHTTPRequestHandler):
    """Answers as the path says."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, ValueError):  # a client that leaves in the middle of a chunk
            super().handle()

    def do_GET(self) -> None:
        self.server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        getattr(self, f"at_{self.path[1:]}", self.at_echo)()

    do_POST = do_HEAD = do_PUT = do_GET

    def at_echo(self) -> None:
        length = self.headers["Content-Length"]
        body = self.rfile.read(int(length)) if length else self.chunks()
        self.say(body[::-1] or b"hello")

    def handle_expect_100(self) -> bool:
        return self.path == "/full" or super().handle_expect_100()

    def chunks(self) -> bytes:
        found = b""
        while self.headers["Transfer-Encoding"] and (size := int(self.rfile.readline(), 16)):
            found += self.rfile.read(size)
            self.rfile.readline()
        return found

    def say(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Own", "kept")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def at_stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while piece := self.server.more.get():
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def at_old(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nall until the end")

    def at_none(self) -> None:
        self.send_response(204)
        self.end_headers()

    def at_cut(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all")

    def at_gone(self) -> None:
        self.close_connection = True

    def at_once(self) -> None:
        self.say(b"and then it closes the connection")
        self.close_connection = True

    def at_both(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.wfile.write(b"3\r\nabc\r\n0\r\n\r\n")

    def at_junk(self) -> None:
        self.close_connection = True
        self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")

    def at_full(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")

    def at_wait(self) -> None:
        while self.connection.recv(1024):
            pass
        self.server.left.set()

    def log_message(self, *words: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Remembers what it was sent; `more` are the pieces of a stream, the last one empty."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.more: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.left = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def dial(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server_port))


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.more.put(b"")
    one.shutdown()
    one.server_close()


@pytest.fixture
def proxied() -> Iterator[Callable[[Callable[[], socket.socket]], int]]:
    with contextlib.ExitStack() as stack:

        def make(dial: Callable[[], socket.socket]) -> int:
            proxy = Proxy(listen(0), dial, Secret("the key"))
            stack.callback(proxy.close)
            proxy.start()
            return int(proxy.listener.getsockname()[1])

        yield make


@pytest.fixture
def port(server: Server, proxied: Callable[[Callable[[], socket.socket]], int]) -> int:
    return proxied(server.dial)


@pytest.fixture
def client(port: int) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as one:
        yield one


def ask(client: http.client.HTTPConnection, path: str = "/echo", **more: str) -> tuple[int, bytes]:
    client.request("GET", path, headers={**KEY, **more})
    answer = client.getresponse()
    return answer.status, answer.read()


def told(port: int, *pieces: bytes) -> bytes:
    """All that comes back after bytes that are not from any library."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def refused(answer: tuple[int, bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[1])["error"]["code"]


HEAD = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer the key\r\n"
LAST = HEAD + b"Content-Length: 0\r\nConnection: close\r\n\r\n"


def test_a_request_goes_through_as_it_is_but_without_the_key(
    client: http.client.HTTPConnection, server: Server
) -> None:
    client.request("POST", "/echo?a=%20b", LARGE, {**KEY, "X-Mine": "kept", "TE": "trailers", "Connection": "te"})
    answer = client.getresponse()
    assert (answer.status, answer.getheader("X-Own"), answer.read()) == (200, "kept", LARGE[::-1])
    path, headers = server.requests[0]
    assert (path, headers["x-mine"], headers["host"]) == ("/echo?a=%20b", "kept", f"127.0.0.1:{client.port}")
    assert not {"authorization", "te", "connection"} & headers.keys()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Authorization": "Bearer another"}, (401, "invalid_api_key")),
        ({"Authorization": ""}, (401, "invalid_api_key")),
        ({"Host": "evil.example"}, (403, "foreign_host")),
        ({"Origin": "http://evil.example"}, (403, "foreign_origin")),
        ({"Origin": "null"}, (403, "foreign_origin")),
    ],
)
def test_every_request_of_a_connection_is_checked(
    client: http.client.HTTPConnection, server: Server, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    assert ask(client) == (200, b"hello")
    before = client.sock
    assert refused(ask(client, **headers)) == expected
    assert before is not None
    assert len(server.requests) == 1, "the second did not reach the server"


def test_what_is_pipelined_behind_a_good_request_is_checked_too(port: int, server: Server) -> None:
    both = HEAD + b"Content-Length: 2\r\n\r\nab" + HEAD.replace(b"the key", b"another") + b"Content-Length: 0\r\n\r\n"
    said = told(port, both)
    assert (b"\r\n\r\nba" in said, b"HTTP/1.1 401" in said, len(server.requests)) == (True, True, 1)
    good = HEAD + b"Content-Length: 1\r\n\r\na" + HEAD + b"Content-Length: 2\r\nConnection: close\r\n\r\nbc"
    said = told(port, good)
    assert said.index(b"\r\n\r\na") < said.index(b"\r\n\r\ncb")


def test_a_refusal_says_what_is_missing_in_openais_form(client: http.client.HTTPConnection) -> None:
    client.request("POST", "/echo", LARGE * 20)
    answer = client.getresponse()
    assert (answer.status, answer.getheader("WWW-Authenticate")) == (401, "Bearer")
    error = json.loads(answer.read())["error"]
    assert (error["type"], "OPENAI_API_KEY" in error["message"]) == ("invalid_request_error", True)
    client.request("HEAD", "/echo")
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (401, b"")


def test_one_stream_to_the_server_carries_the_requests_of_one_client(
    server: Server, proxied: Callable[[Callable[[], socket.socket]], int]
) -> None:
    streams: list[socket.socket] = []

    def dial() -> socket.socket:
        streams.append(server.dial())
        return streams[-1]

    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxied(dial), timeout=20)) as client:
        for _ in range(3):
            assert ask(client) == (200, b"hello")
        assert len(streams) == 1
        near = client.sock
        streams[0].shutdown(socket.SHUT_RDWR)  # the server closes a stream that nobody used for long
        assert ask(client) == (200, b"hello")
        assert ask(client, "/once")[1].startswith(b"and then")
        assert ask(client) == (200, b"hello")
        assert client.sock is near, "the client's own connection is kept"
        assert len(streams) == 3


def test_a_stream_that_carries_no_other_request_is_given_up_at_once(
    server: Server, proxied: Callable[[Callable[[], socket.socket]], int]
) -> None:
    shut = threading.Event()

    class Stream(socket.socket):
        def shutdown(self, how: int) -> None:
            shut.set()
            super().shutdown(how)

    def dial() -> socket.socket:
        stream = Stream()
        stream.connect(("127.0.0.1", server.server_port))
        return stream

    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxied(dial), timeout=20)) as client:
        assert ask(client)[0] == 200
        assert not shut.is_set()
        assert ask(client, "/old")[0] == 200
        assert shut.wait(10)


def test_pieces_of_an_answer_come_before_it_has_ended(client: http.client.HTTPConnection, server: Server) -> None:
    client.request("GET", "/stream", headers=KEY)
    for piece in (b"data: 1\n\n", b"data: 2\n\n"):
        server.more.put(piece)
        if piece == b"data: 1\n\n":
            answer = client.getresponse()
        assert answer.read1() == piece
    server.more.put(b"")
    assert answer.read() == b""
    assert ask(client) == (200, b"hello")


def test_pieces_of_a_request_go_through_and_the_server_sees_their_end(client: http.client.HTTPConnection) -> None:
    client.request("POST", "/echo", iter([b"one", b"two", b"three"]), KEY, encode_chunked=True)
    assert client.getresponse().read() == b"onetwothree"[::-1]


def test_a_client_that_waits_to_be_told_to_go_on_is_told(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(HEAD + b"Content-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"abc")
        assert b"".join(iter(lambda: connection.recv(1024), b"")).endswith(b"\r\n\r\ncba")


def test_a_client_that_was_not_told_to_go_on_is_told_that_the_connection_ends(port: int) -> None:
    said = told(port, HEAD.replace(b"/echo", b"/full") + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert (said.startswith(b"HTTP/1.1 413 "), b"Connection: close" in said) == (True, True)


def test_a_length_beside_chunks_is_not_passed_on(client: http.client.HTTPConnection) -> None:
    for _ in range(2):
        assert ask(client, "/both") == (200, b"abc")


def test_answers_without_a_body_end_where_they_end(client: http.client.HTTPConnection) -> None:
    client.request("HEAD", "/echo", headers=KEY)
    answer = client.getresponse()
    assert (answer.getheader("Content-Length"), answer.read()) == ("5", b"")
    assert ask(client, "/none") == (204, b"")
    assert ask(client) == (200, b"hello")


def test_a_server_of_http_1_0_is_understood_and_the_client_keeps_its_connection(
    client: http.client.HTTPConnection,
) -> None:
    for _ in range(2):
        assert ask(client, "/old") == (200, b"all until the end")
        near = client.sock
    assert ask(client) == (200, b"hello")
    assert client.sock is near


def test_a_client_of_http_1_0_is_answered_to_the_end(port: int, server: Server) -> None:
    for piece in (b"a", b"b", b""):
        server.more.put(piece)
    said = told(port, HEAD.replace(b"1.1", b"1.0").replace(b"/echo", b"/stream") + b"Content-Length: 0\r\n\r\n")
    assert said.endswith(b"\r\n\r\nab")
    assert b"chunked" not in said
    waits = HEAD.replace(b"1.1", b"1.0") + b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\nx"
    assert told(port, waits).startswith(b"HTTP/1.1 200 "), "HTTP/1.0 knows no other answer before the answer"


def test_when_a_client_leaves_the_server_sees_the_end(client: http.client.HTTPConnection, server: Server) -> None:
    client.request("GET", "/wait", headers=KEY)
    client.close()
    assert server.left.wait(10)


def test_when_a_client_leaves_in_the_middle_of_an_answer_the_server_sees_the_end(port: int, server: Server) -> None:
    before = held()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(HEAD.replace(b"/echo", b"/stream") + b"Content-Length: 0\r\n\r\n")
        server.more.put(b"piece")
        assert b"200" in connection.recv(1024)
    server.more.put(b"late")
    server.more.put(b"")
    assert nothing_more_than(before)


@pytest.mark.parametrize("path", ["/gone", "/junk"])
def test_a_server_that_gives_no_answer_is_502(client: http.client.HTTPConnection, path: str) -> None:
    assert refused(ask(client, path)) == (502, "broken")
    assert ask(client) == (200, b"hello")


def test_an_answer_that_breaks_off_is_not_taken_for_whole(client: http.client.HTTPConnection) -> None:
    with pytest.raises(http.client.IncompleteRead):
        ask(client, "/cut")
    client.close()
    assert ask(client) == (200, b"hello")


def test_a_server_that_cannot_be_reached_is_503_and_the_port_stays(
    server: Server, proxied: Callable[[Callable[[], socket.socket]], int]
) -> None:
    there = threading.Event()

    def dial() -> socket.socket:
        if not there.is_set():
            raise ClusterUnreachable("tiny is not serving")
        return server.dial()

    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxied(dial), timeout=20)) as client:
        client.request("GET", "/echo", headers=KEY)
        answer = client.getresponse()
        assert (answer.status, answer.getheader("Retry-After")) == (503, "5")
        assert "tiny is not serving" in json.loads(answer.read())["error"]["message"]
        there.set()
        assert ask(client) == (200, b"hello")


def test_a_server_that_refuses_a_body_before_it_has_come_is_heard(client: http.client.HTTPConnection) -> None:
    client.request("POST", "/full", LARGE * 20, KEY)
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (413, b"big")


@pytest.mark.parametrize(
    ("junk", "status"),
    [
        (b"hello\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.0\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"400"),
        (HEAD + b"X: " + b"a" * 3 * HEAD_BYTES + b"\r\n\r\n", b"431"),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", b"501"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"501"),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer the key\r\n\r\n", b"501"),
    ],
    ids=[
        "junk",
        "tls",
        "no-host",
        "no-host-1.0",
        "two-hosts",
        "big-head",
        "encoding",
        "bad-chunk",
        "websocket",
        "connect",
    ],
)
def test_what_cannot_be_passed_on_is_refused_in_words(port: int, junk: bytes, status: bytes) -> None:
    head, _, body = told(port, junk).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert json.loads(body)["error"]["message"]


def test_an_offer_of_another_protocol_is_not_taken_up(port: int, server: Server) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    said = told(
        port, HEAD + offer + b"Content-Length: 2\r\n\r\nab" + HEAD + b"Upgrade: h2c\r\nContent-Length: 0\r\n\r\n" + LAST
    )
    assert (said.count(b"HTTP/1.1 200"), b"\r\n\r\nba" in said) == (3, True)
    assert not {"upgrade", "http2-settings"} & {name for _, headers in server.requests for name in headers}


def test_many_clients_at_once_are_served_and_nothing_is_left(port: int) -> None:
    before = held()
    answers: dict[int, tuple[int, bytes]] = {}

    def one(number: int) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as client:
            client.request("PUT", "/echo", LARGE[number:], KEY)
            answer = client.getresponse()
            answers[number] = answer.status, answer.read()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: (200, LARGE[number:][::-1]) for number in range(20)}
    assert nothing_more_than(before)


def test_more_clients_than_files_end_nothing(server: Server, port: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(4)]
        there = max(int(one.name) for one in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (there + 1, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        for client in clients:
            client.connect(("127.0.0.1", port))
        time.sleep(0.3)
    assert told(port, HEAD + b"Connection: close\r\nContent-Length: 1\r\n\r\nx").endswith(b"x")


def test_a_closed_proxy_takes_no_more_connections(server: Server) -> None:
    proxy = Proxy(listen(0), server.dial, Secret("the key"))
    proxy.start()
    assert proxy.listener.getsockname()[0] == "127.0.0.1"
    port = proxy.listener.getsockname()[1]
    proxy.close()
    with pytest.raises(OSError, match="refused"):
        told(port, b"late")
