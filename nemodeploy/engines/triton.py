"""Triton's HTTP protocol (KServe v2) as NeMo's two deploy scripts speak it.

Source: pytriton v0.5.5 and NeMo r2.0.0rc1, nemo/deploy. The server is up before its model is: only the model's own
`ready` counts, and only an answer proves it. Errors of the model come as generated text, with status 200.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from nemodeploy.core.planning import Rules
from nemodeploy.core.spec import Prompting, Spec
from nemodeploy.engines import answers
from nemodeploy.engines.base import PROBE_TOKENS, Common, Phase, Probe, needs_gpus
from nemodeploy.values import HttpRequest, Reply

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
        before = ".*" + answers.in_json(answers.last_word(prompt)) if self.echoes else ""
        text = answers.SOME_TEXT if self.echoes else answers.NO_ERROR_TEXT
        head = rf'^200[[:space:]]+\{{.*"name": ?"{self.output}"[^]]*\][^]]*"data": ?\["'
        return Probe(request=request, success=head + before + text)

    def inputs(self, prompting: Prompting, prompt: str, max_tokens: int) -> Sequence[dict[str, object]]:
        """The tensors of one request."""
        raise NotImplementedError

    def ask(self, served: str, prompting: Prompting, prompt: str, *, max_tokens: int) -> HttpRequest:
        """One inference, as plain JSON."""
        body = {"inputs": list(self.inputs(prompting, prompt, max_tokens))}
        return HttpRequest(method="POST", path=f"/v2/models/{served}/infer", body=json.dumps(body))

    def read(self, status: int, body: str, *, served: str, prompt: str, stop: Sequence[str]) -> Reply:
        """The output tensor's first text; one that begins with `An error occurred` is an error."""
        answer, problem = answers.json_object(status, body)
        if problem:
            return Reply(problem=problem)
        outputs = answer.get("outputs")
        tensors = [one for one in outputs if isinstance(one, dict)] if isinstance(outputs, list) else []
        data = next((one.get("data") for one in tensors if one.get("name") == self.output), None)
        while isinstance(data, list) and data:
            data = data[0]
        if not isinstance(data, str):
            return Reply(problem=f"no {self.output} in the answer: {answers.short(body)}")
        if data.strip().startswith(answers.IN_BAND_ERROR):
            return Reply(problem=answers.short(data.strip()))
        if self.echoes and answers.last_word(prompt) not in data:
            return Reply(problem=f"the answer does not begin with the prompt: {answers.short(data)}")
        return answers.reply(answers.continuation(data, prompt) if self.echoes else data, stop)


def tensor(name: str, datatype: str, *values: object) -> dict[str, object]:
    """One input of batch size 1."""
    return {"name": name, "datatype": datatype, "shape": [1, len(values)], "data": list(values)}
