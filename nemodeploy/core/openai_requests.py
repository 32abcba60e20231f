"""What a client of OpenAI's API asks for, in an engine's terms; what cannot be had is refused by name.

openai_table.py says what becomes of every field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nemodeploy.core.openai_table import CHAT, FIELDS, MOST_CHOICES, TEXT, Field, Schema
from nemodeploy.core.spec import Prompting
from nemodeploy.values import Sampling

PATHS = {CHAT: "/v1/chat/completions", TEXT: "/v1/completions"}
TEXT_TOKENS = 16  # OpenAI's own default of /v1/completions
LEAST = 1e-5  # below it a temperature is greedy, as in vLLM, and a top_p this; float32 knows no such numbers any more
RETRY_AFTER_S = 5
SHOWN = 60  # characters of a refused value
LEFT = 499  # nginx's number for a client that has closed the connection; nobody sees it


class Refused(Exception):
    """A request that is not carried out: an HTTP status, a sentence, the parameter, and OpenAI's word for it."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        """`status` 4xx: the client's fault."""
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def document(self) -> dict[str, object]:
        """OpenAI's form of it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """What HTTP wants to be said with its status."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": str(RETRY_AFTER_S)} if self.status == 503 else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Abilities:
    """What a deployment can do: its model's name and prompting, tokens for prompt and answer together, most tokens of
    an answer, and which of temperature, top_p and seed its engine can be told."""

    model: str
    prompting: Prompting
    context: int
    longest_answer: int
    samples_by: frozenset[str]
    engine: str

    def room(self, prompt: str, usual: int) -> int:
        """How long an answer may be when nobody says: the usual length, as far as there may be room for it."""
        return max(min(usual, self.longest_answer, self.context - words_in(prompt)), 1)


