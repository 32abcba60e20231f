"""Every field of OpenAI's requests and what becomes of it; the checks, the OpenAPI document and docs/talk.md follow it.

Source: OpenAI's API reference, `/v1/chat/completions` and `/v1/completions`, as the client openai 3.57 has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CHAT, TEXT = "chat", "text"
MOST_CHOICES = 128
USED, SAME, REFUSED = "used", "changes nothing", "refused"

Schema = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """A field of a request. `becomes`: USED, SAME (what `schema` allows is taken, since without it the answer would be
    the same) or REFUSED (any value but null). `why`: a phrase for the error and the docs."""

    becomes: str
    schema: Schema
    why: str


def _used(schema: Schema, why: str) -> Field:
    return Field(becomes=USED, schema=schema, why=why)


def _same(schema: Schema, why: str) -> Field:
    return Field(becomes=SAME, schema=schema, why=why)


def _refused(why: str) -> Field:
    return Field(becomes=REFUSED, schema={"enum": []}, why=why)


_STRING: Schema = {"type": "string"}
_BOOLEAN: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 1}
_STOP: Schema = {"type": "string", "minLength": 1}
_STRINGS: Schema = {"type": "object", "properties": {}, "additionalProperties": _STRING}
_ANYTHING: Schema = {"type": "object", "properties": {}, "additionalProperties": {}}
_NONE: Schema = {"type": "array", "items": {}, "maxItems": 0}  # as answers of other servers have, for the history
PART: Schema = {
    "type": "object",
    "properties": {"type": {"enum": ["text"]}, "text": _STRING, "prompt_cache_breakpoint": _ANYTHING},
    "required": ["type", "text"],
}
_PARTS: Schema = {"anyOf": [_STRING, {"type": "array", "items": PART, "minItems": 1}]}
_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": _PARTS,
        "name": _STRING,
        "tool_calls": _NONE,
        "annotations": _NONE,
    },
    "required": ["role", "content"],
}
_PREDICTION: Schema = {
    "type": "object",
    "properties": {"type": {"enum": ["content"]}, "content": _PARTS},
    "required": ["type", "content"],
}
_STREAM_OPTIONS: Schema = {
    "type": "object",
    "properties": {
        "include_usage": _BOOLEAN,
        "include_obfuscation": _BOOLEAN,
        "continuous_usage_stats": _BOOLEAN,
    },
}
_NO_TOOLS = "there are no tools here"
_NO_PENALTY = "the engines take no penalties"
_NO_LIKELIHOODS = "the engines tell no likelihoods"

_BOTH: Mapping[str, Field] = {
    "model": _used(_STRING, "the deployment's model, and no other"),
    "n": _used({"type": "integer", "minimum": 1, "maximum": MOST_CHOICES}, "so many answers to each prompt"),
    "temperature": _used({"type": "number", "minimum": 0, "maximum": 2}, "where the engine takes it; unsaid it is 0"),
    "top_p": _used({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "where the engine takes it"),
    "seed": _used({"type": "integer"}, "where the engine takes it"),
    "stop": _used({"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": 16}]}, "besides the model's own"),
    "max_tokens": _used(_COUNT, "the most tokens of an answer"),
    "stream": _used(_BOOLEAN, "server-sent events"),
    "stream_options": _used(_STREAM_OPTIONS, "`include_usage`, and vLLM's `continuous_usage_stats`; nothing is padded"),
    "user": _same(_STRING, "a label for the provider"),
    "frequency_penalty": _same({"enum": [0]}, _NO_PENALTY),
    "presence_penalty": _same({"enum": [0]}, _NO_PENALTY),
    "logit_bias": _same({"enum": [{}]}, "the engines take no bias"),
}
_CHAT: Mapping[str, Field] = {
    "messages": _used({"type": "array", "items": _MESSAGE, "minItems": 1}, "put into the model's own template"),
    "max_completion_tokens": _used(_COUNT, "as `max_tokens`"),
    "safety_identifier": _same(_STRING, "a label for the provider"),
    "metadata": _same(_STRINGS, "a label of what is stored, and nothing is stored here"),
    "store": _same({"enum": [False]}, "nothing is stored here"),
    "prompt_cache_key": _same(_STRING, "a cache changes no answer"),
    "prompt_cache_options": _same(_ANYTHING, "a cache changes no answer"),
    "prompt_cache_retention": _same({"enum": ["in_memory", "24h"]}, "a cache changes no answer"),
    "prediction": _same(_PREDICTION, "a prediction changes no answer, only its speed"),
    "service_tier": _same({"enum": ["auto", "default"]}, "all requests are served alike"),
    "modalities": _same({"enum": [["text"]]}, "answers are text"),
    "response_format": _same({"enum": [{"type": "text"}]}, "the engines cannot be held to a format"),
    "tools": _same({"enum": [[]]}, _NO_TOOLS),
    "tool_choice": _same({"enum": ["none", "auto"]}, _NO_TOOLS),
    "parallel_tool_calls": _same(_BOOLEAN, _NO_TOOLS),
    "functions": _same({"enum": [[]]}, _NO_TOOLS),
    "function_call": _same({"enum": ["none", "auto"]}, _NO_TOOLS),
    "logprobs": _same({"enum": [False]}, _NO_LIKELIHOODS),
    "top_logprobs": _same({"enum": [0]}, _NO_LIKELIHOODS),
    "reasoning_effort": _same({"enum": ["none"]}, "these models do not reason before they answer"),
    "verbosity": _same({"enum": ["medium"]}, "the models are not trained to heed it"),
    "audio": _refused("answers are text"),
    "moderation": _refused("there is no moderation here"),
    "web_search_options": _refused("the model cannot search the web"),
}
_TEXT: Mapping[str, Field] = {
    "prompt": _used(
        {"anyOf": [_STRING, {"type": "array", "items": _STRING, "minItems": 1, "maxItems": MOST_CHOICES}]},
        "one text or several; token ids are refused, since the gateway has no tokenizer",
    ),
    "best_of": _same({"enum": [1]}, "or the value of `n`; the engines cannot rank answers"),
    "echo": _same({"enum": [False]}, "the answer comes without its prompt"),
    "suffix": _same({"enum": [""]}, "the models go on with a text and do not fill gaps"),
    "logprobs": _refused(_NO_LIKELIHOODS),
}
FIELDS: Mapping[str, Mapping[str, Field]] = {CHAT: {**_CHAT, **_BOTH}, TEXT: {**_TEXT, **_BOTH}}
