"""OpenAI's completions protocol, as vLLM, transformers serve and llama.cpp speak it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from nemodeploy.core.spec import Prompting
from nemodeploy.engines import answers
from nemodeploy.engines.base import PROBE_TOKENS, Common, Probe
from nemodeploy.values import HttpRequest, Reply


class OpenAi(Common):
    """A composed prompt to `/v1/completions`: no chat template of the server's comes between."""

    protocol = "openai"

    def cheap_probe(self, served: str) -> Probe:
        """Its health; none of these servers takes a lock for that."""
        return Probe(request=HttpRequest(method="GET", path="/health", body=""), success="^200")

    def ready_probe(self, served: str, prompting: Prompting) -> Probe:
        """The model's own question; health stays 200 when the engine behind it hangs."""
        request = self.ask(served, prompting, prompting.compose(prompting.probe), max_tokens=PROBE_TOKENS)
        text, model = '"text": ?"' + answers.SOME_TEXT, f'"model": ?"{answers.names(served)}(@[^"]*)?"'
        return Probe(request=request, success=rf"^200[[:space:]]+\{{(.*{model}.*{text}|.*{text}.*{model})")

    def ask(self, served: str, prompting: Prompting, prompt: str, *, max_tokens: int) -> HttpRequest:
        """Greedy; only fields that the strictest of the three takes."""
        body: dict[str, object] = {"model": served, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        if prompting.stop:
            body["stop"] = list(prompting.stop[:4])  # OpenAI's own limit
        return HttpRequest(method="POST", path="/v1/completions", body=json.dumps(body))

    def read(self, status: int, body: str, *, served: str, prompt: str, stop: Sequence[str]) -> Reply:
        """The first choice's text, if it is the served model that says it; some add a revision (`path@main`)."""
        answer, problem = answers.json_object(status, body)
        if problem:
            return Reply(problem=problem)
        model = answer.get("model")
        if model != served and not (isinstance(model, str) and model.startswith(f"{served}@")):
            return Reply(problem=f"another model answered: {answers.short(model)}")
        choices = answer.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        text = first.get("text") if isinstance(first, dict) else None
        if not isinstance(text, str):
            return Reply(problem=f"no text in the answer: {answers.short(body)}")
        return answers.reply(text, stop)
