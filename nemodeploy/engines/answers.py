"""What servers send back, taken apart. Shared by the engines' readers and by the expressions the job itself uses."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from nemodeploy.core.foreign import wash_line
from nemodeploy.values import Reply

# Extended regular expressions, for bash. Special tokens such as <|eot_id|> and blanks in JSON text are no answer.
_NOTHING = r"(<[^<>\"[:space:]]*>|\\[ntr]|[[:space:]])*"
SOME_TEXT = _NOTHING + r"([^<\"\\[:space:]]|\\[^ntr])"
# The same, for servers that tell their errors as text: not `An error occurred: …`.
NO_ERROR_TEXT = _NOTHING + r"([^A<\"\\[:space:]]|\\[^ntr]|A[^n]|An[^ ]|An [^e]|An e[^r]|An er[^r])"
# What nobody can see, beside ASCII's own blanks: control and format characters, joiners, fillers, variation selectors,
# tags and wide blanks. Once for the reader, once for the job, which takes it out of an answer first: as UTF-8, in the
# C locale, and as JSON's escapes.
_INVISIBLE = re.compile(
    "[\x00-\x20\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e01ff]"
)
INVISIBLE_SED = (
    r"s/\x7f|\xc2[\x80-\xa0\xad]|\xcd\x8f|\xd8\x9c|\xe1(\x85[\x9f\xa0]|\x9a\x80|\x9e[\xb4\xb5]|\xa0[\x8b-\x8f])"
    r"|\xe2(\x80[\x80-\x8f\xa8-\xaf]|\x81[\x9f-\xaf]|\xa0\x80)|\xe3(\x80\x80|\x85\xa4)"
    r"|\xef(\xb8[\x80-\x8f]|\xbb\xbf|\xbe\xa0|\xbf[\xb9-\xbb])|\xf3\xa0[\x80-\x87][\x80-\xbf]//g;"
    r"s/\\[bf]|\\u(0020|00[01789].|00a0|00ad|034f|061c|115f|1160|1680|17b[45]|180[b-f]|200.|202[89a-f]|205f|206."
    r"|2800|3000|3164|fe0.|feff|ffa0|fff[9ab]|db40\\ud[cd]..)//Ig"
)
IN_BAND_ERROR = "An error occurred:"
END_OF_TEXT = "<|endoftext|>"
_FAULTS = (400, 413, 422)  # the request's; with any other status it is the server that cannot
_AWAY = (404, 429, 502, 503, 504)  # not now; 404: Triton has no such model yet
_SPECIAL = r"<[^<>\s]*>"
_RUNS = re.compile(rf"{_SPECIAL}|((?:(?!{_SPECIAL})\S)+)")


def json_object(status: int, body: str) -> tuple[dict[str, object], Reply | None]:
    """The object in an answer with status 200, or what is wrong with it."""
    whose = Reply(refused=status in _FAULTS, away=status in _AWAY)
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}, replace(whose, problem=f"status {status} and no JSON: {short(body)}")
    if status != 200 or not isinstance(answer, dict):
        return {}, replace(whose, problem=f"status {status}: {short(answer)}")
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
    """What follows the prompt. A tokenizer may give it back without its special tokens, with other blanks, or with
    letters in another form; what it cannot write at all is passed over by counting the prompt's last word."""
    if sentence.startswith(prompt):
        return sentence[len(prompt) :]
    seen = "".join(_form(run) for run in _RUNS.findall(prompt))
    end = _end_of(seen, sentence)
    if end is None:
        end = _end_of_last(last_word(prompt), re.sub(_SPECIAL, " ", prompt), sentence)
    rest = sentence[end:]
    for one in re.findall(rf"{_SPECIAL}|\s", prompt[_end_of(seen, prompt) :]):
        rest = rest.removeprefix(one)  # of the answer's own nothing is taken
    return rest


def _form(run: str) -> str:
    """Characters in a form that is the same before and after a tokenizer's normalization."""
    if run.isascii() and run.isprintable():
        return run
    return "".join(filter(str.isprintable, unicodedata.normalize("NFKD", run)))


