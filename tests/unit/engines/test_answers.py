"""Every engine's reader and the expression that the job itself uses, on one corpus of recorded answers.

Recorded from Triton 2.51 with NeMo's tensors, vLLM 0.32, transformers 5.23, llama.cpp and NeMo 1.23's own server.
"""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemodeploy.adapters import resources
from nemodeploy.core.model_files import decode_model
from nemodeploy.core.spec import Prompting
from nemodeploy.engines import ENGINES, answers
from nemodeploy.engines.base import Question
from tests.expressions import matches

PROMPTING = Prompting(template="<|user|>{prompt}<|assistant|>", system="", stop=("<|eot_id|>",), probe="Capital?")
LLAMA = decode_model("x", resources.find("models", "llama-3.1-nemotron-70b-instruct")).prompting


def tensors(name: str, *texts: str) -> str:
    output = {"name": name, "datatype": "BYTES", "shape": [1, 1], "data": list(texts)}
    return json.dumps({"model_name": "m", "model_version": "1", "outputs": [output]})


def choice(text: str) -> str:
    return json.dumps({"id": "c", "object": "text_completion", "model": "m", "choices": [{"index": 0, "text": text}]})


PROMPT = LLAMA.compose(LLAMA.probe)
IN_BAND = "An error occurred: Torch not compiled with CUDA enabled"
TRITON_ERRORS = (
    (400, '{"error":"Request for unknown model: \'m\' is not found"}', ""),
    (500, '{"error":"Stub process \'m_0_0\' is not healthy."}', ""),
    (200, "", ""),
    (200, "{}", ""),
    (200, '{"outputs":[]}', ""),
    (200, '{"outputs":[{"name":"other","data":["Paris"]}]}', ""),
)
UNSEEN = ("\u200b", "\ufeff", "\u2060\u00ad", "\U000e0041\ufe0f\u3000", "<extra_id_1>\u200b", "\x08\x7f\x9f", "\u00a0")
OPENAI = (
    (200, choice("Paris."), "Paris."),
    (200, choice(" \n Paris.<|eot_id|>x"), "Paris."),
    (200, choice('"Paris"'), '"Paris"'),
    (200, choice("É"), "É"),
    (200, choice("<|eot_id|>"), ""),
    (200, choice(""), ""),
    (200, choice(" \n"), ""),
    *((200, choice(text), "") for text in UNSEEN),
    *((200, json.dumps({"model": "m", "choices": [{"text": text}]}, ensure_ascii=False), "") for text in UNSEEN),
    (200, choice("\u200bParis.\ufe0f"), "\u200bParis.\ufe0f"),
    (200, '{"choices":[]}', ""),
    (200, choice("Paris.").replace('"m"', '"another"'), ""),
    (200, choice("Paris.").replace('"m"', '"m@main"'), "Paris."),
    (200, '{"choices": [{"index": 0, "text": "Paris."}], "model": "m"}', "Paris."),
    (200, '{"choices": [{"index": 0, "text": "Paris."}]}', ""),
    (404, '{"error":{"message":"The model `nope` does not exist.","code":404}}', ""),
    (422, '{"detail":"Unexpected fields in the request"}', ""),
    (500, "Internal Server Error", ""),
    (503, '{"error":{"message":"Loading model","type":"unavailable_error","code":503}}', ""),
    (200, choice("Paris.")[:30], ""),
)
CORPUS = {
    "nemo-triton": (
        (200, tensors("sentences", PROMPT + "Paris."), "Paris."),
        (200, tensors("sentences", PROMPT + "Paris.<|eot_id|>"), "Paris."),
        (200, tensors("sentences", "user\n\nWhat is the capital of France?assistant\n\nParis."), "Paris."),
        (200, tensors("sentences", PROMPT + "<|eot_id|>"), ""),
        (200, tensors("sentences", "What is it?<|eot_id|>assistant<|end_header_id|>\n\nParis."), "Paris."),
        (200, tensors("sentences", PROMPT), ""),
        (200, tensors("sentences", IN_BAND), ""),
        *TRITON_ERRORS,
    ),
    "nemo-hf-triton": (
        (200, tensors("sentences", "Paris."), "Paris."),
        (200, tensors("sentences", "\n\n\n"), ""),
        (200, tensors("sentences", IN_BAND), ""),
        *TRITON_ERRORS,
    ),
    "nemo-trtllm": (
        (200, tensors("outputs", "Paris."), "Paris."),
        (200, tensors("outputs", "\n\nAn Italian city."), "An Italian city."),
        (200, tensors("outputs", "A"), "A"),
        (200, tensors("outputs", "An error of mine"), "An error of mine"),
        (200, tensors("outputs", ""), ""),
        (200, tensors("outputs", IN_BAND), ""),
        *TRITON_ERRORS,
    ),
    "nemo-trtllm-early": (
        (200, tensors("outputs", "Paris."), "Paris."),
        (200, tensors("outputs", IN_BAND), ""),
        *TRITON_ERRORS,
    ),
    "vllm": OPENAI,
    "transformers": OPENAI,
    "llamacpp": OPENAI,
}
ROWS = [(engine, *row) for engine, rows in CORPUS.items() for row in rows]


