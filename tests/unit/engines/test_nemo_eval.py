from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import pytest

from nemodeploy.core.spec import Layout, Prompting
from nemodeploy.engines.nemo_eval import NemoEval
from tests.unit.core.test_decode import spec

ENGINE = NemoEval()
PROMPTING = Prompting(
    template="<extra_id_0>System\n{system}\n<extra_id_1>User\n{prompt}\n<extra_id_1>Assistant\n",
    system="",
    stop=("<|endoftext|>", "<extra_id_1>"),
    probe="What is the capital of France?",
)
PROMPT = PROMPTING.compose(PROMPTING.probe)


def answer(text: str) -> str:
    return json.dumps({"sentences": [text], "tokens": None, "logprob": None, "token_ids": None, "offsets": None})


# Answers as they were seen from NeMo 1.23's own server and from the stand-in: status, body, the text that counts.
CORPUS = (
    (200, answer(PROMPT + "The capital of France is Paris.\n<extra_id_1>"), "The capital of France is Paris."),
    (200, answer(PROMPT + "Paris."), "Paris."),
    (200, answer("System\n\nUser\nWhat is the capital of France?\nAssistant\nParis."), "Paris."),
    (200, answer(PROMPT + '"Paris," he said.'), '"Paris," he said.'),
    (200, answer(PROMPT + "É Paris"), "É Paris"),
    (200, answer(PROMPT), ""),
    (200, answer(PROMPT + "\n \n"), ""),
    (200, '"tokens_to_generate must be an integer greater than 0"', ""),
    (200, "{}", ""),
    (200, '{"sentences": []}', ""),
    (400, '"Maximum number of sentences is 128"', ""),
    (404, "<html>Not Found</html>", ""),
    (500, '{"message": "Internal Server Error"}', ""),
    (200, "", ""),
    (200, answer(PROMPT + "Paris.")[:40], ""),
    (500, answer(PROMPT + "Paris."), ""),
)


@pytest.mark.parametrize(("status", "body", "text"), CORPUS)
def test_the_reader_finds_the_text_or_says_what_is_wrong(status: int, body: str, text: str) -> None:
    reply = ENGINE.read(status, body, served="m", prompt=PROMPT, stop=PROMPTING.stop)
    assert reply.text == text
    assert bool(reply.problem) != bool(text)


@pytest.mark.parametrize(("status", "body", "text"), CORPUS)
def test_the_supervisors_expression_agrees_with_the_reader(status: int, body: str, text: str) -> None:
    probe = ENGINE.ready_probe("demo", PROMPTING)
    script = "[[ $1 =~ $2 ]] && echo yes || echo no"
    done = subprocess.run(
        ["bash", "-c", script, "match", f"{status}\n{body}", probe.success], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ("yes" if text else "no")


def test_the_cheap_probe_knows_this_server_and_no_other() -> None:
    probe = ENGINE.cheap_probe("demo")
    own = '200\n"tokens_to_generate must be an integer greater than 0"'
    for text, wanted in ((own, "yes"), ("404\nNot Found", "no"), ('200\n{"object": "list"}', "no"), ("", "no")):
        done = subprocess.run(
            ["bash", "-c", "[[ $1 =~ $2 ]] && echo yes || echo no", "match", text, probe.success],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == wanted


def test_the_request_is_greedy_and_ends_where_the_model_does() -> None:
    body = json.loads(ENGINE.ask("demo", PROMPTING, PROMPT, max_tokens=9).body)
    assert body["sentences"] == [PROMPT]
    assert (body["tokens_to_generate"], body["greedy"], body["add_BOS"]) == (9, True, False)
    assert body["end_strings"] == ["<|endoftext|>", "<extra_id_1>"]


def test_an_empty_system_prompt_keeps_its_line() -> None:
    assert PROMPT.startswith("<extra_id_0>System\n\n<extra_id_1>User\n")


def test_the_command_line_gives_every_parallel_size() -> None:
    words = ENGINE.arguments(spec(), "/model", "0.0.0.0")
    assert "tensor_model_parallel_size=8" in words
    assert "pipeline_model_parallel_size=2" in words
    assert "pipeline_model_parallel_split_rank=0" in words
    assert {"trainer.devices=8", "trainer.num_nodes=2", "megatron_amp_O2=True"} <= set(words)


def test_kv_heads_divide() -> None:
    wrong = replace(spec(), layout=Layout(tensor_parallel=16, pipeline_parallel=1))
    assert "16 does not divide 8 KV heads" in "; ".join(what for _, what, _ in ENGINE.rules(wrong))
    assert not ENGINE.rules(spec())
