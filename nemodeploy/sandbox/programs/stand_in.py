"""A STAND-IN for five server programs: `stand_in.py KIND …`, with the real one's options after its name, no GPU.

It generates for real, with llama.cpp and a tiny model, and speaks each one's protocol on the port that it is given.
Options that the real program does not have end it, with argparse's own words and status 2.

Source: NeMo r2.0.0rc1 and Export-Deploy, scripts/deploy/nlp; vLLM and transformers as cited in nemodeploy/engines. No
code is taken from them.

The variable STAND_IN_LOAD_SECONDS makes it take its time where the weights would be loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Answer = tuple[int, object]
OPTIONS = {
    "nemo-triton": """
        --nemo_checkpoint --triton_model_name --triton_model_version --triton_port --triton_http_address --num_gpus
        --max_batch_size --debug_mode
    """,
    "nemo-hf-triton": """
        --hf_model_id_path --torch_dtype --tp_plan --triton_model_name --triton_port --triton_http_address
        --max_batch_size
    """,
    "nemo-trtllm": """
        --nemo_checkpoint --model_type --triton_model_name --triton_port --triton_http_address --num_gpus --dtype
        --triton_model_repository --max_input_len --max_output_len --max_batch_size --tensor_parallelism_size
    """,
    "vllm": """
        --served-model-name --host --port --tensor-parallel-size --pipeline-parallel-size --dtype --max-model-len
        --max-num-seqs --gpu-memory-utilization --nnodes --node-rank --master-addr --master-port
    """,
    "transformers": "--host --port --device --dtype",
}
OPTIONS["nemo-trtllm-early"] = OPTIONS["nemo-trtllm"] + " --service_port"
FLAGS = {
    "nemo-hf-triton": "--device_map --trust_remote_code",
    "vllm": "--headless --enforce-eager --trust-remote-code",
    "transformers": "--trust-remote-code",
}
# Of the Triton ones: the tensors they take besides `prompts`, the one that bounds the length, the one they answer with.
TENSORS = {
    "nemo-triton": (
        {"use_greedy", "add_BOS", "end_strings", "top_k", "top_p", "temperature"},
        "max_length",
        "sentences",
    ),
    "nemo-hf-triton": ({"top_k", "top_p", "temperature", "random_seed"}, "max_length", "sentences"),
    "nemo-trtllm": ({"top_k", "top_p", "temperature", "random_seed"}, "max_output_len", "outputs"),
    "nemo-trtllm-early": ({"top_k", "top_p", "temperature", "random_seed"}, "max_output_token", "outputs"),
}
# What each says once its weights are there and its port is open.
LISTENING = {
    **dict.fromkeys(
        TENSORS, "Started HTTPService at {host}:{port}\nInfer function available as model: `/v2/models/{name}`"
    ),
    "vllm": "Starting vLLM API server on http://{host}:{port}\nApplication startup complete.",
    "transformers": "Uvicorn running on http://{host}:{port}",
}


def say(line: str) -> None:
    """One line of log."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def load(kind: str, seconds: float) -> None:
    """Take that long; where the real one draws a bar over itself, so does this."""
    bar = {"vllm": "Loading safetensors checkpoint shards: {:3}% Completed", "transformers": "Loading weights: {:3}%|"}
    for step in range(5):
        if kind in bar:
            sys.stdout.write("\r" + bar[kind].format(20 * (step + 1)))
            sys.stdout.flush()
        time.sleep(seconds / 5)
    if kind in bar:
        say("")


def options(kind: str, words: list[str]) -> argparse.Namespace:
    """The real program's options, and nothing else."""
    parser = argparse.ArgumentParser(prog=kind, allow_abbrev=False)
    for name in OPTIONS[kind].split():
        parser.add_argument(name)
    for name in FLAGS.get(kind, "").split():
        parser.add_argument(name, action="store_true")
    if kind in ("vllm", "transformers"):
        parser.add_argument("path")
    return parser.parse_args(words)


class Model:
    """llama.cpp in this process, one request at a time."""

    def __init__(self, path: str) -> None:
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        whole = Path(path)
        parameters.model.path = str(Path(__file__).with_name("tiny.gguf") if whole.is_dir() else whole)
        parameters.n_ctx, parameters.n_parallel = 4096, 1
        parameters.special, parameters.warmup, parameters.verbosity = True, False, -1
        parameters.cpuparams.n_threads = 1
        self.server = xllamacpp.Server(parameters)
        self.lock = threading.Lock()

    def continues(self, prompt: str, tokens: int, stop: list[str]) -> str:
        """What follows, greedily, up to a stop string."""
        with self.lock:
            answer = self.server.handle_completions(
                {"prompt": prompt, "n_predict": tokens, "temperature": 0, "top_k": 1, "repeat_penalty": 1.0}
            )
        if "choices" not in answer:
            raise ValueError(str(answer.get("error", answer)))
        text = str(answer["choices"][0]["text"])
        ends = [text.find(end) for end in ("<|endoftext|>", *stop) if end and end in text]
        return text[: min(ends)] if ends else text


def triton(kind: str, name: str, model: Model) -> Callable[[str, str, Any], Answer]:
    """KServe v2, with the tensors of one of NeMo's two deployables."""
    others, length, output = TENSORS[kind]

    def respond(method: str, path: str, body: Any) -> Answer:
        if (method, path) == ("GET", f"/v2/models/{name}/ready"):
            return 200, None
        if (method, path) != ("POST", f"/v2/models/{name}/infer"):
            unknown = {"error": f"Request for unknown model: '{path}' is not found"}
            return (400 if path.endswith("/ready") else 404), unknown
        inputs = {one["name"]: one["data"] for one in body["inputs"]}
        for tensor in inputs:
            if tensor not in {"prompts", length, *others}:
                return 400, {"error": f"unexpected inference input '{tensor}' for model '{name}'"}
        if "prompts" not in inputs:
            return 400, {"error": f"input 'prompts' is missing for model '{name}'"}
        prompt = str(inputs["prompts"][0])
        try:
            text = model.continues(prompt, int(inputs[length][0]), list(inputs.get("end_strings", [])))
        except ValueError as error:  # told as text, with status 200
            prompt, text = "", f"An error occurred: {error}"
        data = [prompt + text] if kind == "nemo-triton" else [text]
        tensors = [{"name": output, "datatype": "BYTES", "shape": [1, 1], "data": data}]
        return 200, {"model_name": name, "model_version": "1", "outputs": tensors}

    return respond


def openai(kind: str, name: str, model: Model) -> Callable[[str, str, Any], Answer]:
    """OpenAI's completions, as strict about the model's name as the real one is."""

    def respond(method: str, path: str, body: Any) -> Answer:
        if (method, path) == ("GET", "/health"):
            return 200, None if kind == "vllm" else {"status": "ok"}
        if (method, path) == ("GET", "/v1/models"):
            return 200, {"object": "list", "data": [{"id": name, "object": "model"}]}
        if (method, path) != ("POST", "/v1/completions"):
            return 404, {"error": {"message": "Not Found", "code": 404}}
        if body is None:
            return (400 if kind == "vllm" else 422), {"detail": "JSON decode error"}
        if body.get("model") != name and kind == "vllm":
            return 404, {"error": {"message": f"The model `{body.get('model')}` does not exist.", "code": 404}}
        if body.get("model") != name:
            return 400, {"detail": f"Server is pinned to '{name}'; requested '{body.get('model')}'."}
        if not isinstance(body.get("max_tokens", 16), int):
            return (400 if kind == "vllm" else 500), {"error": {"message": "max_tokens", "code": 400}}
        stop = body.get("stop") or []
        text = model.continues(body["prompt"], body.get("max_tokens", 16), stop if isinstance(stop, list) else [stop])
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        return 200, {"id": "cmpl-0", "object": "text_completion", "model": name, "choices": [choice]}

    return respond


def _parsed(raw: bytes) -> Any:
    """What was sent; None when it is no JSON."""
    try:
        return json.loads(raw) if raw else {}
    except ValueError:
        return None


def serve(host: str, port: int, respond: Callable[[str, str, Any], Answer]) -> ThreadingHTTPServer:
    """Answer until stopped."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, body = respond(self.command, self.path, _parsed(raw))
            except (KeyError, TypeError) as error:
                status, body = 500, {"error": repr(error)}
            data = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = answer

        def log_message(self, format: str, *values: object) -> None:
            say(f'INFO: {self.client_address[0]} - "{format % values}"')

    return ThreadingHTTPServer((host, port), Handler)


def main() -> None:
    """Check the options, load, serve; processes that only help wait for their end."""
    kind = sys.argv[1]
    given = options(kind, sys.argv[2:])
    path = next(filter(None, (getattr(given, key, None) for key in ("path", "nemo_checkpoint", "hf_model_id_path"))))
    if not Path(path).exists():
        raise FileNotFoundError(f"Can't find {path}")
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    say(f"Initializing distributed: GLOBAL_RANK: {rank}, world_size={os.environ.get('SLURM_NTASKS', '1')}")
    say(f"llama: loading model {path} (stand-in: a tiny model on the CPU)")
    load(kind, float(os.environ.get("STAND_IN_LOAD_SECONDS", "0")))
    if rank:
        signal.pause()
    model = Model(path)
    names = (getattr(given, key, None) for key in ("triton_model_name", "served_model_name"))
    name = next(filter(None, names), path)
    host = getattr(given, "triton_http_address", None) or given.host
    port = int(getattr(given, "triton_port", None) or given.port)
    server = serve(host, port, (triton if kind.startswith("nemo") else openai)(kind, name, model))
    say(LISTENING[kind].format(host=host, port=port, name=name))
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say("stopped by an interrupt")


if __name__ == "__main__":
    main()