@pytest.mark.parametrize(("engine", "status", "body", "text"), ROWS)
def test_the_reader_finds_the_text_or_says_what_is_wrong(engine: str, status: int, body: str, text: str) -> None:
    reply = ENGINES[engine].read(status, body, served="m", prompt=PROMPT, stop=LLAMA.stop)
    assert reply.text == text
    assert bool(reply.problem) != bool(text)


@pytest.mark.parametrize(("engine", "status", "body", "text"), ROWS)
def test_the_jobs_own_expression_agrees_with_the_reader(engine: str, status: int, body: str, text: str) -> None:
    probe = ENGINES[engine].ready_probe("m", LLAMA)
    # Near misses of the in-band error are the reader's to settle: the expression may be stricter there.
    if text.startswith("An error"):
        return
    assert matches(f"{status}\n{body}", probe.success) == bool(text)


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_the_cheap_probe_is_not_satisfied_by_silence_or_errors(engine: str) -> None:
    probe = ENGINES[engine].cheap_probe("m")
    for answer in ("", "404\nNot Found", "503\n{}", "400\n{}", "curl: (7)"):
        assert not matches(answer, probe.success)


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_requests_are_json_and_name_what_is_served(engine: str) -> None:
    request = ENGINES[engine].ask("the-name", PROMPTING, "text", max_tokens=7)
    body = json.loads(request.body)
    assert re.search(r"\b7\b", request.body)
    assert "text" in request.body
    if ENGINES[engine].protocol == "openai":
        assert (body["model"], body["stop"], request.path) == ("the-name", ["<|eot_id|>"], "/v1/completions")
    if ENGINES[engine].protocol == "triton":
        assert request.path == "/v2/models/the-name/infer"


