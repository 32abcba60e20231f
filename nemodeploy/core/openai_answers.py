"""Replies in the form of OpenAI's API: whole, in pieces, and the document that describes it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nemodeploy.core.openai_requests import PATHS, Asked, Refused
from nemodeploy.core.openai_table import CHAT, FIELDS, TEXT
from nemodeploy.values import Reply

# LangChain's class for completions looks into the usage unasked, and OpenAI's client makes null of what is not there.
UNCOUNTED = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
OBJECTS = {CHAT: ("chatcmpl-", "chat.completion"), TEXT: ("cmpl-", "text_completion")}
DONE = "[DONE]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answering:
    """One answer that is being given: its id, when it was asked (seconds since the Epoch), by which model."""

    asked: Asked
    id: str
    created: int
    model: str

    def whole(self, replies: Sequence[Reply]) -> dict[str, object]:
        """The answer at once; `replies` in the order of the prompts, `n` for each."""
        choices = []
        for index, reply in enumerate(replies):
            said = {"message": {"role": "assistant", "content": self.text(reply)}}
            said = said if self.asked.kind == CHAT else {"text": self.text(reply)}  # type: ignore[dict-item]
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": self.finish(reply)})
        return {**self._head(), "choices": choices, **(self._usage(replies) or self._uncounted())}

    def text(self, reply: Reply) -> str:
        """A talk's answer comes without the white space around it, a continuation exactly as it is."""
        return reply.text.strip() if self.asked.kind == CHAT else reply.text

    def finish(self, reply: Reply) -> str:
        """Why it ended: never nothing, which clients do not expect. Where neither a stop string came nor the server
        counts, it is taken for cut: who then reads on loses less than who takes a half for the whole."""
        if reply.tokens is None:
            return "stop" if reply.stopped else "length"
        return "length" if reply.tokens >= self.asked.sampling.max_tokens else "stop"

    def usage(self, replies: Sequence[Reply]) -> dict[str, int] | None:
        """As the server counted; None: it did not."""
        asked, made = [one.prompt_tokens for one in replies[:: self.asked.n]], [one.tokens for one in replies]
        if None in asked or None in made:
            return None
        before, after = sum(filter(None, asked)), sum(filter(None, made))
        return {"prompt_tokens": before, "completion_tokens": after, "total_tokens": before + after}

    def _usage(self, replies: Sequence[Reply]) -> dict[str, object]:
        """Clients read into it where it is there, so it is never null."""
        usage = self.usage(replies)
        return {"usage": usage} if usage else {}

    def _uncounted(self) -> dict[str, object]:
        return {"usage": UNCOUNTED} if self.asked.kind == TEXT else {}

    def opening(self) -> list[dict[str, object]]:
        """The pieces before any text: whose turn it is."""
        if self.asked.kind != CHAT:
            return []
        count = len(self.asked.prompts) * self.asked.n
        return [self._piece(index, {"delta": {"role": "assistant", "content": ""}}, None) for index in range(count)]

    def pieces(self, index: int, reply: Reply) -> list[dict[str, object]]:
        """The text of one choice, and why it ended."""
        if self.asked.kind != CHAT:
            return [self._piece(index, {"text": self.text(reply)}, self.finish(reply), reply)]
        said = self._piece(index, {"delta": {"content": self.text(reply)}}, None, reply)
        return [said, self._piece(index, {"delta": {}}, self.finish(reply), reply)]

    def closing(self, replies: Sequence[Reply]) -> list[dict[str, object]]:
        """The usage, where it was asked for and the server counted."""
        usage = self._usage(replies)
        return [{**self._head(chunk=True), "choices": [], **usage}] if usage else []

    def _piece(
        self, index: int, said: Mapping[str, object], finish: str | None, reply: Reply | None = None
    ) -> dict[str, object]:
        choice = {"index": index, **said, "logprobs": None, "finish_reason": finish}
        usage = self._usage([reply]) if reply and self.asked.running_usage else {}
        return {**self._head(chunk=True), "choices": [choice], **usage}

    def _head(self, *, chunk: bool = False) -> dict[str, object]:
        prefix, name = OBJECTS[self.asked.kind]
        suffix = ".chunk" if chunk and self.asked.kind == CHAT else ""
        return {"id": prefix + self.id, "object": name + suffix, "created": self.created, "model": self.model}


def refusal(reply: Reply) -> Refused | None:
    """What a reply without text means to a client: its own fault, the server's, or to come again."""
    if not reply.problem:
        return None
    status = 400 if reply.refused else 503 if reply.away else 500
    return Refused(status, f"the server says: {reply.problem}", code="unavailable" if reply.away else None)


def model_card(model: str) -> dict[str, object]:
    """An entry in the list of models."""
    return {"id": model, "object": "model", "created": 0, "owned_by": "nemodeploy"}


def _or_null(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"enum": [*schema["enum"], None]} if "enum" in schema else schema


def describe(version: str) -> dict[str, object]:
    """The OpenAPI document."""
    answer = {"description": "as in OpenAI's API; errors in its form, too"}
    paths: dict[str, Any] = {
        "/health": {"get": {"responses": {"200": answer}, "security": []}},
        "/v1/models": {"get": {"responses": {"200": answer}}},
    }
    for kind, path in PATHS.items():
        needed = ["model", "messages" if kind == CHAT else "prompt"]
        properties = {name: _or_null(field.schema) for name, field in FIELDS[kind].items()}
        schema = {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths[path] = {"post": {"requestBody": body, "responses": {"200": answer}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "nemodeploy gateway", "version": version},
        "paths": paths,
        "security": [{"key": []}],
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }
