"""What servers send back, taken apart. Shared by the engines' readers and by the expressions the job itself uses."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from nemodeploy.values import Reply

# Extended regular expressions, for bash. Special tokens such as <|eot_id|> and blanks in JSON text are no answer.
_NOTHING = r"(<[^<>\"[:space:]]*>|\\[ntr]|[[:space:]])*"
SOME_TEXT = _NOTHING + r"([^<\"\\[:space:]]|\\[^ntr])"
# The same, for servers that tell their errors as text: not `An error occurred: …`.
NO_ERROR_TEXT = _NOTHING + r"([^A<\"\\[:space:]]|\\[^ntr]|A[^n]|An[^ ]|An [^e]|An e[^r]|An er[^r])"
IN_BAND_ERROR = "An error occurred"


def json_object(status: int, body: str) -> tuple[dict[str, object], Reply | None]:
    """The object in an answer with status 200, or what is wrong with it."""
    refused = 400 <= status < 500
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}, Reply(problem=f"status {status} and no JSON: {short(body)}", refused=refused)
    if status != 200 or not isinstance(answer, dict):
        return {}, Reply(problem=f"status {status}: {short(answer)}", refused=refused)
    return answer, None


def generated(text: str, stop: Sequence[str]) -> Reply:
    """Generated text up to its stop string."""
    ended = cut(text, stop)
    return Reply(text=ended, stopped=ended != text)


def strings(value: object, count: int) -> list[str]:
    """So many texts, in order, out of a list however deep; none when there are others or too few."""
    found: list[object] = [value]
    while any(isinstance(one, list) for one in found):
        found = [inner for one in found for inner in (one if isinstance(one, list) else [one])]
    texts = [one for one in found if isinstance(one, str)]
    return texts if len(texts) == len(found) == count else []


def count(value: object) -> int | None:
    """A number of tokens, or None when it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def continuation(sentence: str, prompt: str) -> str:
    """What follows the prompt; the tokenizer may not give the prompt back letter by letter, its last word it does."""
    if sentence.startswith(prompt):
        return sentence[len(prompt) :]
    return re.sub(r"^(\s|<[^<>\s]*>)+", "", sentence.rpartition(last_word(prompt))[2])


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string."""
    ends = [text.find(word) for word in ("<|endoftext|>", *stop) if word and word in text]
    return text[: min(ends)] if ends else text


def last_word(prompt: str) -> str:
    """The last run of visible characters without special tokens: `Assistant` of `<extra_id_1>Assistant`."""
    words = re.sub(r"<[^<>\s]*>", " ", prompt).split()
    return words[-1] if words else ""


def in_json(text: str) -> str:
    """An expression that matches the text as it stands in a JSON string."""
    return re.sub(r"([\\.\[\](){}*+?|^$])", r"\\\1", json.dumps(text)[1:-1])


def names(text: str) -> str:
    """The same for a name or path that a server may send back with or without escapes for what is not ASCII."""
    plain = re.sub(r"([\\.\[\](){}*+?|^$])", r"\\\1", json.dumps(text, ensure_ascii=False)[1:-1])
    return plain if plain == in_json(text) else f"({plain}|{in_json(text)})"


def short(value: object) -> str:
    """The beginning of whatever it is, for an error message."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else text[:200] + " …"
