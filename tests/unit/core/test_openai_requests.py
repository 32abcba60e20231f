"""OpenAI's requests: what is taken, what is refused, and by which name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemodeploy.core.openai_answers import Answering, describe, refusal
from nemodeploy.core.openai_requests import LEAST, PATHS, Abilities, Asked, Refused, read_request
from nemodeploy.core.openai_table import CHAT, FIELDS, TEXT
from nemodeploy.core.spec import Prompting
from nemodeploy.values import Reply, Sampling

PROMPTING = Prompting(
    template="S {system} U {prompt} A ", turn=" U {prompt} A ", system="kind", stop=("<end>",), probe="p", max_tokens=50
)
CAN = Abilities(
    model="m",
    prompting=PROMPTING,
    context=100,
    longest_answer=60,
    samples_by=frozenset({"temperature", "top_p"}),
    engine="the-engine",
)
HI = {"role": "user", "content": "hi"}


def read(kind: str, **given: object) -> Asked:
    usual: dict[str, object] = {"messages": [HI]} if kind == CHAT else {"prompt": "hi"}
    return read_request(kind, json.dumps({"model": "m", **usual, **given}).encode(), CAN)


def test_a_talk_is_put_into_the_models_own_template() -> None:
    talk = [
        {"role": "system", "content": "short"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": " more"}]},
        {"role": "assistant", "content": " yes \n", "refusal": None},
        {"role": "user", "content": "two"},
    ]
    asked = read(CHAT, messages=talk, n=3)
    assert (asked.prompts, asked.n) == (("S short U one more A yes U two A ",), 3)
    assert read(CHAT).prompts == ("S kind U hi A ",)
    assert read(CHAT, messages=[{"role": "developer", "content": ""}, HI]).prompts == ("S  U hi A ",)


def test_what_nobody_says_is_the_models_own_and_greedy() -> None:
    assert read(CHAT).sampling == Sampling(max_tokens=50)
    assert read(TEXT).sampling == Sampling(max_tokens=16)
    assert read(TEXT, prompt=["a", "b"], temperature=0.5, top_p=0.9, stop="x", max_tokens=7).sampling == Sampling(
        max_tokens=7, temperature=0.5, top_p=0.9, stop=("x",)
    )
    assert read(CHAT, max_completion_tokens=8, max_tokens=8).sampling.max_tokens == 8
    assert read(CHAT, temperature=1e-46, seed=7, top_p=0.5).sampling == Sampling(max_tokens=50), "greedy is greedy"
    assert read(CHAT, temperature=1, top_p=1e-46).sampling.top_p == LEAST


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (CHAT, {"temperature": None, "stop": None, "logit_bias": {}, "tools": [], "tool_choice": "auto"}),
        (CHAT, {"frequency_penalty": 0, "presence_penalty": 0.0, "response_format": {"type": "text"}, "user": "me"}),
        (TEXT, {"best_of": 1, "echo": False, "suffix": "", "logprobs": None}),
        (CHAT, {"seed": 3, "top_p": 0.1}),  # greedily, both change nothing
        (CHAT, {"modalities": ["text"], "service_tier": "auto", "safety_identifier": "x", "metadata": {"a": "b"}}),
        (CHAT, {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "prompt_cache_options": {"ttl": "30m"}}),
        (CHAT, {"parallel_tool_calls": True, "functions": [], "function_call": "auto", "reasoning_effort": "none"}),
        (CHAT, {"prediction": {"type": "content", "content": "x"}, "verbosity": "medium", "store": False}),
        (CHAT, {"audio": None, "web_search_options": None, "moderation": None}),
        (CHAT, {"stream": True, "stream_options": {"include_obfuscation": False}}),
        (TEXT, {"best_of": 3, "n": 3, "logit_bias": {}, "user": "me"}),
        (CHAT, {"messages": [{**HI, "name": "Bo"}, {"role": "assistant", "content": "a", "name": "AI"}, HI]}),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "prompt_cache_breakpoint": {}}]}]},
        ),
        (CHAT, {"stream": True, "stream_options": {"include_usage": True}}),
    ],
)
def test_what_changes_nothing_is_taken(kind: str, given: dict[str, object]) -> None:
    assert read(kind, **given).prompts


@pytest.mark.parametrize(
    ("kind", "given", "status", "param", "words"),
    [
        (CHAT, {"model": "x"}, 404, "model", "there is no model 'x'; it is m"),
        (CHAT, {"model": None}, 400, "model", "missing; it is m"),
        (CHAT, {"model": 3}, 400, "model", "type string"),
        (CHAT, {"foo": 1}, 400, "foo", "unknown parameter 'foo'"),
        (
            CHAT,
            {"tools": [{}]},
            400,
            "tools",
            "tools [{}] is not available: there are no tools here; leave it out or say []",
        ),
        (CHAT, {"logprobs": True}, 400, "logprobs", "leave it out or say false"),
        (TEXT, {"logprobs": 0}, 400, "logprobs", "the engines tell no likelihoods; leave it out"),
        (TEXT, {"echo": 0}, 400, "echo", "leave it out"),
        (TEXT, {"best_of": 3, "n": 2}, 400, "best_of", "cannot rank"),
        (TEXT, {"best_of": True}, 400, "best_of", "best_of true"),
        (TEXT, {"suffix": "x" * 99}, 400, "suffix", "x…"),
        (TEXT, {"store": False}, 400, "store", "unknown"),
        (CHAT, {"store": True}, 400, "store", "nothing is stored here"),
        (CHAT, {"service_tier": "flex"}, 400, "service_tier", '"auto" or "default"'),
        (CHAT, {"modalities": ["text", "audio"]}, 400, "modalities", "answers are text"),
        (CHAT, {"audio": {}}, 400, "audio", "audio {} is not available"),
        (CHAT, {"web_search_options": {}}, 400, "web_search_options", "cannot search"),
        (CHAT, {"reasoning_effort": "low"}, 400, "reasoning_effort", "do not reason"),
        (CHAT, {"response_format": {"type": "json_object"}}, 400, "response_format", "held to a format"),
        (CHAT, {"tool_choice": "required"}, 400, "tool_choice", "no tools"),
        (CHAT, {"parallel_tool_calls": 1}, 400, "parallel_tool_calls", "of type boolean"),
        (CHAT, {"metadata": {"a": 1}}, 400, "metadata", "metadata.a must be of type string"),
        (TEXT, {"messages": [HI]}, 400, "messages", "unknown"),
        (CHAT, {"temperature": 0.5, "seed": 1}, 400, "seed", "seed cannot be told to the-engine"),
        (CHAT, {"temperature": 2.5}, 400, "temperature", "at most 2"),
        (CHAT, {"temperature": True}, 400, "temperature", "type number"),
        (CHAT, {"temperature": float("nan")}, 400, "temperature", "at least 0"),
        (CHAT, {"top_p": 0}, 400, "top_p", "above 0"),
        (CHAT, {"n": 0}, 400, "n", "at least 1"),
        (CHAT, {"n": 129}, 400, "n", "at most 128"),
        (TEXT, {"prompt": ["a"] * 65, "n": 2}, 400, "n", "more than 128"),
        (TEXT, {"prompt": []}, 400, "prompt", "empty"),
        (TEXT, {"prompt": [1, 2]}, 400, "prompt", "prompt has token ids"),
        (TEXT, {"prompt": [[1, 2], [3]]}, 400, "prompt", "takes text only"),
        (TEXT, {"prompt": [None]}, 400, "prompt", "prompt[0] must be of type string"),
        (TEXT, {"prompt": None}, 400, "prompt", "missing"),
        (CHAT, {"stop": ""}, 400, "stop", "empty"),
        (CHAT, {"stop": ["a"] * 17}, 400, "stop", "at most 16"),
        (CHAT, {"max_tokens": 61}, 400, "max_tokens", "61; an answer has at most 60"),
        (CHAT, {"max_completion_tokens": 0}, 400, "max_completion_tokens", "at least 1"),
        (CHAT, {"stream_options": {"include_usage": True}}, 400, "stream_options", "goes with stream"),
        (CHAT, {"stream": True, "stream_options": {"x": 1}}, 400, "stream_options", "stream_options.x"),
        (CHAT, {"messages": []}, 400, "messages", "empty"),
        (CHAT, {"messages": [{"role": "tool", "content": ""}]}, 400, "messages", "messages[0] is about a tool"),
        (
            CHAT,
            {"messages": [{"role": "critic", "content": ""}]},
            400,
            "messages",
            'messages[0].role must be "system" or',
        ),
        (CHAT, {"messages": [{**HI, "name": 3}]}, 400, "messages", "messages[0].name must be of type string"),
        (
            CHAT,
            {"messages": [{**HI, "name": "Bo"}, {"role": "assistant", "content": "a"}, {**HI, "name": "Al"}]},
            400,
            "messages",
            "messages[2].name is another than before for the role user",
        ),
        (CHAT, {"messages": [{"role": "user"}]}, 400, "messages", "messages[0].content is missing"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": None}]},
            400,
            "messages",
            "messages[0].content is null; every",
        ),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "messages",
            'content[0] is of type "image_url"; the model reads text only',
        ),
        (CHAT, {"messages": [HI, HI]}, 400, "messages", "messages[1].role is user; assistant"),
        (CHAT, {"messages": [HI, {"role": "assistant", "content": ""}]}, 400, "messages", "last message"),
        (CHAT, {"messages": [{"role": "system", "content": ""}]}, 400, "messages", "last message"),
        (CHAT, {"messages": [HI, {"role": "system", "content": ""}]}, 400, "messages", "messages[1].role is system"),
        (TEXT, {"prompt": "a " * 90, "max_tokens": 11}, 400, None, "at least 90 tokens, and with max_tokens 11"),
        (TEXT, {"prompt": "a\0"}, 400, None, "NUL as its character 2"),
        (TEXT, {"prompt": "ab\ud800"}, 400, None, "half a surrogate pair as its character 3"),
        (TEXT, {"prompt": ""}, 400, None, "the prompt is empty"),
        (TEXT, {"prompt": ["a", " \n"]}, 400, None, "the prompt is empty"),
        (TEXT, {"stop": "a\0"}, 400, "stop", "the stop string has a NUL"),
        (CHAT, {"stop": ["a", "\ud800"]}, 400, "stop", "the stop string has half a surrogate"),
        (CHAT, {"max_tokens": 3, "max_completion_tokens": 4}, 400, "max_tokens", "are different"),
        (
            CHAT,
            {"messages": [HI, {"role": "assistant", "content": "a", "tool_calls": [{}]}, HI]},
            400,
            "messages",
            "messages[1] is about a tool",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    kind: str, given: dict[str, object], status: int, param: str | None, words: str
) -> None:
    with pytest.raises(Refused) as caught:
        read(kind, **given)
    assert (caught.value.status, caught.value.param) == (status, param)
    assert words in str(caught.value)
    json.dumps(caught.value.document())


def test_the_answers_of_other_servers_may_be_sent_back_as_they_came() -> None:
    said: dict[str, object] = {
        "role": "assistant",
        "content": "a",
        "tool_calls": [],
        "annotations": [],
        "refusal": None,
        "audio": None,
    }
    assert (
        read(CHAT, messages=[HI, said, HI]).prompts
        == read(CHAT, messages=[HI, {"role": "assistant", "content": "a"}, HI]).prompts
    )


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"1", b"\xff", b'"x"', b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused, match="JSON"):
        read_request(CHAT, raw, CAN)


def test_a_base_model_does_not_converse() -> None:
    base = Abilities(
        model="m",
        prompting=Prompting(template="{prompt}", system="", stop=(), probe="p"),
        context=100,
        longest_answer=100,
        samples_by=frozenset(),
        engine="e",
    )
    with pytest.raises(Refused, match="continues text and does not converse; use /v1/completions"):
        read_request(CHAT, json.dumps({"model": "m", "messages": [HI]}).encode(), base)
    assert read_request(TEXT, b'{"model": "m", "prompt": "x"}', base).prompts == ("x",)


def values(schema: Any) -> st.SearchStrategy[Any]:
    """Values that a schema of the document allows."""
    if "anyOf" in schema:
        return st.one_of(*(values(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema["type"]
    if kind == "object" and schema.get("additionalProperties"):
        return st.dictionaries(st.text(max_size=5), values(schema["additionalProperties"]), max_size=2)
    if kind == "object":
        fields = {name: values(one) for name, one in schema["properties"].items()}
        needed = {name: fields.pop(name) for name in schema.get("required", ())}
        return st.fixed_dictionaries(needed, optional=fields)
    if kind == "array":
        inner = values(schema["items"]) if schema["items"] else st.nothing()
        return st.lists(inner, min_size=schema.get("minItems", 0), max_size=min(schema.get("maxItems", 4), 4))
    if kind == "string":
        return st.text(min_size=schema.get("minLength", 0), max_size=9)
    if kind == "boolean":
        return st.booleans()
    least, most = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    return st.integers(least, most) if kind == "integer" else st.floats(least, most, allow_nan=False)


DOCUMENT: Any = describe("0")
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300)
@given(data=st.data(), kind=st.sampled_from([CHAT, TEXT]))
def test_whatever_the_document_allows_is_answered_or_refused_and_so_is_the_rest(data: st.DataObject, kind: str) -> None:
    schema = DOCUMENT["paths"][PATHS[kind]]["post"]["requestBody"]["content"]["application/json"]["schema"]
    body = data.draw(values({"type": "object", **schema}))
    body["model"] = data.draw(st.sampled_from(["m", body["model"]]))
    for name in data.draw(st.lists(st.sampled_from([*FIELDS[kind], "zz"]), max_size=2)):
        body[name] = data.draw(JUNK)
    refused: Refused | None = None
    try:
        asked = read_request(kind, json.dumps(body).encode(), CAN)
    except Refused as error:
        refused = error
    if refused:
        assert 400 <= refused.status < 500
        assert json.loads(json.dumps(refused.document()))["error"]["message"]
        return
    assert all(isinstance(prompt, str) for prompt in asked.prompts)
    assert asked.sampling.max_tokens <= CAN.longest_answer


def answering(kind: str, **given: object) -> Answering:
    return Answering(asked=read(kind, **given), id="1", created=7, model="m")


def test_an_answer_says_what_the_server_said_and_no_more() -> None:
    known = Reply(text=" Paris. ", stopped=True, prompt_tokens=5, tokens=3)
    whole: Any = answering(CHAT, n=2).whole([known, Reply(text="x", prompt_tokens=5, tokens=50)])
    assert [one["message"]["content"] for one in whole["choices"]] == ["Paris.", "x"]
    assert [one["finish_reason"] for one in whole["choices"]] == ["stop", "length"]
    assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 53, "total_tokens": 58}
    text: Any = answering(TEXT).whole([Reply(text=" Paris. ")])
    assert text["choices"][0] == {"index": 0, "text": " Paris. ", "logprobs": None, "finish_reason": "length"}
    assert text["usage"] == dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
    assert "usage" not in answering(CHAT).whole([Reply(text="x")]), "clients read into a usage that is there"


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(text="a", stopped=True), "stop"),
        (Reply(text="a"), "length"),  # nobody counts, and no stop string came
        (Reply(text="a", tokens=50), "length"),
        (Reply(text="a", tokens=49), "stop"),  # the model ended by itself, by a token that is not written out
        (Reply(text="a", tokens=49, stopped=True), "stop"),
    ],
)
def test_every_answer_says_why_it_ended(reply: Reply, why: str) -> None:
    whole: Any = answering(CHAT).whole([reply])
    assert whole["choices"][0]["finish_reason"] == why
    pieces: Any = answering(TEXT, max_tokens=50).pieces(0, reply)
    assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [why]


def test_pieces_add_up_to_the_answer() -> None:
    talk = answering(CHAT, stream=True, stream_options={"include_usage": True})
    reply = Reply(text="Paris.", stopped=True, prompt_tokens=5, tokens=3)
    pieces: Any = [*talk.opening(), *talk.pieces(0, reply), *talk.closing([reply])]
    assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"}
    said = [piece["choices"][0]["delta"].get("content", "") for piece in pieces[:-1]]
    assert "".join(said) == "Paris."
    assert [piece["choices"][0]["finish_reason"] for piece in pieces[:-1]] == [None, None, "stop"]
    assert [piece.get("usage", "none") for piece in pieces] == ["none"] * 3 + [talk.usage([reply])]
    assert talk.closing([Reply(text="Paris.")]) == [], "no piece without choices and without usage"


def test_usage_comes_with_every_piece_where_that_is_asked_for() -> None:
    talk = answering(CHAT, stream=True, stream_options={"continuous_usage_stats": True})
    pieces: Any = [*talk.opening(), *talk.pieces(0, Reply(text="Paris.", prompt_tokens=5, tokens=3))]
    assert [piece.get("usage", {}).get("total_tokens") for piece in pieces] == [None, 8, 8]


def test_whose_fault_it_is() -> None:
    assert refusal(Reply(text="x")) is None
    for refused, status in ((True, 400), (False, 500)):
        found = refusal(Reply(problem="no", refused=refused))
        assert found
        assert found.status == status
