"""HTTP through a tunnel: the whole body arrives, however the server ends the connection."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Callable

import pytest

from nemodeploy.adapters.forwarding import listen
from nemodeploy.adapters.http import exchange
from nemodeploy.adapters.proxy import Proxy
from nemodeploy.adapters.transports.base import Transport
from nemodeploy.values import HttpRequest, Secret

pytestmark = pytest.mark.sandbox

SERVER = """
import http.server
class H(http.server.BaseHTTPRequestHandler):
    left, came, protocol_version = 0, 0, "HTTP/1.1"
    def do_GET(self):
        H.came += self.path == "/wait"
        while self.path == "/wait" and self.connection.recv(1024): pass
        H.left += self.path == "/wait"
        self.send_response(200)
        self.send_header("Content-Length", "1")
        self.end_headers()
        self.wfile.write(str(H.came if self.path == "/came" else H.left).encode())
    def do_PUT(self):
        if self.path != "/kept":
            self.protocol_version, self.close_connection = "HTTP/1.0", True
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        if self.path in ("/length", "/kept"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), H)
print(s.server_address[1], flush=True)
import threading; threading.Timer(60, s.shutdown).start()
s.serve_forever()
"""


def test_no_body_is_lost_in_a_hundred_answers(transport: Transport, serve: Callable[[str], int]) -> None:
    port = serve(SERVER)
    for number in range(100):
        body = f"{number}" * 500
        stream = transport.tunnel("127.0.0.1", port)
        path = "/length" if number % 2 else "/close"
        request = HttpRequest(method="PUT", path=path, body=body)
        assert exchange(stream, "127.0.0.1", request, timeout_s=10) == (200, body)
        stream.close()


KEY = {"Authorization": "Bearer the key"}


def ask(client: http.client.HTTPConnection, method: str, path: str, body: str) -> str:
    client.request(method, path, body, KEY)
    return client.getresponse().read().decode()


def test_a_proxy_asks_often_over_one_stream(transport: Transport, serve: Callable[[str], int]) -> None:
    port, streams = serve(SERVER), []

    def dial() -> socket.socket:
        streams.append(transport.tunnel("127.0.0.1", port))
        return streams[-1]

    proxy = Proxy(listen(0), dial, Secret("the key"))
    proxy.start()
    with contextlib.closing(proxy):
        here = proxy.listener.getsockname()[1]
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", here, timeout=20)) as client:
            for number in range(20):
                body = f"{number}" * 50_000
                assert ask(client, "PUT", "/kept", body) == body
            assert len(streams) == 1
            for number in range(4):  # the server closes each time
                assert ask(client, "PUT", "/length" if number % 2 else "/close", "abc") == "abc"
            assert len(streams) == 4


# Kept out of CI until it is understood why about one run in fifty fails on a busy machine (see docs/reliability.md).
@pytest.mark.long
@pytest.mark.minutes
def test_a_server_behind_a_proxy_sees_that_a_client_has_left(transport: Transport, serve: Callable[[str], int]) -> None:
    port = serve(SERVER)
    proxy = Proxy(listen(0), lambda: transport.tunnel("127.0.0.1", port), Secret("the key"))
    proxy.start()
    with contextlib.closing(proxy):
        here = proxy.listener.getsockname()[1]
        leaving = http.client.HTTPConnection("127.0.0.1", here, timeout=20)
        leaving.request("GET", "/wait", headers=KEY)
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", here, timeout=20)) as client:

            def until(path: str, what: str) -> None:
                deadline = time.monotonic() + 20
                while ask(client, "GET", path, "") != "1":
                    assert time.monotonic() < deadline, what
                    time.sleep(0.05)

            until("/came", "the request does not reach the server")
            leaving.close()
            until("/left", "the server does not see that the client has left")
