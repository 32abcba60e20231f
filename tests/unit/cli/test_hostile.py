"""A hostile run directory, queue, log and server, seen through the commands: nothing of them reaches a terminal or a
CI system but text."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nemodeploy.cli.main import run
from nemodeploy.cli.words import CI_LOGS
from tests.unit.app import test_site
from tests.unit.app.test_site import CANCELLED, FORGOTTEN, Login, accepted
from tests.unit.core.test_foreign import is_forbidden, obeyed

login = test_site.login
EVIL = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202e \ud800[link=x]y[/link]\n::error::evil\n ##[error]evil ##vso[task.x]"
LINE = EVIL.replace("\n", " ").replace("\ud800", "")  # what a file of Slurm's or a log can hold in one line


class Hostile:
    """A deployment named demo, and the commands that look at it. Its server answers `answer`."""

    def __init__(self, login: Login, port: int, capfd: pytest.CaptureFixture[str]) -> None:
        self.login, self.port, self.capfd = login, port, capfd
        self.token = accepted(login)
        self.directory = login.shared / "deployments/demo" / str(self.token)
        manifest = json.loads((self.directory / "manifest.json").read_text())
        manifest["owner"] = EVIL
        manifest["plan"] |= {"model": EVIL, "profile": EVIL, "notices": [EVIL, EVIL]}
        manifest["plan"]["layout"] |= {"tensor_parallel": EVIL}
        self.plan: dict[str, Any] = manifest["plan"]
        self.write("manifest.json", json.dumps(manifest))

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def epoch(self, phase: str, **health: object) -> None:
        """A run that has begun, with a log."""
        row = {"epoch": "77.0", "phase": phase, "elapsed_s": 9, "ranks_joined": 16, "ranks": 16, **health}
        self.write("epochs/77.0/health.json", json.dumps({"said": EVIL, "generated": phase == "serving", **row}))
        self.write("epochs/77.0/logs/a.0.log", f"loading\r{LINE}\nRuntimeError: {LINE}\n")
        event = {"at": 1000, "elapsed_s": 1, "phase": EVIL, "cause": EVIL}
        self.write("epochs/77.0/events.jsonl", json.dumps(event) + "\n")
        if not (self.directory / "current").is_symlink():
            (self.directory / "current").symlink_to("epochs/77.0")
        self.login.row("77", "RUNNING", self.token)

    def serve(self, answer: str) -> None:
        """It is READY, and has answered the job's own question."""
        self.epoch("serving")
        end = {"epoch": "77.0", "host": "127.0.0.1", "port": self.port, "protocol": EVIL, "model": self.plan["served"]}
        self.write("epochs/77.0/endpoint.json", json.dumps({**end, "nonce": "n", "generation_ms": 5}))
        asked = self.plan["prompting"]["template"].replace("{prompt}", self.plan["prompting"]["probe"])
        asked = asked.replace("{system}", self.plan["prompting"]["system"])
        self.write("epochs/77.0/probe.body", "200\n" + json.dumps({"sentences": [asked + answer]}))

    def run(self, *words: str, code: int = 0) -> str:
        """What a command shows, on both streams; the marks of the hostile text are in it, as text."""
        self.capfd.readouterr()
        cluster = ("--cluster", str(self.login.path / "here.yaml"))
        assert run([*words, *cluster], as_json="--json" in words) == code, self.capfd.readouterr().err
        out, err = self.capfd.readouterr()
        assert [ascii(sign) for sign in out + err if is_forbidden(sign)] == []
        return out + err


@pytest.fixture
def answer() -> list[str]:
    """What the server says."""
    return [f"yes {EVIL}"]


