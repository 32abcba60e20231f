"""The stand-in answers a wrong request as NeMo 1.23's own server was seen to."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from nemodeploy.sandbox.programs import megatron_gpt_eval as stand_in

ENGINE: Any = SimpleNamespace(generate=lambda sentences, options: {"sentences": [s + " ok" for s in sentences]})


def ask(**request: Any) -> tuple[int, Any]:
    return stand_in.respond(ENGINE, json.dumps(request).encode())


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("tokens_to_generate", 0, "greater than 0"),
        ("tokens_to_generate", "4", "greater than 0"),
        ("tokens_to_generate", 2.5, "greater than 0"),
        ("all_probs", 1, "boolean"),
        ("temperature", 0, "less than or equal to 100.0"),
        ("temperature", "1", "less than or equal to 100.0"),
        ("add_BOS", "yes", "boolean"),
        ("greedy", 0, "boolean"),
        ("top_k", -1, "positive integer"),
        ("top_p", 1.1, "less than or equal to 1.0"),
        ("repetition_penalty", 0.9, "no less than 1.0"),
        ("end_strings", "x", "list of strings"),
        ("min_tokens_to_generate", -1, "no less than 0"),
        ("random_seed", -1, "positive integer number or None"),
    ],
)
def test_a_wrong_field_is_status_200_and_a_string(field: str, value: object, word: str) -> None:
    status, answer = ask(sentences=["a"], **{field: value})
    assert status == 200
    assert isinstance(answer, str)
    assert word in answer


def test_the_rest_of_the_protocol() -> None:
    assert ask(sentences=["a"]) == (200, {"sentences": ["a ok"]})
    assert ask(sentences=["a"] * 129) == (400, "Maximum number of sentences is 128")
    assert ask()[0] == 500
    assert stand_in.respond(ENGINE, b"{")[0] == 400


@pytest.mark.parametrize(
    ("nodes", "first"), [("h100-[1-2]", "h100-1"), ("a,b", "a"), ("n[007-9]", "n007"), ("localhost", "localhost")]
)
def test_the_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert stand_in.first_host(nodes) == first


def test_an_override_nobody_knows_is_refused_as_hydra_does() -> None:
    with pytest.raises(SystemExit, match="is not in struct"):
        stand_in.Overrides(["tensor_parallel=8"])
