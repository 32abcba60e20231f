"""NeMo 1.x's megatron_gpt_eval.py with its Flask text server: `PUT /generate`, one request at a time.

Source: NeMo v1.23.0, examples/nlp/language_modeling/megatron_gpt_eval.py and conf/megatron_gpt_inference.yaml;
nemo/collections/nlp/modules/common/text_generation_server.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from nemodeploy.core.spec import Prompting, Spec
from nemodeploy.engines.base import Phase, Probe
from nemodeploy.values import HttpRequest, Reply

PROBE_TOKENS = 24
_AFTER_PROMPT = r"(\\[ntr]|[[:space:]])*([^\"\\[:space:]]|\\[^ntr])"


class NemoEval:
    """The engine of the 340B cards."""

    name = "nemo-eval"
    protocol = "nemo-generate"
    template = "engines/nemo-eval.sh.j2"
    program = ("/usr/bin/python3", "/opt/NeMo/examples/nlp/language_modeling/megatron_gpt_eval.py")
    reserve_gib = 6.0
    joined_pattern = "Initializing distributed: GLOBAL_RANK"
    phases = (
        Phase(name="joining", pattern="Initializing distributed: GLOBAL_RANK"),
        Phase(name="loading", pattern="All distributed processes registered|Restoration will occur within"),
        Phase(name="warming_up", pattern=r"^\*{27}"),
        Phase(name="listening", pattern=r"Running on http://"),
    )
    notice = "NeMo's server listens on every interface of its node, without a password"

    def rules(self, spec: Spec) -> Sequence[tuple[str, str, str]]:
        """NeMo asserts devices x nodes = TP x PP, and cannot cut KV heads finer than one per GPU."""
        tensor, pipeline = spec.layout.tensor_parallel, spec.layout.pipeline_parallel
        gpus = spec.nodes * spec.gpus_per_node
        found = []
        if tensor * pipeline != gpus:
            what = f"TP {tensor} x PP {pipeline} is {tensor * pipeline} ranks, but {spec.nodes} nodes x "
            best = min(spec.gpus_per_node, spec.model.kv_heads)
            instead = f"--set layout.tensor_parallel={best} --set layout.pipeline_parallel={max(gpus // best, 1)}"
            found.append(("layout", f"{what}{spec.gpus_per_node} GPUs are {gpus}", instead))
        if spec.model.kv_heads % tensor:
            what = f"{tensor} does not divide {spec.model.kv_heads} KV heads"
            found.append(("layout.tensor_parallel", what, f"use a divisor of {spec.model.kv_heads}"))
        return found

    def arguments(self, spec: Spec, model_path: str) -> tuple[str, ...]:
        """All three parallel sizes are given: left to -1 they are read from the checkpoint only for old formats."""
        return (
            f"gpt_model_file={model_path}",
            "server=True",
            f"tensor_model_parallel_size={spec.layout.tensor_parallel}",
            f"pipeline_model_parallel_size={spec.layout.pipeline_parallel}",
            "pipeline_model_parallel_split_rank=0",
            f"trainer.devices={spec.gpus_per_node}",
            f"trainer.num_nodes={spec.nodes}",
            f"trainer.precision={spec.precision}",
            "megatron_amp_O2=True",  # otherwise the parameters are held in fp32, twice the size
            "web_server=False",
        )

    def cheap_probe(self) -> Probe:
        """A request for zero tokens is refused with status 200 and a sentence that only this server says."""
        body = json.dumps({"sentences": ["a"], "tokens_to_generate": 0})
        request = HttpRequest(method="PUT", path="/generate", body=body)
        return Probe(request=request, success=r'^200[[:space:]]+"tokens_to_generate must be an integer')

    def ready_probe(self, prompting: Prompting) -> Probe:
        """The model's own question, greedily; good when text follows the prompt's last word in the answer."""
        prompt = prompting.compose(prompting.probe)
        request = self.ask(prompting, prompt, max_tokens=PROBE_TOKENS)
        last = _ere_escape(json.dumps(_last_word(prompt))[1:-1])
        return Probe(request=request, success=r'^200[[:space:]]+\{.*"sentences": ?\[.*' + last + _AFTER_PROMPT)

    def ask(self, prompting: Prompting, prompt: str, *, max_tokens: int) -> HttpRequest:
        """Greedy generation, as in the model's card."""
        body = {
            "sentences": [prompt],
            "tokens_to_generate": max_tokens,
            "temperature": 1.0,
            "add_BOS": False,
            "top_k": 0,
            "top_p": 1.0,
            "greedy": True,
            "all_probs": False,
            "repetition_penalty": 1.0,
            "min_tokens_to_generate": 1,
            "end_strings": ["<|endoftext|>", *(stop for stop in prompting.stop if stop != "<|endoftext|>")],
        }
        return HttpRequest(method="PUT", path="/generate", body=json.dumps(body))

    def read(self, status: int, body: str, *, prompt: str, stop: Sequence[str]) -> Reply:
        """Status 200 with a JSON string is NeMo's way of refusing; the sentence holds prompt and continuation."""
        try:
            answer = json.loads(body)
        except ValueError:
            return Reply(problem=f"status {status} and no JSON: {_short(body)}")
        if status != 200 or not isinstance(answer, dict):
            return Reply(problem=f"status {status}: {_short(answer)}")
        sentences = answer.get("sentences")
        if not isinstance(sentences, list) or not sentences or not isinstance(sentences[0], str):
            return Reply(problem=f"no sentences in the answer: {_short(body)}")
        text = _cut(_continuation(sentences[0], prompt), stop).strip()
        return Reply(text=text) if text else Reply(problem="the answer holds no text after the prompt")


def _continuation(sentence: str, prompt: str) -> str:
    """What follows the prompt; the tokenizer may not give the prompt back letter by letter, its last word it does."""
    if sentence.startswith(prompt):
        return sentence[len(prompt) :]
    return sentence.rpartition(_last_word(prompt))[2]


def _cut(text: str, stop: Sequence[str]) -> str:
    ends = [text.find(word) for word in ("<|endoftext|>", *stop) if word and word in text]
    return text[: min(ends)] if ends else text


def _last_word(prompt: str) -> str:
    """The last run of visible characters without special tokens: `Assistant` of `<extra_id_1>Assistant`."""
    words = re.sub(r"<[^<>\s]*>", " ", prompt).split()
    return words[-1] if words else ""


def _ere_escape(text: str) -> str:
    return re.sub(r"([\\.\[\](){}*+?|^$])", r"\\\1", text)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else text[:200] + " …"
