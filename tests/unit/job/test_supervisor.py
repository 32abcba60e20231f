"""The supervisor by itself: the rendered script of a plain host, run as it is, with small programs as its server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemodeploy.app.wanted import Wish, resolve
from nemodeploy.core.submission import lease_files, renew_script
from nemodeploy.core.tempo import TEMPO, Tempo

TOKEN = "nd-demo-01m7ykpr9z67k4g5wp74nrf1nm"
SERVES = """
import json, sys, time
from pathlib import Path
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = json.dumps({"model": "tiny", "choices": [{"text": " Paris", "index": 0, "finish_reason": "stop"}]}).encode()

class Handler(BaseHTTPRequestHandler):
    asked = {"GET": 0, "POST": 0}

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mode = Path(__file__).with_name("mode")
        self.asked[self.command] += 1
        if self.command == "POST" and mode.exists() and mode.read_text() == "hang":
            time.sleep(3600)
        bad = {"": False, "broken": self.command == "POST", "flap": self.asked[self.command] % 2 == 0}
        self.send_response(500 if bad[mode.read_text() if mode.exists() else ""] else 200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)
    do_GET = do_POST = answer
    def log_message(self, *words):
        pass

words = " ".join(sys.argv).replace("=", " ").split()
ThreadingHTTPServer(("127.0.0.1", int(words[words.index("--port") + 1])), Handler).serve_forever()
"""


class Run:
    """A run directory, and the supervisor in it."""

    def __init__(self, path: Path, *program: str, tempo: Tempo = TEMPO, **settings: object) -> None:
        (path / "serve.py").write_text(SERVES)
        program = tuple(word.replace("SERVE", str(path / "serve.py")) for word in program)
        cluster = path / "host.yaml"
        cluster.write_text(
            "ssh: {host: localhost}\nscheduler: none\nruntime: none\ncheckpoints: {tiny: /dev/null}\n"
            f"programs: {{llamacpp: {json.dumps(list(program))}}}\n"
        )
        flags = [("grace", 1, "test"), *((key, value, "test") for key, value in settings.items())]
        wish = Wish(profile="cpu", name="demo", cluster=str(cluster), settings=flags)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nemodeploy.core.tempo.TEMPO", tempo)
            wanted = resolve(wish, {}, needs_site=True)
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

    def until_running(self) -> Run:
        """Until a program that says so at first has said it: from then on nothing of ours needs the directory."""
        self.until(lambda: any("running" in log.read_text() for log in self.path.glob("epochs/*/logs/*.0.log")))
        return self

    def left(self) -> str:
        """Processes that still know the run directory."""
        return subprocess.run(["pgrep", "-f", str(self.path)], capture_output=True, text=True, check=False).stdout


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    made: list[Run] = []

    def start(*program: str, tempo: Tempo = TEMPO, **settings: object) -> Run:
        made.append(Run(tmp_path, *program, tempo=tempo, **settings))
        return made[-1]

    yield start
    for run in made:
        if run.process and run.process.poll() is None:
            run.process.kill()
            run.process.wait()


SERVER = (sys.executable, "SERVE")
SLEEPER = ("sh", "-c", "echo running; exec sleep 600")


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


@pytest.mark.parametrize(("number", "cause"), [(signal.SIGTERM, "cancelled"), (signal.SIGINT, "cancelled")])
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


def test_a_stray_usr1_is_no_time_limit(make: Callable[..., Run]) -> None:
    run = make(*SLEEPER).start().until_running()
    run.send(signal.SIGUSR1)
    (run.path / "revoked").touch()
    assert run.wait() == 0
    assert run.read("exit.json")["cause"] == "revoked"


def functions(directory: Path, *names: str) -> str:
    """Shell functions of its supervisor, as they are."""
    text = (directory / "nemo_inference.job").read_text()
    return "".join(text[(at := text.index(f"\n{name}() {{")) : text.index("\n}\n", at) + 3] for name in names)


@pytest.mark.parametrize(
    ("renewal", "over"),
    [("", ["106000 over", "107000 over"]), ("echo 60 b >lease", [])],
)
def test_clocks_stand_while_it_is_stopped(
    make: Callable[..., Run], tmp_path: Path, renewal: str, over: list[str]
) -> None:
    uptime, run_dir = tmp_path / "uptime", tmp_path / "dir"
    run_dir.mkdir()
    (run_dir / "lease").write_text("59 a\n")
    shell = functions(make(*SLEEPER).path, "tick", "lease_is_over").replace("/proc/uptime", str(uptime))
    at = f"at() {{ echo $1 1.00 >{uptime}; tick; if lease_is_over; then echo $now over; else echo $now; fi; }}"
    begin = f"cd {run_dir}; now=0 uptime_cs=0 stood_cs=0 lease_text= lease_seen=0 run_dir={run_dir}\n{shell}\n{at}\n"
    before, after = (
        " ".join(f"at {second}.00;" for second in seconds)
        for seconds in ([1000, 1010, 1020, 1030, 1040, 1050], [4000, 4010, 4020])
    )
    script = f"{begin}{before}\n{renewal}\n{after}"
    said = subprocess.run(["bash", "-uc", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in said[5:7]] == ["105000", "105000"], "an hour in which it stood"
    assert [line for line in said if "over" in line] == over


def lease_looks(supervisor: Path, run_dir: Path, *steps: str) -> list[str]:
    """What the job makes of its lease at each of some looks, 50 s apart, after what shell text did before each."""
    shell = functions(supervisor, "lease_is_over")
    look = "now=$((now + 5000)); if lease_is_over; then echo over; else echo on; fi"
    begin = f"now=0 lease_text= lease_seen=0 run_dir={run_dir}; cd {run_dir}"
    script = "\n".join([begin, shell, *(f"{step}\n{look}" for step in steps)])
    return subprocess.run(["bash", "-uc", script], capture_output=True, text=True, check=True).stdout.split()


def renewal(run_dir: Path, word: str) -> str:
    return f"({renew_script(str(run_dir), word, None)}) >said"


def test_a_renewal_is_a_file_of_its_own_and_counts_by_its_content(make: Callable[..., Run], tmp_path: Path) -> None:
    job = make(*SLEEPER).path
    for name, text in lease_files(60, "a").items():
        (tmp_path / name).write_text(text)
    renewed = [renewal(tmp_path, word) for word in "bcd"]
    assert lease_looks(job, tmp_path, ":", *renewed, ":", ":") == ["on"] * 4 + ["on", "over"]
    assert (tmp_path / "lease").read_text() == "60 a\n", "a renewal leaves it as it is"
    assert lease_looks(job, tmp_path, ":", "touch lease renewed", "touch renewed") == ["on", "on", "over"]
    away = "rm renewed; mkdir renewed"
    assert lease_looks(job, tmp_path, ":", away, ":", ":", ":", "rmdir renewed", ":", ":")[:5] == ["on"] * 5
    assert lease_looks(job, tmp_path, ":", "echo 60 b >lease", ":", ":") == ["on", "on", "on", "over"], "without one"
    for drop in ("rm lease", "echo soon >lease"):
        steps = (":", drop, *["(" + renew_script(str(tmp_path), "e", None) + ") >said || :"] * 2, ":", ":")
        assert "over" not in lease_looks(job, tmp_path, *steps), drop


def test_a_job_of_an_older_version_is_renewed_by_the_file_that_it_reads(tmp_path: Path) -> None:
    """A run directory as an older version made it."""
    older = Path(__file__).parent / "older"
    shutil.copy(older / "lease", tmp_path)
    renewed = [renewal(tmp_path, word) for word in "bcd"]
    assert lease_looks(older, tmp_path, ":", *renewed, ":", ":") == ["on"] * 5 + ["over"]
    assert (tmp_path / "lease").read_text() == "60 d\n"
    assert not (tmp_path / "renewed").exists()


def test_answers_without_visible_text_make_nothing_ready_and_are_counted(make: Callable[..., Run]) -> None:
    run = make(*SERVER, tempo=TEMPO.divided(8))
    served = run.path.parent / "serve.py"
    served.write_text(served.read_text().replace('" Paris"', '"<|eot_id|>\\u200b\\ufeff"'))
    run.start()
    run.until(lambda: (run.path / "current/health.json").exists() and run.read("health.json")["mute"] >= 3)
    assert not (run.path / "current/endpoint.json").exists()


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


class Squatter:
    """A program of the same account that is no part of the job, on the job's port before its server has bound it."""

    def __init__(self, path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.words = [sys.executable, str(path / "serve.py"), "--port", str(self.port)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.words, env={"PATH": os.environ["PATH"]}, start_new_session=True)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def squatter(tmp_path: Path) -> Iterator[Squatter]:
    found = Squatter(tmp_path)
    yield found
    found.stop()


def test_a_foreign_server_on_our_port_makes_nothing_ready(make: Callable[..., Run], squatter: Squatter) -> None:
    run = make(*SLEEPER, port=squatter.port, tempo=HASTY).start().until_started()
    squatter.start()
    assert run.wait() == 1
    assert run.read("exit.json")["cause"] == "port_in_use"
    assert run.read("health.json")["port_held"] == "foreign"
    assert "serving" not in phases(run)
    assert not (run.path / "current/endpoint.json").exists()


def test_a_foreign_server_that_leaves_in_time_changes_nothing(make: Callable[..., Run], squatter: Squatter) -> None:
    late = ("sh", "-c", f'while [ ! -e {{}} ]; do sleep 0.1; done; exec {sys.executable} SERVE "$@"', "sh")
    run = make(*late, port=squatter.port, tempo=replace(IMPATIENT, ask_again=1))
    script = run.path / "nemo_inference.sh"
    script.write_text(script.read_text().replace("{}", str(run.path / "go")))
    run.start().until_started()
    squatter.start()
    run.until(lambda: run.read("health.json")["port_held"] == "foreign")
    squatter.stop()
    (run.path / "go").touch()
    run.until_ready()
    assert run.read("endpoint.json")["port_held"] == run.read("health.json")["port_held"] == "ours"


def test_a_server_that_hides_its_environment_is_known_by_its_parents(make: Callable[..., Run]) -> None:
    hidden = ("sh", "-c", f'env -i {sys.executable} SERVE "$@"; exit $?', "sh")
    run = make(*hidden, tempo=IMPATIENT).start().until_ready()
    assert run.read("endpoint.json")["port_held"] == "ours"


def test_where_no_holder_can_be_seen_that_is_said(make: Callable[..., Run], tmp_path: Path) -> None:
    blind = tmp_path / "bin/find"
    blind.parent.mkdir()
    blind.write_text("#!/bin/sh\nexit 1\n")  # as with hidepid, or a daemon's container
    blind.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{blind.parent}:{os.environ['PATH']}")
        run = make(*SERVER, tempo=IMPATIENT).start().until_ready()
    assert run.read("endpoint.json")["port_held"] == "unproven"
    assert run.read("health.json")["phase"] == "serving"


SECRETS = "HF_TOKEN='hf canary'\"'\"'s'\nKEY=second-canary\n"
BLABS = """printf "loading with hf canary's and second-canary\\n"; """


def test_a_secret_that_a_server_prints_stays_in_no_log_and_no_health(make: Callable[..., Run]) -> None:
    run = make("sh", "-c", BLABS + "sleep 2; exit 3", tempo=IMPATIENT)
    (run.path / "secrets.env").write_text(SECRETS)
    run.start().until(
        lambda: (run.path / "current/health.json").exists() and "loading" in run.read("health.json")["said"]
    )
    assert run.read("health.json")["said"].endswith("loading with ******** and ********")
    assert run.wait() == 3
    (log,) = run.path.glob("epochs/*/logs/*.0.log")
    assert log.read_text() == "loading with ********    and ********     \n", "as long as before"
    assert not (run.path / "secrets.env").exists()
    shown = subprocess.run(
        ["grep", "-r", "canary", str(run.path / "epochs")], capture_output=True, text=True, check=False
    )
    assert shown.stdout == ""


def test_a_run_directory_that_cannot_be_seen_ends_nothing(make: Callable[..., Run]) -> None:
    run = make(*SLEEPER)
    (run.path / "lease").write_text("1 a\n")
    run.start().until_running()
    run.path.rename(run.path.with_name("away"))
    time.sleep(3)
    assert run.process is not None
    assert run.process.poll() is None, "it is no sign that nobody wants the job"
    run.path.with_name("away").rename(run.path)
    assert run.wait() == 0
    assert run.read("exit.json")["cause"] == "lease_expired"


def test_a_job_whose_token_is_archived_ends(make: Callable[..., Run], tmp_path: Path) -> None:
    run = make(*SLEEPER)
    place = tmp_path / "root/deployments/demo" / TOKEN
    place.parent.mkdir(parents=True)
    run.path.rename(place)
    run.path = place
    (tmp_path / "root/archive").mkdir()
    run.start().until_running()
    run.path = place.rename(tmp_path / "root/archive" / TOKEN)
    assert run.wait() == 0


def test_a_claim_that_cannot_be_read_at_first_is_waited_for(make: Callable[..., Run]) -> None:
    run = make(*SERVER)
    text = (run.path / "nemo_inference.job").read_text()
    run.path.rename(run.path.with_name("away"))
    run.path.mkdir()
    (run.path / "nemo_inference.job").write_text(text)
    run.path.chmod(0o500)
    (run.path / "claim").mkdir()  # no link can be made there, and none be read
    run.start()
    time.sleep(1)
    assert run.process is not None
    assert run.process.poll() is None
    (run.path / "claim").rmdir()
    for file in run.path.with_name("away").iterdir():
        file.rename(run.path / file.name)
    run.path.chmod(0o700)
    run.until_ready()


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


# It looks around every tenth of a second, asks for a generation every second, and for health twice as often.
IMPATIENT = Tempo(look=0.1, health=1, probe=0.5, probe_again=0.5, ask=1, late=0.5, quiet=3, beat=0.5, silent=2, index=1)
HASTY = replace(IMPATIENT, ask_again=0.2, quiet=1, silent=1)


@pytest.mark.long
def test_f39_a_server_that_fails_every_other_time_stays_ready(make: Callable[..., Run], tmp_path: Path) -> None:
    run = make(*SERVER, tempo=IMPATIENT).start().until_ready()
    (tmp_path / "mode").write_text("flap")
    time.sleep(14)
    assert run.read("health.json")["phase"] == "serving"
    assert "degraded" not in phases(run)


def test_three_failures_in_a_row_are_degraded_and_three_good_answers_take_it_back(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    run = make(*SERVER, tempo=IMPATIENT).start().until_ready()
    (tmp_path / "mode").write_text("broken")
    run.until(lambda: run.read("health.json")["phase"] == "degraded")
    (tmp_path / "mode").write_text("")
    begun = time.monotonic()
    run.until(lambda: run.read("health.json")["phase"] == "serving")
    assert time.monotonic() - begun > 3, "one good answer is not enough: they are two seconds apart"
    assert [phase for phase in phases(run) if phase in ("serving", "degraded")] == ["serving", "degraded", "serving"]


@pytest.mark.parametrize("mode", ["hang", "broken"])
def test_a_server_that_stays_sick_is_ended_after_its_hang_timeout(
    make: Callable[..., Run], tmp_path: Path, mode: str
) -> None:
    run = make(*SERVER, tempo=HASTY, hang_timeout="00:00:02").start().until_ready()
    (tmp_path / "mode").write_text(mode)
    assert run.wait() == 1
    assert run.read("exit.json")["cause"] == "hung"
    assert "degraded" in phases(run)
    assert run.left() == ""


@pytest.mark.long
def test_a_silent_node_is_told_and_ends_the_job_only_when_nobody_is_served(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    run = make(*SERVER, tempo=replace(HASTY, silent=3)).start().until_ready()
    (run.path / "current/ranks/8.beat").write_text("41\n")
    run.until(lambda: run.read("health.json")["silent_ranks"] == [8])
    time.sleep(2)
    assert run.read("health.json")["phase"] == "serving"
    assert run.process is not None
    assert run.process.poll() is None, "a slow file system alone ends nothing"
    (run.path / "current/ranks/8.beat").write_text("42\n")
    run.until(lambda: run.read("health.json")["silent_ranks"] == [])
    run.until(lambda: run.read("health.json")["silent_ranks"] == [8])
    (tmp_path / "mode").write_text("broken")
    assert run.wait() == 1
    assert run.read("exit.json")["cause"] == "node_silent"
    events = [json.loads(line) for line in (run.path / "current/events.jsonl").read_text().splitlines()]
    begun = {event["phase"]: event["elapsed_s"] for event in events}
    assert begun["stopping"] - begun["degraded"] >= 2, "it has a while to come back"


def talking(text: str) -> tuple[str, ...]:
    """A server that says something first, as printf's format."""
    return ("sh", "-c", f"printf '{text}'; exec {sys.executable} SERVE \"$@\"", "sh")


def test_where_nothing_can_be_written_nothing_is_concluded_from_what_is_missing(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    run = make(*SERVER, tempo=HASTY, hang_timeout="00:01:00").start().until_ready()
    current = (run.path / "current").resolve()
    (current / "room").mkdir()  # as a full disk would refuse it
    beat = current / "ranks/7.beat"
    beat.write_text("1\n")
    (tmp_path / "mode").write_text("broken")
    time.sleep(3)
    assert run.read("health.json")["misses"] >= 3
    assert (run.read("health.json")["phase"], run.read("health.json")["silent_ranks"]) == ("serving", [])
    (current / "room").rmdir()
    run.until(lambda: run.read("health.json")["phase"] == "degraded")
    assert run.wait() == 1
    assert run.read("exit.json")["cause"] == "node_silent"


def test_the_last_words_of_a_rank_stand_in_its_health_whatever_is_in_them(make: Callable[..., Run]) -> None:
    said = r'loading "shard\\7" \033[31mof \344 9 %%\n========\nGET /health 200\n'
    run = make(*talking(said), tempo=IMPATIENT).start().until_ready()
    host = socket.gethostname()
    assert run.read("health.json")["said"] == f"{host}.0: loading 'shard'7' [31mof  9 %"


def test_it_notes_how_long_the_logs_were_when(make: Callable[..., Run]) -> None:
    program = ("sh", "-c", f'printf 12345; sleep 2.5; printf 678; exec {sys.executable} SERVE "$@"', "sh")
    run = make(*program, tempo=IMPATIENT).start().until_ready()
    index = run.path / "current/logs/index"
    log = f"{socket.gethostname()}.0.log"
    run.until(lambda: f" 8 {log}\n" in index.read_text())
    noted = [line.split() for line in index.read_text().splitlines()]
    assert [size for _, size, _ in noted if size != "0"] == ["5", "8"], "only what has grown is noted"
    assert {name for _, _, name in noted} == {log}
    assert 1 <= int(noted[-1][0]) - int(noted[-2][0]) < 20
    assert abs(int(noted[-1][0]) - time.time()) < 60


@pytest.mark.long
def test_a_line_of_50_mb_without_an_end_does_not_hold_it_up(make: Callable[..., Run]) -> None:
    program = ("sh", "-c", f"head -c 50000000 /dev/zero | tr '\\0' x; exec {sys.executable} SERVE \"$@\"", "sh")
    run = make(*program, tempo=IMPATIENT).start().until_ready()
    assert len(run.read("health.json")["said"]) < 300
    assert run.process is not None
    status = Path(f"/proc/{run.process.pid}/status").read_text()
    assert int(status.split("VmHWM:")[1].split()[0]) < 40_000, "kB"
