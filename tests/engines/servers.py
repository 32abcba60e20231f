"""A server program started as the job starts it: the rendered nemo_inference.sh, once per rank, without a scheduler."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

from nemodeploy.adapters.asgi import HttpServer
from nemodeploy.adapters.clock import nonce
from nemodeploy.adapters.forwarding import listen
from nemodeploy.adapters.proxy import Proxy
from nemodeploy.adapters.resources import engines_directory
from nemodeploy.app.backend import Backend
from nemodeploy.app.gateway import Gateway, serve
from nemodeploy.app.site import LOG_TAIL_BYTES
from nemodeploy.app.wanted import Wanted, Wish, known_model, resolve
from nemodeploy.core.plan import manifest
from nemodeploy.core.spec import Prompting
from nemodeploy.engines import ENGINES
from nemodeploy.sandbox import software
from nemodeploy.sandbox.configuration import cluster_file
from nemodeploy.sandbox.packs import PACKS, Packs
from nemodeploy.sandbox.place import Place
from nemodeploy.values import HttpRequest, Reply, Secret
from tests.expressions import matches

L70, L51, N8 = "llama-3.1-nemotron-70b-instruct", "llama-3.1-nemotron-51b-instruct", "nemotron-3-8b-chat-4k-rlhf"
PACK_OF = {engine: pack.name for pack in PACKS.values() for engine in pack.engines}


def packs() -> Packs:
    """Those of this machine."""
    return Packs(engines_directory())


def needs(engine: str) -> None:
    """Skip where its pack is not here."""
    if not packs().installed(PACKS[PACK_OF[engine]]):
        pytest.skip(f"the pack {PACK_OF[engine]} is not installed; make test-engines builds the packs and runs them")


class Tapped(socket.socket):
    """A connection, and every byte that went over it."""

    def __init__(self, noted: list[bytes]) -> None:
        super().__init__()
        self.noted = noted

    def sendall(self, data: Any, *more: int) -> None:
        self.noted.append(bytes(data))
        super().sendall(data, *more)


@dataclass(frozen=True)
class Row:
    """A server: an engine on a profile with a model, its own software or its stand-in."""

    engine: str
    profile: str
    model: str
    real: bool = True

    @property
    def label(self) -> str:
        """Its name in a report."""
        return f"{self.engine}-{'real' if self.real else 'stand-in'}"


def wanted(row: Row, directory: Path, *flags: tuple[str, object], checkpoint: str = "") -> Wanted:
    """What `plan` decides for it on the sandbox; `checkpoint` in place of the tiny one."""
    serving = software.real(packs()) if row.real else software.stand_ins()
    path = directory / "sandbox.yaml"
    text = cluster_file(Place(directory), serving, plain=False)
    path.write_text(text)
    settings: list[tuple[str, object, str]] = [("model", row.model, "test"), ("engine", row.engine, "test")]
    settings += [(key, value, "test") for key, value in flags]
    if checkpoint:
        settings.append((f"checkpoints.{row.model}", checkpoint, "test"))
    wish = Wish(profile=row.profile, name="demo", cluster=str(path), settings=settings)
    return resolve(wish, {}, needs_site=True)


def free_port() -> int:
    """One that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass
class Server:
    """All ranks of one server, and how to ask it."""

    row: Row
    directory: Path
    wanted: Wanted
    port: int
    ranks: list[subprocess.Popen[bytes]] = field(default_factory=list)
    # (seconds since the start, status of the cheap probe or 0, whether it was satisfied)
    seen: list[tuple[float, int, bool]] = field(default_factory=list)
    # The changes of Triton's own readiness, which says nothing of the model.
    health: list[int] = field(default_factory=list)
    started: float = 0.0

    @property
    def served(self) -> str:
        """The model's name in requests."""
        return self.wanted.plan.served

    @property
    def prompting(self) -> Prompting:
        """The model's prompt template."""
        return known_model(self.row.model).prompting

    def start(self) -> Server:
        """Every rank, as srun would start them on one node."""
        epoch = self.directory / "epoch"
        (epoch / "ranks").mkdir(parents=True)
        script = self.directory / "nemo_inference.sh"
        script.write_text(self.wanted.bundle.files["nemo_inference.sh"])
        count, meeting = self.wanted.plan.layout.tasks, str(free_port())
        self.started = time.monotonic()
        for rank in range(count):
            slurm = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NTASKS": count, "SLURM_JOB_ID": os.getpid()}
            with (self.directory / f"{rank}.log").open("wb") as log:
                process = subprocess.Popen(
                    ["bash", str(script), str(self.directory), str(epoch), str(self.port), "localhost", meeting],
                    env={
                        "PATH": os.environ["PATH"],
                        "HOME": str(self.directory),
                        "OMP_NUM_THREADS": "1",
                        **{name: str(value) for name, value in slurm.items()},
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self.ranks.append(process)
        return self

    def raw(self, request: HttpRequest, timeout: float = 60) -> tuple[int, str]:
        """Status and body; 0 when nobody listens or the connection breaks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        headers = {"Content-Type": "application/json"} if request.body else {}
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request(request.method, request.path, request.body.encode() or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        return 0, ""

    def cheap(self) -> tuple[int, bool]:
        """The cheap probe's status, and whether it is satisfied."""
        probe = ENGINES[self.row.engine].cheap_probe(self.served)
        status, body = self.raw(probe.request, timeout=5)
        return status, bool(status) and matches(f"{status}\n{body}", probe.success)

    def generates(self) -> bool:
        """The job's own verdict on the model's own question."""
        probe = ENGINES[self.row.engine].ready_probe(self.served, self.prompting)
        status, body = self.raw(probe.request)
        return matches(f"{status}\n{body}", probe.success)

    def until_ready(self, within_s: float = 150) -> Server:
        """Wait for it as the supervisor does, and remember what was seen."""
        while time.monotonic() < self.started + within_s:
            ended = [rank.returncode for rank in self.ranks if rank.poll() is not None]
            assert not ended, f"a rank ended with {ended}:\n{self.log()}"
            if ENGINES[self.row.engine].protocol == "triton":
                ready, _ = self.raw(HttpRequest(method="GET", path="/v2/health/ready", body=""), timeout=5)
                self.health += [ready] if self.health[-1:] != [ready] else []
            status, good = self.cheap()
            self.seen.append((time.monotonic() - self.started, status, good))
            if good and self.generates():
                return self
            time.sleep(0.1)
        raise AssertionError(f"not ready after {within_s} s:\n{self.log()}")

    def ask(self, prompt: str, *, served: str = "", tokens: int = 24, prompting: Prompting | None = None) -> Reply:
        """What the client's reader makes of the answer to a composed prompt."""
        name, words = served or self.served, prompting or self.prompting
        engine = ENGINES[self.row.engine]
        status, body = self.raw(engine.ask(name, words, prompt, max_tokens=tokens))
        return engine.read(status, body, served=name, prompt=prompt, stop=words.stop)

    def question(self, text: str, *, tokens: int = 24) -> Reply:
        """The same for a question in the model's own template."""
        return self.ask(self.prompting.compose(text), tokens=tokens)

    def backend(self, tap: list[bytes] | None = None) -> Backend:
        """Whoever asks it as `generate` and `chat` do; what goes to the server is noted in `tap`."""
        plan = json.loads(manifest(self.wanted.plan, self.wanted.bundle))["plan"]
        noted = tap if tap is not None else []

        def dial() -> socket.socket:
            stream = Tapped(noted)
            stream.connect(("127.0.0.1", self.port))
            return stream

        return Backend(plan, dial)

    @contextlib.contextmanager
    def client(self) -> Iterator[openai.OpenAI]:
        """OpenAI's own client, as `connect` lets it in: by the proxy before the server, or by the gateway."""
        key, listener = Secret("the key"), listen(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        door: Proxy | HttpServer
        if ENGINES[self.row.engine].protocol == "openai":
            door = Proxy(listener, lambda: socket.create_connection(("127.0.0.1", self.port)), key)
        else:
            door = serve(Gateway(self.backend(), lambda: True, nonce, key), listener)
        door.start()
        try:
            with openai.OpenAI(base_url=url, api_key=key.reveal(), max_retries=0, timeout=60) as client:
                yield client
        finally:
            door.close()

    def log(self, rank: int = 0) -> str:
        """What a rank has said."""
        return (self.directory / f"{rank}.log").read_text(errors="replace")[-LOG_TAIL_BYTES:]

    def stop(self, number: signal.Signals = signal.SIGUSR2, within_s: float = 30) -> list[int]:
        """The job's word for a gentle end to every process of the step; the ranks' own statuses."""
        for rank in self.ranks:
            for pid in {rank.pid, *_group(rank.pid)}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        deadline = time.monotonic() + within_s
        for rank in self.ranks:
            rank.wait(max(deadline - time.monotonic(), 0.1))
        return [int((self.directory / f"epoch/ranks/{n}.rc").read_text()) for n, _ in enumerate(self.ranks)]

    def kill_program(self) -> None:
        """KILL to the first rank's own server program, and to nothing else."""
        children = Path(f"/proc/{self.ranks[0].pid}/task/{self.ranks[0].pid}/children").read_text().split()
        (program,) = [int(pid) for pid in children if int(pid) in _group(self.ranks[0].pid)]
        os.kill(program, signal.SIGKILL)

    def left(self) -> list[int]:
        """Processes of any rank that are still there."""
        return [pid for rank in self.ranks for pid in _group(rank.pid)]

    def end(self) -> None:
        """Whatever is left, killed."""
        for rank in self.ranks:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(rank.pid, signal.SIGKILL)
            for pid in _group(rank.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            rank.wait()


def _group(leader: int) -> list[int]:
    """Every process of a rank's session that is no zombie, whatever became of its parent; not the script's own beat."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head, _, rest = path.read_text().rpartition(")")
            state, _, _, session = rest.split()[:4]
            if int(session) == leader and state != "Z" and head.partition("(")[2] not in ("bash", "sleep"):
                found.append(int(path.parent.name))
    return found


def say(value: object) -> str:
    """A request's body."""
    return json.dumps(value)