def words_in(prompt: str) -> int:
    """The least number of tokens that a prompt can have: none holds more than a word."""
    return len(prompt.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request that can be carried out. `prompts`: composed; each gets `n` answers. `running_usage`: with every piece,
    which is vLLM's word and not OpenAI's."""

    kind: str
    prompts: tuple[str, ...]
    n: int
    sampling: Sampling
    stream: bool
    include_usage: bool = False
    running_usage: bool = False


def read_request(kind: str, raw: bytes, can: Abilities) -> Asked:
    """A request's body. Raises Refused."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise Refused(400, "the body must be a JSON object")
    given = {key: value for key, value in data.items() if value is not None}
    if kind == TEXT and _equal(given.get("best_of"), given.get("n", 1)):
        del given["best_of"]  # the best so many of so many are all of them
    _check(kind, given)
    if "model" not in given:
        raise Refused(400, f"model is missing; it is {can.model}", "model")
    if given["model"] != can.model:
        raise Refused(404, f"there is no model {given['model']!r}; it is {can.model}", "model", "model_not_found")
    options = given.get("stream_options", {})
    if options and not given.get("stream"):
        raise Refused(400, "stream_options goes with stream", "stream_options")
    prompts = _talk(given, can) if kind == CHAT else _prompts(given)
    n = given.get("n", 1)
    if len(prompts) * n > MOST_CHOICES:
        raise Refused(400, f"{len(prompts)} prompts with n {n} are more than {MOST_CHOICES} answers", "n")
    usual = can.prompting.max_tokens if kind == CHAT else TEXT_TOKENS
    sampling = _sampling(given, can, min(can.room(prompt, usual) for prompt in prompts))
    for prompt in prompts:
        _fits_in(prompt, sampling.max_tokens, can)
    return Asked(
        kind=kind,
        prompts=prompts,
        n=n,
        sampling=sampling,
        stream=given.get("stream", False),
        include_usage=options.get("include_usage") or False,
        running_usage=options.get("continuous_usage_stats") or False,
    )


def _check(kind: str, given: Mapping[str, Any]) -> None:
    for key, value in given.items():
        known = FIELDS[kind].get(key)
        if known is None:
            raise Refused(400, f"unknown parameter {key[:100]!r}", key[:100], "unknown_parameter")
        wrong = _odd(key, value) or misfit(value, known.schema, key)
        if wrong and "enum" in known.schema:
            raise Refused(400, _unavailable(key, value, known), key, "unsupported_parameter")
        if wrong:
            raise Refused(400, wrong, key)


def _unavailable(key: str, value: object, known: Field) -> str:
    """A value that would have to change something; which others change nothing is said, too."""
    text = json.dumps(value)
    said = text if len(text) <= SHOWN else text[:SHOWN] + "…"
    others = " or ".join(json.dumps(one) for one in known.schema["enum"])
    way = f"leave it out or say {others}" if others else "leave it out"
    return f"{key} {said} is not available: {known.why}; {way}"


def _odd(key: str, value: Any) -> str:
    """What clients send that deserves better words than those of the schema."""
    if key == "prompt" and isinstance(value, list) and any(isinstance(one, (int, list)) for one in value):
        return "prompt has token ids; the gateway has no tokenizer and takes text only"
    messages = value if key == "messages" and isinstance(value, list) else []
    pairs = ((f"messages[{place}]", one) for place, one in enumerate(messages) if isinstance(one, dict))
    return next(filter(None, (_odd_message(at, one) for at, one in pairs)), "")


def _odd_message(at: str, message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if message.get("role") in ("tool", "function") or message.get("tool_calls") or message.get("function_call"):
        return f"{at} is about a tool; there are no tools here"
    if "content" in message and content is None:
        return f"{at}.content is null; every message needs a text here"
    for place, part in enumerate(content if isinstance(content, list) else []):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            return f"{at}.content[{place}] is of type {json.dumps(kind[:SHOWN])}; the model reads text only"
    return ""


_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def misfit(value: object, schema: Schema, at: str) -> str:
    """What is wrong with a value, and where; empty: nothing. The part of JSON Schema that the table uses."""
    if not schema:
        return ""
    if "anyOf" in schema:
        found = [misfit(value, one, at) for one in schema["anyOf"]]
        return "" if "" in found else found[-1] if isinstance(value, list) else found[0]
    if "enum" in schema:
        fits = any(_equal(value, one) for one in schema["enum"])
        return "" if fits else f"{at} must be {' or '.join(map(json.dumps, schema['enum']))}"
    kind = schema["type"]
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return f"{at} must be of type {kind}"
    return _BOUNDS[kind](value, schema, at)


def _equal(value: object, one: object) -> bool:
    """As in JSON: 0 is 0.0 and not false."""
    return value == one and isinstance(value, bool) == isinstance(one, bool)


def _number(value: Any, schema: Schema, at: str) -> str:
    least, above, most = schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum")
    if value != value or (least is not None and value < least) or (above is not None and value <= above):
        return f"{at} must be {'at least ' + str(least) if above is None else 'above ' + str(above)}"
    return f"{at} must be at most {most}" if most is not None and value > most else ""


def _array(value: Any, schema: Schema, at: str) -> str:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    if len(value) < least:
        return f"{at} must not be empty"
    if most is not None and len(value) > most:
        return f"{at} has {len(value)} items; at most {most}"
    return next(filter(None, (misfit(one, schema["items"], f"{at}[{i}]") for i, one in enumerate(value))), "")


def _object(value: Any, schema: Schema, at: str) -> str:
    for key in schema.get("required", ()):
        if key not in value:
            return f"{at}.{key} is missing"
    for key, inner in value.items():
        if inner is None and key not in schema.get("required", ()):
            continue
        known = schema["properties"].get(key, schema.get("additionalProperties"))
        unknown = f"{at}.{key[:100]} is not available here; leave it out"
        wrong = unknown if known is None else misfit(inner, known, f"{at}.{key[:100]}")
        if wrong:
            return wrong
    return ""


_BOUNDS = {
    "string": lambda value, schema, at: f"{at} must not be empty" if len(value) < schema.get("minLength", 0) else "",
    "boolean": lambda *_: "",
    "integer": _number,
    "number": _number,
    "array": _array,
    "object": _object,
}


def _prompts(given: Mapping[str, Any]) -> tuple[str, ...]:
    if "prompt" not in given:
        raise Refused(400, "prompt is missing", "prompt")
    prompt = given["prompt"]
    return (prompt,) if isinstance(prompt, str) else tuple(prompt)


def _talk(given: Mapping[str, Any], can: Abilities) -> tuple[str, ...]:
    """Messages in the model's own template: what the system says first, then user and assistant in turn."""
    if not can.prompting.turn:
        what = f"{can.model} continues text and does not converse; use {PATHS[TEXT]}"
        raise Refused(400, what, "messages", "unsupported_parameter")
    if "messages" not in given:
        raise Refused(400, "messages is missing", "messages")
    _one_of_each(given["messages"])
    messages = [(one["role"], _content(one["content"])) for one in given["messages"]]
    told = 0
    while told < len(messages) and messages[told][0] in ("system", "developer"):
        told += 1
    for place, (role, _) in enumerate(messages[told:], told):
        wanted = "user" if (place - told) % 2 == 0 else "assistant"
        if role != wanted:
            raise Refused(400, f"messages[{place}].role is {role}; {wanted} and no other comes here", "messages")
    said = [text for _, text in messages[told:]]
    if len(said) % 2 == 0:
        raise Refused(400, "the last message must be the user's", "messages")
    system = "\n".join(text for _, text in messages[:told]) if told else None
    return (can.prompting.converse(said[::2], said[1::2], system=system),)


def _one_of_each(messages: Sequence[Mapping[str, Any]]) -> None:
    """A name says nothing where it is the only one of its role; a template has no place for several. Raises Refused."""
    names: dict[str, str] = {}
    for place, one in enumerate(messages):
        name = one.get("name")
        if name is not None and names.setdefault(one["role"], name) != name:
            what = f"messages[{place}].name is another than before for the role {one['role']}, and the model's template"
            raise Refused(400, f"{what} has no place for names; write it into the content", "messages")


def _content(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _sampling(given: Mapping[str, Any], can: Abilities, usual: int) -> Sampling:
    key = "max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"
    if given.get("max_tokens", given.get(key)) != given.get(key):
        raise Refused(400, "max_tokens and max_completion_tokens are different; leave one out", "max_tokens")
    most = given.get(key, usual)
    if most > can.longest_answer:
        raise Refused(400, f"{key} is {most}; an answer has at most {can.longest_answer} tokens here", key)
    stop = given.get("stop", ())
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    for one in stop:
        _is_text(one, "the stop string", "stop")
    temperature = given.get("temperature", 0)
    if temperature < LEAST:  # greedy; what else is said of sampling then changes nothing, and is the same for all
        return Sampling(max_tokens=most, stop=stop)
    for name, neutral in (("temperature", 0), ("top_p", 1), ("seed", None)):
        if name in given and given[name] != neutral and name not in can.samples_by:
            what = f"{name} cannot be told to {can.engine}; leave it out"
            raise Refused(400, what, name, "unsupported_parameter")
    top_p = max(given.get("top_p", 1.0), LEAST)
    return Sampling(max_tokens=most, temperature=temperature, top_p=top_p, seed=given.get("seed"), stop=stop)


def _is_text(text: str, what: str, param: str | None = None) -> None:
    """Raises Refused for characters that no tokenizer takes."""
    if "\0" in text:
        raise Refused(400, f"{what} has a NUL as its character {text.index(chr(0)) + 1}", param)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"{what} has half a surrogate pair as its character {error.start + 1}"
        raise Refused(400, what, param) from None


def _fits_in(prompt: str, max_tokens: int, can: Abilities) -> None:
    """What surely does not, and what no tokenizer or no model takes."""
    _is_text(prompt, "the prompt")
    if not prompt.strip():
        raise Refused(400, "the prompt is empty; there is nothing to go on with")
    words = words_in(prompt)
    if words + max_tokens > can.context:
        what = f"the prompt has at least {words} tokens, and with max_tokens {max_tokens} that is more than"
        raise Refused(400, f"{what} the {can.context} that there are", code="context_length_exceeded")
