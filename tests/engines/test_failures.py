"""What goes wrong, brought about for real on the real servers: each log names its own cause."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nemodeploy.assembly import causes
from nemodeploy.core.diagnosis import Diagnosis, Log, diagnose
from nemodeploy.sandbox.programs import CHECKPOINTS
from tests.engines.servers import L51, L70, N8, Row, Server, free_port, needs, packs, wanted

pytestmark = pytest.mark.engines
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4665a5ea' * 8}\nsize 4\n"
EVAL = Row("nemo-eval", "h100x1", N8)
IN_FRAMEWORK = Row("nemo-triton", "h100x2", L70)
HF_TRITON = Row("nemo-hf-triton", "h100x1", N8)
TRTLLM = Row("nemo-trtllm", "h100x1", N8)
VLLM = Row("vllm", "h100x1", L51)
TRANSFORMERS = Row("transformers", "cpu", "tiny")


def missing(path: Path) -> None:
    shutil.rmtree(path)


def half_copied(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def pointers(path: Path) -> None:
    (path / "model.safetensors").write_text(POINTER)


def another_architecture(path: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(packs().checkpoint(L51), path)


def unknown_architecture(path: Path) -> None:
    _configured(path, architectures=["NobodysForCausalLM"])


def short_context(path: Path) -> None:
    _configured(path, max_position_embeddings=512)


def other_heads(path: Path) -> None:
    _configured(path, intermediate_size=256)


def three_heads(path: Path) -> None:
    _configured(path, num_attention_heads=3, num_key_value_heads=3)


def _configured(path: Path, **changes: object) -> None:
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server whose checkpoint was spoiled first."""
    row, spoil = request.param
    needs(row.engine)
    path = tmp_path / "checkpoint"
    shutil.copytree(packs().checkpoints / CHECKPOINTS[row.model], path)
    spoil(path)
    server = Server(row, tmp_path, wanted(row, tmp_path, checkpoint=str(path)), free_port())
    try:
        yield server.start()
    finally:
        server.end()


def cause_of(server: Server, within_s: float = 90) -> Diagnosis:
    """What its logs say, once a rank has ended."""
    deadline = time.monotonic() + within_s
    while all(rank.poll() is None for rank in server.ranks):
        assert time.monotonic() < deadline, f"it did not end:\n{server.log()}"
        time.sleep(0.1)
    first = next(number for number, rank in enumerate(server.ranks) if rank.poll() is not None)
    logs = [Log(f"host.{number}.log", server.log(number)) for number in range(len(server.ranks))]
    plan = {"engine": server.row.engine, "runtime": "none"}
    return diagnose(logs, first, causes(plan, "slurm"))


Spoiled = tuple[Row, Callable[[Path], None], str]
CASES: tuple[Spoiled, ...] = (
    (EVAL, missing, "file"),
    (EVAL, half_copied, "checkpoint-incomplete"),
    (EVAL, pointers, "checkpoint-pointer"),
    (EVAL, another_architecture, "architecture"),
    (EVAL, other_heads, "checkpoint-keys"),
    (IN_FRAMEWORK, three_heads, "layout"),
    (HF_TRITON, half_copied, "checkpoint-incomplete"),
    (HF_TRITON, pointers, "checkpoint-pointer"),
    (TRTLLM, missing, "file"),
    (TRTLLM, half_copied, "checkpoint-incomplete"),
    (TRTLLM, pointers, "checkpoint-pointer"),
    (TRANSFORMERS, missing, "file"),
    (TRANSFORMERS, half_copied, "checkpoint-incomplete"),
    (TRANSFORMERS, pointers, "checkpoint-pointer"),
    (TRANSFORMERS, another_architecture, "trust"),
    (VLLM, missing, "file"),
    (VLLM, pointers, "checkpoint-pointer"),
    (VLLM, unknown_architecture, "architecture"),
    (VLLM, short_context, "context"),
)


@pytest.mark.parametrize(
    ("broken", "key"),
    [pytest.param((row, spoil), key, id=f"{row.engine}-{spoil.__name__}") for row, spoil, key in CASES],
    indirect=["broken"],
)
def test_a_spoiled_checkpoint_is_named(broken: Server, key: str) -> None:
    found = cause_of(broken)
    assert found.key == key, (found, broken.log())
    assert found.meaning
    assert found.advice


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    needs(EVAL.engine)
    with socket.create_server(("0.0.0.0", 0)) as holder:
        server = Server(EVAL, tmp_path, wanted(EVAL, tmp_path), holder.getsockname()[1])
        try:
            assert cause_of(server.start()).key == "port"
        finally:
            server.end()


def test_a_server_that_is_healthy_with_nothing_loaded_is_not_ready(tmp_path: Path) -> None:
    needs(TRANSFORMERS.engine)
    server = Server(TRANSFORMERS, tmp_path, wanted(TRANSFORMERS, tmp_path), free_port())
    program = packs().programs()["transformers"]
    alone = subprocess.Popen(
        [*program, "--host=127.0.0.1", f"--port={server.port}"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not server.cheap()[1] and time.monotonic() < deadline:
            time.sleep(0.2)
        assert server.cheap() == (200, True), "its health says yes"
        reply = server.ask("a", served="/nowhere/model")
        assert reply.problem
        assert not reply.text
    finally:
        alone.kill()
        alone.wait()
