"""HTTP through a tunnel: the whole body arrives, however the server ends the connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nemodeploy.adapters.http import exchange
from nemodeploy.adapters.transports.base import Transport
from nemodeploy.values import HttpRequest

pytestmark = pytest.mark.sandbox

SERVER = """
import http.server
class H(http.server.BaseHTTPRequestHandler):
    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        if self.path == "/length":
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
