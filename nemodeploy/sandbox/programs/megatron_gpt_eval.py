"""A STAND-IN for NeMo's megatron_gpt_eval.py: the same place, the same overrides, one process per task, no GPU.

It generates for real, with llama.cpp and a tiny model, and keeps the habits that a deployment tool must cope with:
it refuses to start unless devices x nodes = TP x PP, serves only after every rank has joined, on rank 0 only, takes
one request at a time, answers a wrong request with status 200 and a JSON string, and hangs when a rank is lost.

Source: NeMo v1.23.0, examples/nlp/language_modeling/megatron_gpt_eval.py (start-up order, assertion) and
nemo/collections/nlp/modules/common/text_generation_server.py (the PUT /generate protocol). No code is taken from it.

The variable STAND_IN_LOAD_SECONDS makes it take its time where the weights would be loaded.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEYS = frozenset(
    """
    gpt_model_file checkpoint_dir checkpoint_name hparams_file tensor_model_parallel_size megatron_amp_O2
    pipeline_model_parallel_size pipeline_model_parallel_split_rank server port web_server share chat prompts
    trainer.devices trainer.num_nodes trainer.accelerator trainer.logger trainer.precision
    inference.greedy inference.tokens_to_generate inference.add_BOS
    """.split()
)
JOIN_WITHIN_S = 300.0
CONTEXT = 4096
ASTERISKS = "*" * 27


def say(line: str) -> None:
    """One line of log, whole even when sixteen processes write."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Overrides:
    """The Hydra-style command line: `key=value`, refused when the key does not exist."""

    def __init__(self, words: list[str]) -> None:
        pairs = (word.lstrip("+").partition("=")[::2] for word in words)
        self.values = {key: re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == "'" else value for key, value in pairs}
        for key in self.values:
            if key not in KEYS:
                raise SystemExit(f"Could not override '{key}'.\nKey '{key}' is not in struct")

    def integer(self, key: str, default: int) -> int:
        """An integer value, or the default."""
        return int(self.values.get(key, default))


class Ranks:
    """All processes of the job, joined to rank 0 by TCP as NCCL ranks are to theirs."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("SLURM_PROCID", "0"))
        self.world = int(os.environ.get("SLURM_NTASKS", "1"))
        self.port = int(os.environ.get("MASTER_PORT") or 15000 + int(os.environ.get("SLURM_JOB_ID", "0")[-4:]))
        self.peers: list[socket.socket] = []

    def join(self) -> None:
        """Return when every rank has joined; rank 0 waits for the others, the others for rank 0."""
        say(f"Initializing distributed: GLOBAL_RANK: {self.rank}, MEMBER: {self.rank + 1}/{self.world}")
        if self.rank == 0:
            self._accept()
        else:
            self.peers = [self._connect()]

    def _accept(self) -> None:
        with socket.create_server(("", self.port), backlog=self.world, reuse_port=False) as server:
            server.settimeout(JOIN_WITHIN_S)
            while len(self.peers) < self.world - 1:
                connection, _ = server.accept()
                connection.settimeout(None)
                self.peers.append(connection)
        for peer in self.peers:
            peer.sendall(b"g")
        say("All distributed processes registered.")

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + JOIN_WITHIN_S
        while True:
            try:
                connection = socket.create_connection((self._master(), self.port), timeout=5)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise SystemExit("The client socket has timed out while trying to connect to rank 0") from None
                time.sleep(0.05)
        connection.settimeout(None)
        if connection.recv(1) != b"g":
            raise SystemExit("Connection closed by remote peer while joining")
        return connection

    @staticmethod
    def _master() -> str:
        """The first host of the node list, or this one where its name does not resolve (all on one machine)."""
        name = first_host(os.environ.get("SLURM_NODELIST", "localhost"))
        try:
            return socket.gethostbyname(name)
        except OSError:
            return "127.0.0.1"

    def step(self) -> None:
        """Rank 0: have every other rank take part in a generation; hangs when one cannot, as a collective does."""
        for peer in self.peers:
            peer.sendall(b"s")
        for peer in self.peers:
            if peer.recv(1) != b"a":
                say(f"NCCL WARN rank {self.rank}: remote process exited or there was a network error")
                threading.Event().wait()

    def follow(self) -> None:
        """Other ranks: take part until rank 0 is gone."""
        while self.peers[0].recv(1) == b"s":
            self.peers[0].sendall(b"a")
        raise SystemExit(f"NCCL WARN rank {self.rank}: Connection closed by remote peer")


def first_host(node_list: str) -> str:
    """`h100-[1-2]` gives `h100-1`."""
    match = re.match(r"([^\[,]+)(?:\[(\w+))?", node_list)
    return (match[1] + (match[2] or "")) if match else node_list


class Engine:
    """llama.cpp in this process, one request at a time."""

    def __init__(self, path: str, ranks: Ranks) -> None:
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        whole = Path(path)
        parameters.model.path = str(Path(__file__).with_name("tiny.gguf") if whole.is_dir() else whole)
        parameters.n_ctx, parameters.n_parallel = CONTEXT, 1
        parameters.special, parameters.warmup, parameters.verbosity = True, False, -1
        parameters.cpuparams.n_threads = 1
        self.server = xllamacpp.Server(parameters)
        self.ranks = ranks
        self.lock = threading.Lock()

    def generate(self, sentences: list[str], options: dict[str, Any]) -> dict[str, Any]:
        """Continue each sentence; the answer holds prompt and continuation, as NeMo's does."""
        with self.lock:
            self.ranks.step()
            texts = [sentence + self._continue(sentence, options) for sentence in sentences]
        return {"sentences": texts, "tokens": None, "logprob": None, "token_ids": None, "offsets": None}

    def _continue(self, sentence: str, options: dict[str, Any]) -> str:
        greedy = options.get("greedy", False)
        answer = self.server.handle_completions(
            {
                "prompt": sentence,
                "n_predict": options.get("tokens_to_generate", 64),
                "temperature": 0 if greedy else options.get("temperature", 1.0),
                "top_k": 1 if greedy else options.get("top_k", 0),
                "top_p": 1.0 if greedy else options.get("top_p", 0.9),
                "repeat_penalty": 1.0 if greedy else options.get("repetition_penalty", 1.2),
                "seed": options.get("random_seed") or 0,
            }
        )
        text = str(answer["choices"][0]["text"])
        wanted = options.get("end_strings", ["<|endoftext|>"])
        ends = [text.find(end) + len(end) for end in wanted if end and end in text]
        return text[: min(ends)] if ends else text


def whole(value: object, least: int) -> bool:
    """An integer of at least `least`; JSON's true and false are not numbers here, except as NeMo takes them."""
    return isinstance(value, int) and value >= least


RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("tokens_to_generate", lambda v: whole(v, 1), "tokens_to_generate must be an integer greater than 0"),
    ("all_probs", lambda v: isinstance(v, bool), "all_probs must be a boolean value"),
    (
        "temperature",
        lambda v: isinstance(v, (int, float)) and 0 < v <= 100,
        "temperature must be a positive number less than or equal to 100.0",
    ),
    ("add_BOS", lambda v: isinstance(v, bool), "add_BOS must be a boolean value"),
    ("greedy", lambda v: isinstance(v, bool), "greedy must be a boolean value"),
    ("top_k", lambda v: isinstance(v, (int, float)) and v >= 0, "top_k must be a positive integer number"),
    (
        "top_p",
        lambda v: isinstance(v, (int, float)) and 0 <= v <= 1,
        "top_p must be a positive number less than or equal to 1.0",
    ),
    (
        "repetition_penalty",
        lambda v: isinstance(v, (int, float)) and v >= 1,
        "repetition_penalty must be a positive number no less than 1.0",
    ),
    (
        "end_strings",
        lambda v: isinstance(v, list) and all(isinstance(s, str) for s in v),
        "expect end_strings to be a list of strings",
    ),
    (
        "min_tokens_to_generate",
        lambda v: whole(v, 0),
        "min_tokens_to_generate must be an integer no less than 0",
    ),
    ("random_seed", lambda v: v is None or whole(v, 0), "random_seed must be a positive integer number or None"),
)


def respond(engine: Engine, body: bytes) -> tuple[int, object]:
    """Status and JSON answer of `PUT /generate`."""
    try:
        request = json.loads(body)
    except ValueError:
        return 400, {"message": "The browser (or proxy) sent a request that this server could not understand."}
    if not isinstance(request, dict) or "sentences" not in request:
        return 500, {"message": "Internal Server Error"}
    sentences = list(request["sentences"])
    if len(sentences) > 128:
        return 400, "Maximum number of sentences is 128"
    for key, holds, complaint in RULES:
        if key in request and not holds(request[key]):
            return 200, complaint
    return 200, engine.generate(sentences, request)


def serve(engine: Engine, port: int) -> None:
    """Answer on every interface until killed. There is no health route, as in the original."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        server_version = "Werkzeug-stand-in"

        def answer(self, status: int, body: object, **headers: str) -> None:
            data = b"" if body is None else json.dumps(body).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path != "/generate":
                self.answer(404, {"message": "Not Found"})
            elif self.headers.get_content_type() != "application/json":
                self.answer(415, {"message": "Did not attempt to load JSON data."})
            else:
                self.answer(*respond(engine, body))

        def do_OPTIONS(self) -> None:
            known = self.path == "/generate"
            self.answer(200 if known else 404, None, **({"Allow": "PUT, OPTIONS"} if known else {}))

        def do_POST(self) -> None:
            self.answer(405 if self.path == "/generate" else 404, {"message": "The method is not allowed."})

        def do_GET(self) -> None:
            self.answer(404, {"message": "Not Found"})

        do_HEAD = do_GET

        def log_message(self, format: str, *values: object) -> None:
            say(f"{self.client_address[0]} - - {format % values}")

    server = ThreadingHTTPServer(("0.0.0.0", port), Handler)
    say(f" * Running on http://{socket.gethostname()}:{port}")
    server.serve_forever()


def main() -> None:
    """Start-up in the original's order: check, join, load, warm up, serve."""
    overrides, ranks = Overrides(sys.argv[1:]), Ranks()
    devices = overrides.integer("trainer.devices", 1) * overrides.integer("trainer.num_nodes", 1)
    tensor = overrides.integer("tensor_model_parallel_size", 1)
    pipeline = overrides.integer("pipeline_model_parallel_size", 1)
    if devices != tensor * pipeline or devices != ranks.world:
        raise AssertionError(
            "devices * num_nodes should equal tensor_model_parallel_size * pipeline_model_parallel_size"
        )
    path = overrides.values.get("gpt_model_file", "")
    if not Path(path).exists():
        raise FileNotFoundError(f"Can't find {path}")
    ranks.join()
    time.sleep(float(os.environ.get("STAND_IN_LOAD_SECONDS", "0")))
    if ranks.rank:
        ranks.follow()
    engine = Engine(path, ranks)
    say(f"Loaded {path} (stand-in: a tiny model on the CPU)")
    for _ in range(2):
        warm_up = engine.generate(["hello"], {"greedy": True, "tokens_to_generate": 1})
        say(f"{ASTERISKS}\n{warm_up['sentences']}\n{ASTERISKS}")
    if overrides.values.get("server") == "True":
        serve(engine, overrides.integer("port", 5555))


if __name__ == "__main__":
    main()
