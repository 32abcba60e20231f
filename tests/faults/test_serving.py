"""Rows F17, F21 and F34 to F39 of the fault matrix: what a controller may say, and what a server may do."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.faults.rig import Rig
from tests.faults.test_submitting import up

pytestmark = [pytest.mark.sandbox, pytest.mark.long]

# A server of the kind that the demo's engine starts. What it does is in the file `mode` beside it, at each request.
SERVER = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

words = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
port = int(words.get("port") or sys.argv[sys.argv.index("--port") + 1])
mode = lambda: (Path(__file__).with_name("mode").read_text().split() + ["ok"])[0]

class Handler(BaseHTTPRequestHandler):
    def send(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if mode() == "slow":
            time.sleep(4)
        self.send(200, {"status": "ok"})

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        now, model = mode(), words["alias"]
        if now == "hang":
            time.sleep(3600)
        if now == "broken":
            return self.send(500, {"error": {"message": "An error occurred"}})
        if now == "error-200":
            return self.send(200, {"error": "the engine is not well"})
        text = "" if now == "empty" else " Paris."
        answer = {"model": "another" if now == "wrong" else model, "choices": [{"text": text, "index": 0}]}
        return self.send(200, answer)

    def log_message(self, *words):
        pass

print("llama: loading model", flush=True)
while mode() == "stall":
    time.sleep(0.2)
ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
"""


class Server:
    """The controllable server, and the cluster file that starts it."""

    def __init__(self, rig: Rig, mode: str) -> None:
        self.directory = rig.sandbox.place.shared / "controllable"
        self.directory.mkdir(exist_ok=True)
        (self.directory / "server.py").write_text(SERVER)
        program = [sys.executable, str(self.directory / "server.py")]
        self.cluster = rig.site.cluster("controllable", programs={"llamacpp": program})
        self.does(mode)

    def does(self, mode: str) -> None:
        (self.directory / "mode").write_text(mode)


NO_TEXT = "the server gave no text"


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("hang", (r"no answer within 10 s of start-up: it accepts requests and has not answered one in \d+ s",)),
        ("wrong", ("no answer within 6 s of start-up, last ", NO_TEXT)),
        ("empty", ("it answers, but only an empty text: check the prompt's template and stop strings", NO_TEXT)),
        ("error-200", ("no answer within 6 s of start-up, last ", NO_TEXT)),
        ("broken", ("no answer within 6 s of start-up, last ", NO_TEXT)),
        ("stall", ("no answer within 6 s of start-up, last loading weights",)),
    ],
)
def test_f34_f35_f38_whatever_is_no_answer_of_this_model_is_not_ready_and_32(
    rig: Rig, tmp_path: Path, mode: str, says: tuple[str, ...]
) -> None:
    server, report = Server(rig, mode), tmp_path / "report.json"
    within = "10s" if mode == "hang" else "6s"  # a question that waits is told of after 5 s
    words = ("--profile", "cpu", "--cluster", server.cluster, "--startup-timeout", within, "--report", str(report))
    done = rig.site.run("run", *words, "--", "true")
    text = done.stderr
    assert (done.returncode, "Traceback" in text) == (32, False), text
    assert all(re.search(one, text) for one in says), text
    assert (NO_TEXT in text, "ready" in text.replace("already", "")) == (NO_TEXT in says, False), text
    assert rig.alive() == []
    told = json.loads(report.read_text())
    assert (told["exit_code"], told["token"].startswith("nd-"), told["job_id"].isdigit()) == (32, True, True)


@pytest.mark.minutes
@pytest.mark.parametrize("mode", ["broken", "error-200", "wrong"])
def test_f34_a_server_that_goes_wrong_is_degraded_and_comes_back(rig: Rig, mode: str) -> None:
    server = Server(rig, "ok")
    document = up(rig, "--cluster", server.cluster)
    server.does(mode)
    degraded = rig.site.wait_for("DEGRADED", 90)  # it is asked once a minute
    assert (degraded["endpoint"], degraded["reason"]) == (None, "the server does not answer")
    server.does("ok")
    assert rig.site.wait_for("READY", 30)["token"] == document["token"]


def test_f37_a_slow_load_that_makes_progress_is_not_cut_short(rig: Rig) -> None:
    slow = rig.site.cluster("slow", env={"STAND_IN_LOAD_SECONDS": "25"})
    words = ("--profile", "h100x1", "--cluster", slow, "--startup-timeout", "8s")
    done = rig.site.run("up", *words)
    assert done.returncode == 0, done.stderr


def test_f39_a_health_route_that_takes_its_time_changes_nothing(rig: Rig) -> None:
    server = Server(rig, "ok")
    document = up(rig, "--cluster", server.cluster)
    server.does("slow")
    for _ in range(8):
        assert rig.status()["state"] == "READY"
        time.sleep(4)
    events = (rig.directory(str(document["token"])) / "current/events.jsonl").read_text().splitlines()
    assert [json.loads(line)["phase"] for line in events].count("degraded") == 0


def test_f17_a_controller_that_stalls_changes_nothing(rig: Rig) -> None:
    document = up(rig)
    rig.sandbox.signal_daemon("slurmctld", signal.SIGSTOP)
    try:
        begun = time.monotonic()
        seen = rig.status()
        assert (seen["state"], seen["token"]) == ("UNKNOWN", document["token"])
        assert time.monotonic() - begun < 60
    finally:
        rig.sandbox.signal_daemon("slurmctld", signal.SIGCONT)
    assert rig.site.wait_for("READY", 30)["token"] == document["token"]
    assert rig.jobs()[str(document["token"])] == 1


def test_f21_a_state_that_nobody_knows_is_alive(rig: Rig) -> None:
    document = up(rig)
    rig.shim("squeue", """"$real" "$@" | sed 's/RUNNING /FOO     /'""")
    seen = rig.status()
    assert (seen["state"], seen["reason"]) == ("UNKNOWN", "Slurm says FOO")
    waiting = rig.site.start("wait", "tiny", "--for", "ended")
    time.sleep(3)
    assert waiting.poll() is None
    waiting.send_signal(signal.SIGINT)
    waiting.communicate(timeout=20)
    rig.unshim()
    assert rig.status()["token"] == document["token"]
