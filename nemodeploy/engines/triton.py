"""Triton's HTTP protocol (KServe v2) as NeMo's two deploy scripts speak it.

Source: pytriton v0.5.5 and NeMo r2.0.0rc1, nemo/deploy. The server is up before its model is: only the model's own
`ready` counts, and only an answer proves it. Errors of the model come as generated text, with status 200.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Prompting, Spec
from nemodeploy.engines import answers
from nemodeploy.engines.base import PROBE_TOKENS, Common, Phase, Probe, Question, needs_gpus
from nemodeploy.values import HttpRequest, Reply, Sampling

Setting = tuple[str, str, Sequence[object]]

OTHER_PORTS = (8001, 8002)  # gRPC and metrics


class Triton(Common):
    """What both have in common; `output` is the tensor that holds the text, `echoes` whether the prompt is in it."""

    protocol = "triton"
    stop_signal = "INT"  # serve() waits for KeyboardInterrupt; TERM ends it without its child's clean-up
    output = ""
    echoes = False
    phases = (
        Phase(name="loading", pattern="Restoration will occur within|Loading distributed checkpoint|Export(ing)? "),
        Phase(name="listening", pattern="Started HTTPService at"),
        Phase(name="warming_up", pattern="Infer function available as model"),
    )
    notice = "Triton opens 8001 (gRPC) and 8002 (metrics) on every interface, whatever its HTTP port"

    def rules(self, spec: Spec) -> Rules:
        """GPUs, and an HTTP port that is not one of Triton's others."""
        if spec.port in OTHER_PORTS:
            return (*needs_gpus(spec), ("port", f"Triton opens {spec.port} for something else", "port: auto"))
        return needs_gpus(spec)

    def cheap_probe(self, served: str) -> Probe:
        """The model's own readiness; not-ready is 400, and the server's readiness says nothing of the model."""
        request = HttpRequest(method="GET", path=f"/v2/models/{served}/ready", body="")
        return Probe(request=request, success="^200")

    def ready_probe(self, served: str, prompting: Prompting) -> Probe:
        """The model's own question; good when there is text, and the text is no error."""
        prompt = prompting.compose(prompting.probe)
        request = self.ask(served, prompting, prompt, max_tokens=PROBE_TOKENS)
        before = ".*" + answers.last_seen(prompt) if self.echoes else ""
        text = answers.SOME_TEXT if self.echoes else answers.NO_ERROR_TEXT
        head = rf'^200[[:space:]]+\{{.*"name": ?"{self.output}"[^]]*\][^]]*"data": ?\["'
        return Probe(request=request, success=head + before + text)

    def settings(self, prompting: Prompting, sampling: Sampling) -> Sequence[Setting]:
        """What is said beside the prompts, the same for all: name of the tensor, datatype, values."""
        raise NotImplementedError

    def asked(self, served: str, prompting: Prompting, prompts: Sequence[str], sampling: Sampling) -> HttpRequest:
        """One inference, as plain JSON; every tensor has a row for each prompt."""
        inputs = [tensor("prompts", "BYTES", [[prompt] for prompt in prompts])]
        for name, datatype, values in self.settings(prompting, sampling):
            inputs.append(tensor(name, datatype, [values] * len(prompts)))
        return HttpRequest(method="POST", path=f"/v2/models/{served}/infer", body=json.dumps({"inputs": inputs}))

    def replies(self, status: int, body: str, question: Question) -> tuple[Reply, ...]:
        """The output tensor's texts; one that begins with `An error occurred` is an error."""
        count = len(question.prompts)
        answer, problem = answers.json_object(status, body)
        if problem:
            return (problem,) * count
        outputs = answer.get("outputs")
        tensors = [one for one in outputs if isinstance(one, dict)] if isinstance(outputs, list) else []
        data = next((one.get("data") for one in tensors if one.get("name") == self.output), None)
        texts = answers.strings(data, count)
        if not texts:
            return (Reply(problem=f"no {self.output} in the answer: {answers.short(body)}"),) * count
        rows = [_rows(tensors, name, count) for name in ("offsets", "tokens")]
        of_each = zip(texts, question.prompts, *rows, strict=True)
        return tuple(self._reply(*one, stop=question.stop, most=question.cut_after) for one in of_each)

    def _reply(
        self, text: str, prompt: str, offsets: object, tokens: object, *, stop: Sequence[str], most: int | None
    ) -> Reply:
        echoed = self.echoes and text.startswith(prompt)
        if text.strip().startswith(answers.IN_BAND_ERROR) and not echoed:
            return Reply(problem=answers.short(text.strip()))
        if self.echoes and answers.last_word(prompt) not in text:
            return Reply(problem=f"the answer does not begin with the prompt: {answers.short(text)}")
        if not self.echoes:
            return answers.generated(text, stop)
        return answers.echoed(text, prompt, offsets, tokens, stop=stop, most=most)


def _rows(tensors: Sequence[Mapping[str, object]], name: str, count: int) -> Sequence[Sequence[object] | None]:
    """The values of a tensor with a row for each prompt; None for each: there is no such tensor."""
    data = next((one.get("data") for one in tensors if one.get("name") == name), None)
    if not isinstance(data, list) or not data or len(data) % count:
        return [None] * count
    width = len(data) // count
    return [data[start : start + width] for start in range(0, len(data), width)]


def tensor(name: str, datatype: str, rows: Sequence[Sequence[object]]) -> dict[str, object]:
    """One input: a row of values for each prompt."""
    values = [value for row in rows for value in row]
    return {"name": name, "datatype": datatype, "shape": [len(rows), len(rows[0])], "data": values}
