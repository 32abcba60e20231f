"""What the gateway costs, and what it gives: against a bare echo of the same stack, direct access, and no batching.

The server behind is NeMo's protocol with a fixed cost for each call, one call at a time, so that what is measured is
ours. Compared: a bare Starlette echo under the same uvicorn; the server asked directly; the gateway before it. One
client alone for latency, 32 at the same time for throughput, alternately in one run. Then 32 clients of a server that
takes 50 ms a call: all by the gateway against all directly. Memory is the resident set of a process that holds the
gateway alone, after the load.
"""

from __future__ import annotations

import http.client
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from common import Bench, arguments

CLIENTS, COST_S = 32, 0.05
PLAN = {
    "engine": "nemo-eval",
    "served": "m",
    "serving": {"max_length": 4096, "max_batch": 32},
    "prompting": {"template": "{prompt}", "turn": "{prompt}", "stop": [], "probe": "p"},
}
ECHO = """
import sys, socket, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from nemodeploy.adapters.forwarding import listen
async def echo(request):
    return Response(await request.body(), media_type="application/json")
listener = listen(0)
print(listener.getsockname()[1], flush=True)
app = Starlette(routes=[Route("/v1/completions", echo, methods=["POST"])])
uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")).run(sockets=[listener])
"""
GATEWAY = """
import json, socket, sys, time
from nemodeploy.adapters.clock import nonce
from nemodeploy.adapters.forwarding import listen
from nemodeploy.app.backend import Backend
from nemodeploy.app.gateway import Gateway, serve
from nemodeploy.values import Secret
plan, port = json.loads(sys.argv[1]), int(sys.argv[2])
backend = Backend(plan, lambda: socket.create_connection(("127.0.0.1", port)))
gateway = Gateway(backend, lambda: True, nonce, Secret(nonce()))
listener = listen(0)
server = serve(gateway, listener)
server.start()
print(listener.getsockname()[1], gateway.key.reveal(), flush=True)
time.sleep(3600)
"""


def server(cost_s: float) -> tuple[ThreadingHTTPServer, int]:
    """NeMo's protocol, one call at a time."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            sentences = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["sentences"]
            with lock:
                time.sleep(cost_s)
            data = json.dumps({"sentences": [f"{text} yes" for text in sentences]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 4 * CLIENTS  # all come at the same moment; beyond it they would be turned away

    made = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    return made, int(made.server_address[1])


class Asker:
    """One client with a connection of its own."""

    def __init__(self, port: int, key: str = "", *, direct: bool = False) -> None:
        """`direct`: in NeMo's own protocol."""
        body = {"model": "m", "prompt": "hello", "max_tokens": 4}
        self.method, self.path, self.body = "POST", "/v1/completions", json.dumps(body)
        if direct:
            self.method, self.path = "PUT", "/generate"
            self.body = json.dumps({"sentences": ["hello"], "tokens_to_generate": 4})
        self.headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        self.port, self.again = port, not direct
        self.connection = http.client.HTTPConnection("127.0.0.1", port)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> None:
        """One request and its answer."""
        self.connection.request(self.method, self.path, self.body, self.headers)
        answer = self.connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise RuntimeError(data.decode())


def latency_ms(make: Callable[[], Asker], count: int) -> float:
    """The median of one client's requests, in milliseconds."""
    asker, found = make(), []
    for _ in range(count):
        begun = time.perf_counter()
        asker.ask()
        found.append(time.perf_counter() - begun)
    return statistics.median(found) * 1000


def together_s(make: Callable[[], Asker], each: int) -> float:
    """32 clients, so many requests each: the seconds until the last has its answer."""

    def one(_: int) -> None:
        asker = make()
        for _ in range(each):
            asker.ask()

    begun = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(one, range(CLIENTS)))
    return time.perf_counter() - begun


def started(*words: str) -> tuple[subprocess.Popen[str], list[str]]:
    """A Python process, and the first line it says."""
    process = subprocess.Popen([sys.executable, "-c", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split()


def resident_mb(process: subprocess.Popen[str]) -> float:
    """The resident set, in MB of 10^6 bytes."""
    line = next(row for row in Path(f"/proc/{process.pid}/status").read_text().splitlines() if row.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> int:
    """Latency, throughput, batching, memory."""
    options = arguments(__doc__ or "")
    rounds, count, each = (3, 100, 10) if options.quick else (7, 300, 30)
    report = Bench("gateway", quick=options.quick, counts={"rounds": rounds, "requests": count, "clients": CLIENTS})
    quick, quick_port = server(0.0)
    slow, slow_port = server(COST_S)
    echo, (echo_port,) = started(ECHO)
    gateway, (port, key) = started(GATEWAY, json.dumps(PLAN), str(quick_port))
    batching, (batching_port, batching_key) = started(GATEWAY, json.dumps(PLAN), str(slow_port))
    try:
        ways: dict[str, Callable[[], Asker]] = {
            "echo": lambda: Asker(int(echo_port)),
            "direct": lambda: Asker(quick_port, direct=True),
            "gateway": lambda: Asker(int(port), key),
        }
        alone: dict[str, list[float]] = {name: [] for name in ways}
        crowd: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, make in ways.items():
                alone[name].append(latency_ms(make, count))
            for name in ("echo", "gateway"):
                crowd[name].append(CLIENTS * each / together_s(ways[name], each))
        directly = together_s(lambda: Asker(slow_port, direct=True), 1)
        batched = together_s(lambda: Asker(int(batching_port), batching_key), 1)
        memory = resident_mb(gateway)
    finally:
        for process in (echo, gateway, batching):
            process.terminate()
        for one in (quick, slow):
            one.shutdown()
    median = {name: statistics.median(found) for name, found in alone.items()}
    rates = {name: statistics.median(found) for name, found in crowd.items() if found}
    added = median["gateway"] - median["direct"]
    report.figure("echo_ms", round(median["echo"], 2), "ms a request, bare echo, one client")
    report.figure("direct_ms", round(median["direct"], 2), "ms, the server directly")
    report.figure("gateway_ms", round(median["gateway"], 2), "ms, through the gateway")
    report.figure("added_ratio", round(added / median["echo"], 2), "what it adds, in echoes")
    report.figure("echo_per_s", round(rates["echo"]), f"requests a second, bare echo, {CLIENTS} clients")
    report.figure("gateway_per_s", round(rates["gateway"]), "requests a second, through the gateway")
    report.figure("rate_ratio", round(rates["gateway"] / rates["echo"], 2), "of the echo's")
    report.figure("direct_s", round(directly, 2), f"s for {CLIENTS} clients, {COST_S * 1000:.0f} ms a call, directly")
    report.figure("batched_s", round(batched, 2), "s, through the gateway")
    report.figure("batching_ratio", round(directly / batched, 1), "times as fast")
    report.figure("memory_mb", round(memory, 1), "MB the gateway's process takes (RSS)")
    report.goal("it adds at most 1.5 echoes to one client's request", added <= 1.5 * median["echo"])
    report.goal("at least 0.7 of the echo's throughput at 32 clients", rates["gateway"] >= 0.7 * rates["echo"])
    report.goal("batching is at least 4 times as fast", directly >= 4 * batched)
    report.goal("at most 80 MB", memory <= 80)
    return report.print(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