@pytest.fixture
def port(answer: list[str]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["sentences"]
            data = json.dumps({"sentences": [one + answer[0] for one in asked]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def hostile(
    login: Login, port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Hostile:
    for name in (*CI_LOGS, "CI"):
        monkeypatch.delenv(name, raising=False)
    for kind in ("STATE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / kind))
    return Hostile(login, port, capfd)


def queued(hostile: Hostile) -> str:
    hostile.login.row("77", "PENDING", hostile.token, LINE)
    return hostile.run("status")


def starting(hostile: Hostile) -> str:
    hostile.epoch(f"loading {EVIL}")
    return hostile.run("status") + hostile.run("status", "demo")


def ready(hostile: Hostile) -> str:
    hostile.serve(EVIL)
    return hostile.run("status") + hostile.run("status", "demo")


def logs(hostile: Hostile) -> str:
    hostile.epoch("loading")
    return hostile.run("logs", "demo")


def up(hostile: Hostile) -> str:
    hostile.serve(f"yes {EVIL}")
    said = hostile.run("up", "--profile", "h100x16", "--name", "demo")
    assert 'answered "yes' in said
    return said


def generate(hostile: Hostile) -> str:
    hostile.serve("yes")
    return hostile.run("generate", "demo", "hi")


def ended(hostile: Hostile) -> str:
    hostile.epoch("loading")
    hostile.write("epochs/77.0/exit.json", json.dumps({"epoch": "77.0", "cause": EVIL, "status": 1, "rank": 0}))
    hostile.login.row("77", "FAILED", hostile.token)
    return hostile.run("status", "demo") + hostile.run("wait", "demo", code=30)


def reap(hostile: Hostile) -> str:
    hostile.login.row("77", LINE, hostile.token)
    return hostile.run("reap", "--owner", EVIL.replace("\ud800", "\ufffd"))


def down(hostile: Hostile) -> str:
    hostile.login.row("77", "PENDING", hostile.token, LINE)
    path = hostile.login.path
    after = f'case "$*" in *--jobs*) {FORGOTTEN} ;; esac'
    squeue = f"if [ -e {path}/cancelled ]; then {after}; else cat {path}/row; fi"
    hostile.login.slurm(squeue=squeue, scancel=f"touch {path}/cancelled", sacct=CANCELLED)
    return hostile.run("down", "demo")


def refused(hostile: Hostile) -> str:
    said = f"printf '%s\n' 'sbatch: error: {LINE}' 'sbatch: error: Invalid qos specification' >&2; exit 1"
    hostile.login.slurm(sbatch=f'case "$*" in *--test-only*) ;; *) {said} ;; esac')
    return hostile.run("up", "--profile", "h100x16", "--name", "other", code=20)


VIEWS: dict[str, Callable[[Hostile], str]] = {
    view.__name__: view for view in (queued, starting, ready, logs, up, generate, ended, reap, down, refused)
}
each_view = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


@each_view
def test_nothing_that_a_terminal_obeys_is_shown(hostile: Hostile, view: Callable[[Hostile], str]) -> None:
    said = view(hostile)
    assert "red" in said, "it is shown, as text"
    assert "title" not in said, "a sequence goes whole"


@each_view
@pytest.mark.parametrize("name", ["GITHUB_ACTIONS", "TF_BUILD"])
def test_nothing_that_a_ci_system_obeys_is_shown(
    hostile: Hostile, view: Callable[[Hostile], str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "true")
    own = ("::error title=nemodeploy exit ", "::group::", "::endgroup::")
    lines = view(hostile).split("\n")
    assert [line for line in lines if obeyed(line) and not line.startswith(own)] == []


def test_a_document_holds_washed_text_and_nothing_that_was_compared_is_changed(hostile: Hostile) -> None:
    hostile.serve("yes")
    (row,) = json.loads(hostile.run("status", "demo", "--json"))["deployments"]
    assert not any(map(is_forbidden, json.dumps(row, ensure_ascii=False)))
    assert row["state"] == "READY"
    assert row["owner"] == row["model"] == row["notices"][0].replace(" ::", "\n::").replace("  ##", "\n ##")
    texts = json.loads(hostile.run("generate", "demo", "hi", "--json"))["texts"]
    assert texts == [f"yes {EVIL}"], "an answer in a document is as the server gave it"


def test_an_owner_adds_no_line_of_its_own(hostile: Hostile) -> None:
    hostile.serve("yes")
    (line,) = [line for line in hostile.run("status", "demo").split("\n") if line.startswith("  owner")]
    assert line.endswith("::error::evil  ##[error]evil ##vso[task.x]")
