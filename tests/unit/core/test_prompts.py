"""The exact bytes of each model's prompt, written down by hand from the public formats, in every engine's request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nemodeploy.app.wanted import known_model
from nemodeploy.core.spec import Prompting

NEMOTRON = b"<extra_id_0>System\n\n<extra_id_1>User\nWho are you?\n<extra_id_1>Assistant\n"
LLAMA = (
    b"<|start_header_id|>system<|end_header_id|>\n\n<|eot_id|>"
    b"<|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>"
    b"<|start_header_id|>assistant<|end_header_id|>\n\n"
)
GOLDEN = {
    "nemotron-4-340b-instruct": NEMOTRON,
    "nemotron-4-340b-base": b"Who are you?",
    "nemotron-3-8b-chat-4k-rlhf": NEMOTRON,
    "llama-3.1-nemotron-70b-instruct": LLAMA,
    "llama-3.1-nemotron-51b-instruct": LLAMA,
    "tiny": NEMOTRON,
}
STOPS = {
    "nemotron-4-340b-instruct": ("<|endoftext|>", "<extra_id_1>", "\x11"),
    "nemotron-4-340b-base": ("<|endoftext|>", "<extra_id_1>", "\x11"),
    "nemotron-3-8b-chat-4k-rlhf": ("<|endoftext|>", "<extra_id_1>"),
    "llama-3.1-nemotron-70b-instruct": ("<|eot_id|>", "<|end_of_text|>"),
    "llama-3.1-nemotron-51b-instruct": ("<|eot_id|>", "<|end_of_text|>"),
    "tiny": ("<|endoftext|>", "<extra_id_1>"),
}


def strings(value: Any) -> list[str]:
    """Every text in a request, however deep."""
    if isinstance(value, dict):
        return [text for one in value.values() for text in strings(one)]
    if isinstance(value, list):
        return [text for one in value for text in strings(one)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_bytes_that_are_sent_are_the_formats_own(name: str) -> None:
    from nemodeploy.engines import ENGINES

    model = known_model(name)
    assert model.prompting.stop == STOPS[name]
    for engine in model.engines:
        request = ENGINES[engine].ask("m", model.prompting, model.prompting.compose("Who are you?"), max_tokens=9)
        sent = [text.encode() for text in strings(json.loads(request.body))]
        assert GOLDEN[name] in sent, engine


def test_a_question_cannot_close_its_own_turn_by_braces() -> None:
    """`{system}` and `{prompt}` in a question are text."""
    prompting = Prompting(template="<{system}|{prompt}>", system="s", stop=(), probe="")
    assert prompting.compose("{system} {prompt} {0} {{}}") == "<s|{system} {prompt} {0} {{}}>"


TALK = (
    b"<extra_id_0>System\nBe short.\n<extra_id_1>User\nWho are you?\n<extra_id_1>Assistant\nA model.\n"
    b"<extra_id_1>User\nWhose?\n<extra_id_1>Assistant\n"
)
LLAMA_TALK = (
    b"<|start_header_id|>system<|end_header_id|>\n\nBe short.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    b"Who are you?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA model.<|eot_id|>"
    b"<|start_header_id|>user<|end_header_id|>\n\nWhose?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)


@pytest.mark.parametrize("name", sorted(set(GOLDEN) - {"nemotron-4-340b-base"}))
def test_a_talk_goes_on_in_the_formats_own_bytes(name: str) -> None:
    text = known_model(name).prompting.converse(["Who are you?", "Whose?"], [" A model.\n"], system="Be short.")
    assert text.encode() == (LLAMA_TALK if name.startswith("llama") else TALK)


def test_a_base_model_has_no_turns() -> None:
    assert not known_model("nemotron-4-340b-base").prompting.turn
