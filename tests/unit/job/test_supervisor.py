"""The supervisor by itself: the rendered script of a plain host, run as it is, with small programs as its server."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nemodeploy.app.wanted import Wish, resolve

TOKEN = "nd-demo-01m7ykpr9z67k4g5wp74nrf1nm"
SERVES = """
import json, sys
from pathlib import Path
from http.server import BaseHTTPRequestHandler, HTTPServer

BODY = json.dumps({"model": "tiny", "choices": [{"text": " Paris", "index": 0, "finish_reason": "stop"}]}).encode()

class Handler(BaseHTTPRequestHandler):
    asked = {"GET": 0, "POST": 0}

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mode = Path(__file__).with_name("mode")
        self.asked[self.command] += 1
        bad = {"": False, "broken": self.command == "POST", "flap": self.asked[self.command] % 2 == 0}
        self.send_response(500 if bad[mode.read_text() if mode.exists() else ""] else 200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)
    do_GET = do_POST = answer
    def log_message(self, *words):
        pass

words = " ".join(sys.argv).replace("=", " ").split()
HTTPServer(("127.0.0.1", int(words[words.index("--port") + 1])), Handler).serve_forever()
"""


class Run:
    """A run directory, and the supervisor in it."""

    def __init__(self, path: Path, *program: str, **settings: object) -> None:
        (path / "serve.py").write_text(SERVES)
        program = tuple(word.replace("SERVE", str(path / "serve.py")) for word in program)
        cluster = path / "host.yaml"
        cluster.write_text(
            "ssh: {host: localhost}\nscheduler: none\nruntime: none\ncheckpoints: {tiny: /dev/null}\n"
            f"programs: {{llamacpp: {json.dumps(list(program))}}}\n"
        )
        flags = [("grace", 1, "test"), *((key, value, "test") for key, value in settings.items())]
        wanted = resolve(Wish(profile="cpu", name="demo", cluster=str(cluster), settings=flags), {}, needs_site=True)
        self.path = path / "run"
        self.path.mkdir()
        for name, text in wanted.bundle.files.items():
            (self.path / name).write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Run:
        with (self.path / "job.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", str(self.path / "nemo_inference.job"), str(self.path), TOKEN],
                env={"PATH": os.environ["PATH"], "HOME": str(self.path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        return self

    def wait(self, within_s: float = 30) -> int:
        assert self.process is not None
        return self.process.wait(within_s)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def read(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "current" / name).read_text())
        return found

    def until(self, holds: Callable[[], bool], within_s: float = 20) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, (self.path / "job.log").read_text()
            time.sleep(0.05)

    def until_ready(self) -> Run:
        self.until(lambda: (self.path / "current/endpoint.json").exists())
        self.until(lambda: self.read("health.json")["phase"] == "serving")  # it is written a moment later
        return self

    def until_started(self) -> Run:
        self.until(lambda: any((self.path / "epochs").glob("*/logs/*.0.log")))
        return self

    def left(self) -> str:
        """Processes that still know the run directory."""
        return subprocess.run(["pgrep", "-f", str(self.path)], capture_output=True, text=True, check=False).stdout


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    made: list[Run] = []

    def start(*program: str, **settings: object) -> Run:
        made.append(Run(tmp_path, *program, **settings))
        return made[-1]

    yield start
    for run in made:
        if run.process and run.process.poll() is None:
            run.process.kill()
            run.process.wait()


SERVER = (sys.executable, "SERVE")
SLEEPER = ("sh", "-c", "exec sleep 600")


def test_a_rank_that_was_killed_outright_followed_nobody(make: Callable[..., Run]) -> None:
    follower = """set -- "$epoch_dir"/ranks; echo 1 >"$1/1.rc"; sleep 0.3; kill -9 $$"""
    run = make("sh", "-c", follower).start()
    assert run.wait() == 137
    assert (run.read("exit.json")["rank"], run.read("exit.json")["rank_status"]) == (0, 137)


@pytest.mark.parametrize(("program", "status", "own"), [("exit 3", 3, 3), ("exit 0", 1, 0), ("kill -9 $$", 137, 137)])
def test_a_server_that_ends_unasked_is_a_failure_whatever_it_says(
    make: Callable[..., Run], program: str, status: int, own: int
) -> None:
    run = make("sh", "-c", program).start()
    assert run.wait() == status
    record = run.read("exit.json")
    assert (record["cause"], record["rank"], record["rank_status"]) == ("server_exited", 0, own)


@pytest.mark.parametrize(
    ("number", "cause"), [(signal.SIGTERM, "cancelled"), (signal.SIGINT, "cancelled"), (signal.SIGUSR1, "time_limit")]
)
def test_a_signal_withdraws_the_endpoint_and_ends_everything(
    make: Callable[..., Run], number: signal.Signals, cause: str
) -> None:
    run = make(*SERVER).start().until_ready()
    assert run.read("health.json")["phase"] == "serving"
    assert run.read("endpoint.json")["epoch"] == run.read("health.json")["epoch"]
    run.send(number)
    assert run.wait() == 0
    assert run.read("exit.json")["cause"] == cause
    assert not (run.path / "current/endpoint.json").exists()
    assert run.left() == ""


def test_a_server_that_hears_nothing_is_killed_after_the_grace(make: Callable[..., Run]) -> None:
    run = make("bash", "-c", "trap '' TERM INT USR2; while :; do sleep 1; done").start().until_started()
    time.sleep(0.5)
    run.send(signal.SIGTERM)
    assert run.wait() == 0
    assert run.read("exit.json")["cause"] == "cancelled"
    assert run.left() == ""


def test_a_second_job_of_a_token_has_nothing_to_do(make: Callable[..., Run]) -> None:
    run = make(*SLEEPER)
    (run.path / "claim").symlink_to("4711")
    assert run.start().wait() == 0
    assert "job 4711 has claimed" in (run.path / "job.log").read_text()
    assert not (run.path / "epochs").exists()


def test_what_was_revoked_before_it_began_starts_nothing(make: Callable[..., Run]) -> None:
    run = make(*SLEEPER)
    (run.path / "revoked").touch()
    assert run.start().wait() == 0
    assert not (run.path / "epochs").exists()


def test_what_is_revoked_later_ends(make: Callable[..., Run]) -> None:
    run = make(*SLEEPER).start().until_started()
    (run.path / "revoked").touch()
    assert run.wait() == 0
    assert run.read("exit.json")["cause"] == "revoked"


@pytest.mark.long
def test_a_lease_counts_by_its_content_and_not_by_its_date(make: Callable[..., Run]) -> None:
    run = make(*SLEEPER)
    lease = run.path / "lease"
    lease.write_text("2 a\n")
    run.start().until_started()
    for number in range(4):
        time.sleep(1)
        lease.write_text(f"2 {number}\n")
        os.utime(lease, (1, 1))
    assert run.process is not None
    assert run.process.poll() is None, "it is renewed, whatever its date says"
    for _ in range(8):
        time.sleep(0.5)
        os.utime(lease)  # touched, and not renewed
    assert run.wait() == 0
    assert run.read("exit.json")["cause"] == "lease_expired"


@pytest.mark.long
def test_a_lease_that_is_dropped_or_no_number_ends_nothing(make: Callable[..., Run]) -> None:
    run = make(*SLEEPER)
    lease = run.path / "lease"
    lease.write_text("1 a\n")
    run.start().until_started()
    lease.unlink()
    time.sleep(2.5)
    lease.write_text("soon\n")
    time.sleep(2.5)
    assert run.process is not None
    assert run.process.poll() is None


def test_a_taken_port_ends_it_before_anything_is_started(make: Callable[..., Run]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = make(*SLEEPER, port=taken.getsockname()[1]).start()
        assert run.wait() == 1
    assert run.read("exit.json")["cause"] == "port_in_use"
    assert list((run.path / "current/logs").iterdir()) == []


def test_a_script_that_shows_late_is_waited_for(make: Callable[..., Run]) -> None:
    run = make(*SERVER)
    script = run.path / "nemo_inference.sh"
    script.rename(run.path / "late")
    run.start()
    time.sleep(1.5)
    (run.path / "late").rename(script)
    run.until_ready()


def phases(run: Run) -> list[str]:
    lines = (run.path / "current/events.jsonl").read_text().splitlines()
    return [json.loads(line)["phase"] for line in lines]


def impatient(run: Run) -> Run:
    """It looks around every tenth of a second, asks for a generation every second, and for health twice as often."""
    script = run.path / "nemo_inference.job"
    text = script.read_text().replace("ask_again_s=60", "ask_again_s=1")
    script.write_text(
        re.sub(r"cheap_due=\$\(\(now \+ (1000|500)\)\)", "cheap_due=$((now + 50))", text).replace(
            "pause 2\n", "pause 0.1\n"
        )
    )
    return run


def test_f39_a_server_that_fails_every_other_time_stays_ready(make: Callable[..., Run], tmp_path: Path) -> None:
    run = impatient(make(*SERVER)).start().until_ready()
    (tmp_path / "mode").write_text("flap")
    time.sleep(14)
    assert run.read("health.json")["phase"] == "serving"
    assert "degraded" not in phases(run)


def test_three_failures_in_a_row_are_degraded_and_three_good_answers_take_it_back(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    run = impatient(make(*SERVER)).start().until_ready()
    (tmp_path / "mode").write_text("broken")
    run.until(lambda: run.read("health.json")["phase"] == "degraded")
    (tmp_path / "mode").write_text("")
    begun = time.monotonic()
    run.until(lambda: run.read("health.json")["phase"] == "serving")
    assert time.monotonic() - begun > 3, "one good answer is not enough: they are two seconds apart"
    assert [phase for phase in phases(run) if phase in ("serving", "degraded")] == ["serving", "degraded", "serving"]