@settings(max_examples=200)
@given(st.sampled_from(sorted(ENGINES)), st.integers(0, 999), st.text(max_size=200))
def test_no_answer_makes_a_reader_raise(engine: str, status: int, body: str) -> None:
    reply = ENGINES[engine].read(status, body, served="m", prompt="p", stop=("x",))
    assert bool(reply.problem) != bool(reply.text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["outputs", "choices", "sentences", "text", "name", "data"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.sampled_from(sorted(ENGINES)), JSON)
def test_no_json_makes_a_reader_raise(engine: str, body: object) -> None:
    reply = ENGINES[engine].read(200, json.dumps(body), served="m", prompt="p", stop=("x",))
    assert bool(reply.problem) != bool(reply.text)


@pytest.mark.parametrize("served", ["/models/51b", "/data/modèles (1)/a+b", 'a"b'])
def test_any_served_name_is_found_in_the_answer(served: str) -> None:
    probe = ENGINES["vllm"].ready_probe(served, PROMPTING)
    for ascii_only in (True, False):
        answer = {"model": served, "choices": [{"text": "Paris"}]}
        assert matches(f"200\n{json.dumps(answer, ensure_ascii=ascii_only)}", probe.success)
        assert not matches(f"200\n{json.dumps({**answer, 'model': served + 'x'})}", probe.success)


TURNS = "<|begin_of_text|><|start|>user<|end|>\n\nWho is an assistant?<|eot_id|><|start|>assistant<|end|>\n\n"
FEW = TURNS.replace("<|begin_of_text|>", "").replace("<|eot_id|>", "")
NONE = re.sub(r"<\|\w+\|>", "", TURNS)


@pytest.mark.parametrize(
    ("echo", "prompt"),
    [
        (TURNS, TURNS),
        (FEW, TURNS),
        (NONE, TURNS),
        ("two words", "two  words"),
        ("a fi b 1", "a \ufb01 b ①"),
        ("cafe\u0301", "caf\u00e9"),
        ("⁇ word and word", "\u2603 word and word"),
        ("", " "),
        ("", "<extra_id_1>"),
        ("a<b and c>d", "a<b  and c>d"),
    ],
)
@pytest.mark.parametrize("text", ["I am an assistant made here.", "<answer>42</answer>", "  two blanks", " word more"])
def test_an_answer_loses_nothing_when_its_prompt_comes_back_in_another_form(echo: str, prompt: str, text: str) -> None:
    if prompt[-1:].isspace() and not echo:
        text = text.lstrip()  # nobody can tell whose blank that was
    assert answers.continuation(echo + text, prompt) == text


def test_a_sentence_that_lacks_its_prompt_is_an_answer_as_it_is() -> None:
    assert answers.continuation("something else", "a prompt") == "something else"


def test_a_short_prompt_of_a_batch_is_cut_where_its_own_tokens_end() -> None:
    offsets, tokens = [0, 1, 3, 5, 7], ["a", " b", " c", " d", " e"]
    reply = answers.echoed("a b c d e", "a b", offsets, tokens, stop=(), most=2)
    assert (reply.text, reply.prompt_tokens, reply.tokens) == (" c d", 2, 2)
    uncut = answers.echoed("a b c d e", "a b", offsets, tokens, stop=(" d",), most=9)
    assert (uncut.text, uncut.stopped, uncut.tokens) == (" c", True, 1)
    assert answers.echoed("a b c", "a b", None, None, stop=(), most=1).text == " c"
    # SentencePiece puts a blank before the first word, which the sentence lacks.
    pieces = answers.echoed("a b c d e", "a b", [0, 2, 4, 6, 8], ["_a", "_b", "_c", "_d", "_e"], stop=(), most=2)
    assert (pieces.text, pieces.prompt_tokens, pieces.tokens) == (" c d", 2, 2)
    # What ended before the others is filled up with tokens that are not written out.
    early = answers.echoed("a b c", "a b", [0, 1, 3, 5, 5], ["a", " b", " c", "</s>", "</s>"], stop=(), most=1)
    assert early.text == " c"


def test_offsets_of_another_text_cut_nothing() -> None:
    """Such as with tokens that count and were not written out."""
    reply = answers.echoed("a b c d e", "a b", [0, 8, 9, 11, 13], ["<|user|>", "a", " b", " c", " d"], stop=(), most=1)
    assert reply.text == " c d e"


def test_triton_says_where_tokens_begin_in_a_tensor_of_its_own() -> None:
    document = json.loads(tensors("sentences", "a b c d", "x y z d"))
    offsets = [0, 1, 3, 5, 0, 1, 3, 5]
    document["outputs"].append({"name": "offsets", "datatype": "INT64", "shape": [2, 4], "data": offsets})
    words = ["a", " b", " c", " d", "x", " y", " z", " d"]
    document["outputs"].append({"name": "tokens", "datatype": "BYTES", "shape": [2, 4], "data": words})
    asked = Question(served="m", prompts=["a b", "x"], most=2)
    replies = ENGINES["nemo-triton"].replies(200, json.dumps(document), asked)
    assert [(one.text, one.tokens) for one in replies] == [(" c d", 2), (" y z", 2)]
    document["outputs"][-1]["data"] = words[:3]
    assert ENGINES["nemo-triton"].replies(200, json.dumps(document), asked)[1].text == " y z d"


def test_a_text_about_errors_is_no_error() -> None:
    prompt = "An error occurred: disk full. The reason is"
    (reply,) = ENGINES["nemo-triton"].replies(
        200, tensors("sentences", prompt + " dust"), Question(served="m", prompts=[prompt])
    )
    assert (reply.text, reply.problem) == (" dust", "")
    (reply,) = ENGINES["nemo-trtllm"].replies(
        200, tensors("outputs", "An error occurred because of dust."), Question(served="m", prompts=["Why?"])
    )
    assert reply.problem == ""


@pytest.mark.parametrize(
    ("status", "refused", "away"), [(400, True, False), (404, False, True), (500, False, False), (503, False, True)]
)
def test_whose_fault_it_is(status: int, refused: bool, away: bool) -> None:
    (reply,) = ENGINES["nemo-triton"].replies(status, '{"error": "x"}', Question(served="m", prompts=["a"]))
    assert (reply.refused, reply.away) == (refused, away)