def _end_of(seen: str, text: str) -> int | None:
    """Where in a text its visible characters have been all of these; None: they are others."""
    place = 0
    for run in _RUNS.finditer(text) if seen else ():
        form = _form(run[1] or "")
        if not seen.startswith(form[: len(seen) - place], place):
            return None
        if place + len(form) >= len(seen):
            lengths = itertools.accumulate(len(_form(one)) for one in run[1])
            return run.start() + 1 + next(i for i, length in enumerate(lengths) if place + length >= len(seen))
        place += len(form)
    return None if seen else 0


def _end_of_last(word: str, prompt: str, sentence: str) -> int:
    """Where a word ends that stands in the sentence as often as in the prompt."""
    end = 0
    for _ in range(prompt.count(word)):
        found = sentence.find(word, end)
        end = found + len(word) if found >= 0 else end
    return end


def echoed(
    sentence: str, prompt: str, offsets: object, tokens: object, *, stop: Sequence[str], most: int | None
) -> Reply:
    """What a sentence of NeMo's adds to its prompt. `offsets`: where in it each of its tokens begins; None: the server
    does not say. A short prompt of a batch goes on for as long as the longest: it is cut after `most` tokens."""
    text = continuation(sentence, prompt)
    if not isinstance(offsets, list) or not offsets or not all(count(one) is not None for one in offsets):
        return generated(text, stop)
    shift = _shift(sentence, offsets, tokens)
    begin = len(sentence) - len(text) + (shift or 0)
    begins = [one - begin for one in offsets if one >= begin]
    asked = len(offsets) - len(begins)
    if most is not None and shift is not None and len(begins) > most:
        text, begins = text[: begins[most]], begins[:most]
    reply = generated(text, stop)
    return replace(reply, prompt_tokens=asked, tokens=sum(one < len(reply.text) for one in begins))


def _shift(sentence: str, offsets: Sequence[int], tokens: object) -> int | None:
    """How far a sentence is behind its tokens: by none, or by the blank that a tokenizer puts before the first word;
    None: they do not belong together. The last token may be one that is not written out."""
    last = tokens[-1] if isinstance(tokens, list) and len(tokens) == len(offsets) else None
    if not isinstance(last, str):
        return None
    behind = [offsets[-1] + length - len(sentence) for length in (len(last), 0)]
    return next((one for one in behind if one in (0, 1)), None)


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string."""
    ends = [text.find(word) for word in (END_OF_TEXT, *stop) if word and word in text]
    return text[: min(ends)] if ends else text


def visible(text: str) -> str:
    """What of a text can be seen: less special tokens, blanks and characters without a shape."""
    return _INVISIBLE.sub("", re.sub(_SPECIAL, "", text))


def visible_or_token(text: str) -> bool:
    """Whether a text shows anything as it is, special tokens included."""
    return bool(_INVISIBLE.sub("", text))


def last_word(prompt: str) -> str:
    """The last run of visible characters without special tokens: `Assistant` of `<extra_id_1>Assistant`."""
    words = re.sub(r"<[^<>\s]*>", " ", prompt).split()
    return words[-1] if words else ""


def last_seen(prompt: str) -> str:
    """An expression that matches the prompt's last word in an answer out of which the job took what cannot be seen."""
    return in_json(_INVISIBLE.sub("", last_word(prompt)))


def in_json(text: str) -> str:
    """An expression that matches the text as it stands in a JSON string."""
    return re.sub(r"([\\.\[\](){}*+?|^$])", r"\\\1", json.dumps(text)[1:-1])


def names(text: str) -> str:
    """The same for a name or path that a server may send back with or without escapes for what is not ASCII."""
    plain = re.sub(r"([\\.\[\](){}*+?|^$])", r"\\\1", json.dumps(text, ensure_ascii=False)[1:-1])
    return plain if plain == in_json(text) else f"({plain}|{in_json(text)})"


def short(value: object) -> str:
    """The beginning of whatever it is, for an error message."""
    text = wash_line(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else text[:200] + " …"
