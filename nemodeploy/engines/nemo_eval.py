"""NeMo 1.x's megatron_gpt_eval.py with its Flask text server: `PUT /generate`, one request at a time.

Source: NeMo v1.23.0, examples/nlp/language_modeling/megatron_gpt_eval.py and conf/megatron_gpt_inference.yaml;
nemo/collections/nlp/modules/common/text_generation_server.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from nemodeploy.core.planning import BYTES_PER_VALUE, Rules
from nemodeploy.core.spec import Option, Prompting, Spec
from nemodeploy.engines import answers
from nemodeploy.engines.base import (
    PROBE_TOKENS,
    Common,
    Phase,
    Probe,
    Question,
    needs_gpus,
    takes_precision,
    whole_kv_heads,
)
from nemodeploy.values import HttpRequest, Reply, Sampling

SEEDS = 2**24  # its ranks are told a seed as float32, and have to understand the same
PRECISIONS = {"bf16": "bf16", "fp16": "16", "fp32": "32"}  # in Lightning's words


class NemoEval(Common):
    """The engine of the 340B cards.

    Its helpers wait in a collective of 5 hours (NLPDDPStrategy, timeout 18000 s), so half an hour without a request
    is far from too long.
    """

    name = "nemo-eval"
    protocol = "nemo-generate"
    template = "engines/nemo-eval.sh.j2"
    program = ("/usr/bin/python3", "/opt/NeMo/examples/nlp/language_modeling/megatron_gpt_eval.py")
    most_batch = 128
    shares_seed = True
    options = (
        Option(
            name="megatron_amp_O2",
            default=True,
            about="keep parameters in bf16; false keeps them in fp32, twice the size",
        ),
    )
    joined_pattern = "Initializing distributed: GLOBAL_RANK"
    phases = (
        Phase(name="joining", pattern="Initializing distributed: GLOBAL_RANK"),
        Phase(name="loading", pattern="All distributed processes registered|Restoration will occur within"),
        Phase(name="warming_up", pattern=r"^\*{27}"),
        Phase(name="listening", pattern=r"Running on http://"),
    )
    binds_all = True

    def rules(self, spec: Spec) -> Rules:
        """Devices x nodes = TP x PP holds for all engines; KV heads stay whole."""
        found = [*needs_gpus(spec), *takes_precision(spec, PRECISIONS), *whole_kv_heads(spec)]
        if spec.serving.max_batch > self.most_batch:
            what = f"{self.name} takes at most {self.most_batch} prompts in a request"
            found.append(("serving.max_batch", what, f"{self.most_batch} or fewer"))
        return found

    def bytes_per_weight(self, spec: Spec) -> float:
        """params_dtype is fp32 unless megatron_amp_O2 is set."""
        return BYTES_PER_VALUE[spec.precision] if spec.options["megatron_amp_O2"] else BYTES_PER_VALUE["fp32"]

    def arguments(self, spec: Spec, model_path: str, bind: str) -> tuple[str, ...]:
        """All three parallel sizes are given: left to -1 they are read from the checkpoint only for old formats."""
        return (
            f"gpt_model_file={_for_hydra(model_path)}",
            "server=True",
            f"tensor_model_parallel_size={spec.layout.tensor_parallel}",
            f"pipeline_model_parallel_size={spec.layout.pipeline_parallel}",
            "pipeline_model_parallel_split_rank=0",
            f"trainer.devices={spec.hardware.devices_per_node}",
            f"trainer.num_nodes={spec.nodes}",
            f"trainer.precision={PRECISIONS[spec.precision]}",
            f"megatron_amp_O2={spec.options['megatron_amp_O2']}",
            "web_server=False",
        )

    def cheap_probe(self, served: str) -> Probe:
        """A request for zero tokens is refused with status 200 and a sentence that only this server says."""
        body = json.dumps({"sentences": ["a"], "tokens_to_generate": 0})
        request = HttpRequest(method="PUT", path="/generate", body=body)
        return Probe(request=request, success=r'^200[[:space:]]+"tokens_to_generate must be an integer')

    def ready_probe(self, served: str, prompting: Prompting) -> Probe:
        """The model's own question, greedily; good when text follows the prompt's last word in the answer."""
        prompt = prompting.compose(prompting.probe)
        request = self.ask(served, prompting, prompt, max_tokens=PROBE_TOKENS)
        last = answers.last_seen(prompt)
        return Probe(request=request, success=r'^200[[:space:]]+\{.*"sentences": ?\[.*' + last + answers.SOME_TEXT)

    def asked(self, served: str, prompting: Prompting, prompts: Sequence[str], sampling: Sampling) -> HttpRequest:
        """As in the model's card; it takes no temperature of 0, greedy has a word of its own."""
        body = {
            "sentences": list(prompts),
            "tokens_to_generate": sampling.max_tokens,
            "temperature": sampling.temperature or 1.0,
            "add_BOS": prompting.add_bos,
            "top_k": 0,
            "top_p": sampling.top_p,
            "greedy": sampling.temperature == 0,
            "all_probs": False,
            "repetition_penalty": 1.0,
            "min_tokens_to_generate": 1,
            "end_strings": list(dict.fromkeys((answers.END_OF_TEXT, *prompting.stop, *sampling.stop))),
        }
        if sampling.seed is not None:
            body["random_seed"] = sampling.seed % SEEDS
        return HttpRequest(method="PUT", path="/generate", body=json.dumps(body))

    def replies(self, status: int, body: str, question: Question) -> tuple[Reply, ...]:
        """Status 200 with a JSON string is NeMo's way of refusing; a sentence holds prompt and continuation."""
        answer, problem = answers.json_object(status, body)
        if problem:
            refused = problem.refused or (status == 200 and body.lstrip().startswith('"'))
            return (replace(problem, refused=refused),) * len(question.prompts)
        sentences = answers.strings(answer.get("sentences"), len(question.prompts))
        if not sentences:
            return (Reply(problem=f"no sentences in the answer: {answers.short(body)}"),) * len(question.prompts)
        lists = [answer.get(key) for key in ("offsets", "tokens")]
        nothing = [None] * len(question.prompts)
        rows = [one if isinstance(one, list) and len(one) == len(question.prompts) else nothing for one in lists]
        of_each = zip(sentences, question.prompts, *rows, strict=True)
        return tuple(answers.echoed(*one, stop=question.stop, most=question.cut_after) for one in of_each)


def _for_hydra(path: str) -> str:
    """A value for Hydra's own grammar, which gives `=`, `,`, brackets and quotes a meaning."""
    if re.fullmatch(r"[A-Za-z0-9_./:@+-]+", path):
        return path
    return "'" + path.replace("\\", "\\\\").replace("'", "\\'") + "'"
