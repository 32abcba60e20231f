"""OpenAI's completions protocol, as vLLM, transformers serve and llama.cpp speak it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from nemodeploy.core.spec import Prompting
from nemodeploy.engines import answers
from nemodeploy.engines.base import PROBE_TOKENS, Common, Probe, Question
from nemodeploy.values import HttpRequest, Reply, Sampling


class OpenAi(Common):
    """A composed prompt to `/v1/completions`: no chat template of the server's comes between."""

    protocol = "openai"
    at_once = True

    def cheap_probe(self, served: str) -> Probe:
        """Its health; none of these servers takes a lock for that."""
        return Probe(request=HttpRequest(method="GET", path="/health", body=""), success="^200")

    def ready_probe(self, served: str, prompting: Prompting) -> Probe:
        """The model's own question; health stays 200 when the engine behind it hangs."""
        request = self.ask(served, prompting, prompting.compose(prompting.probe), max_tokens=PROBE_TOKENS)
        text, model = '"text": ?"' + answers.SOME_TEXT, f'"model": ?"{answers.names(served)}(@[^"]*)?"'
        return Probe(request=request, success=rf"^200[[:space:]]+\{{(.*{model}.*{text}|.*{text}.*{model})")

    def asked(self, served: str, prompting: Prompting, prompts: Sequence[str], sampling: Sampling) -> HttpRequest:
        """Only fields that the strictest of the three takes; one prompt, since not all of them take several."""
        body: dict[str, object] = {
            "model": served,
            "prompt": prompts[0],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
        }
        if sampling.temperature:
            body["top_p"] = sampling.top_p
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        stop = (*sampling.stop, *prompting.stop)[:4]  # OpenAI's own limit; the reader cuts at the others
        if stop:
            body["stop"] = list(stop)
        return HttpRequest(method="POST", path="/v1/completions", body=json.dumps(body))

    def replies(self, status: int, body: str, question: Question) -> tuple[Reply, ...]:
        """The first choice's text, if it is the served model that says it; some add a revision (`path@main`)."""
        answer, problem = answers.json_object(status, body)
        if problem:
            return (problem,)
        model = answer.get("model")
        if model != question.served and not (isinstance(model, str) and model.startswith(f"{question.served}@")):
            return (Reply(problem=f"another model answered: {answers.short(model)}"),)
        choices = answer.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        text = first.get("text") if isinstance(first, dict) else None
        if not isinstance(text, str):
            return (Reply(problem=f"no text in the answer: {answers.short(body)}"),)
        assert isinstance(first, dict)
        reply, usage = answers.generated(text, question.stop), answer.get("usage")
        counts = usage if isinstance(usage, dict) else {}
        return (
            replace(
                reply,
                stopped=reply.stopped or first.get("finish_reason") == "stop",
                prompt_tokens=answers.count(counts.get("prompt_tokens")),
                tokens=answers.count(counts.get("completion_tokens")),
            ),
        )

    def streamed(self, request: HttpRequest) -> HttpRequest | None:
        """As server-sent events."""
        return replace(request, body=json.dumps({**json.loads(request.body), "stream": True}))

    def piece(self, line: str) -> Reply | None:
        """The text of an event, and whether it is the last; an error is an event, too."""
        word, _, data = line.strip().partition(":")
        if word != "data":
            return None
        if data.strip() == "[DONE]":
            return Reply(stopped=True)
        answer, problem = answers.json_object(200, data)
        if problem:
            return problem
        if "error" in answer:
            return Reply(problem=answers.short(answer["error"]))
        choices = answer.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        text = first.get("text") if isinstance(first, dict) else None
        if not isinstance(first, dict) or not isinstance(text, str):
            return None
        return Reply(text=text, stopped=first.get("finish_reason") is not None)
