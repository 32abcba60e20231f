"""One contract for every engine: its own software on the CPU, and the stand-in that must not drift from it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from nemodeploy.app.talking import pieces, wish
from nemodeploy.app.wanted import known_model
from nemodeploy.engines import ENGINES
from nemodeploy.engines.answers import cut
from nemodeploy.sandbox.programs import CHECKPOINTS
from nemodeploy.values import HttpRequest
from tests.engines.servers import L51, L70, N8, PACK_OF, Row, Server, free_port, needs, say, wanted
from tests.unit.core.test_prompts import GOLDEN, strings

CAPITAL = "What is the capital of France?"
PARIS, ROME = "The capital of France is Paris.", "The capital of Italy is Rome."
KILLED = 128 + signal.SIGKILL
ROWS = (
    Row("nemo-eval", "h100x1", N8),
    Row("nemo-triton", "h100x2", L70),
    Row("nemo-hf-triton", "h100x2", L70),
    Row("nemo-trtllm", "h100x1", N8),
    Row("nemo-trtllm-early", "h100x1", N8),
    Row("vllm", "h100x1", L51),
    Row("transformers", "cpu", "tiny"),
    Row("llamacpp", "cpu", "tiny"),
)
STAND_INS = tuple(Row(row.engine, row.profile, row.model, real=False) for row in ROWS if row.engine != "llamacpp")
# Known by heart, and not.
QUESTIONS = ("What is tensor parallelism?", "Explain the capital of Spain.", "Who are you, GPU?", "zzz")
TEXTS: dict[tuple[str, str], dict[str, str]] = {}
COUNTS = ("nemo-eval-real", "vllm-real", "transformers-real", "llamacpp-real")  # the servers that count tokens
TRITON = "/v2/models/{}/infer"


def _row(row: Row) -> object:
    weighty = row.real and PACK_OF[row.engine] != "llamacpp"
    return pytest.param(row, id=row.label, marks=pytest.mark.engines if weighty else ())


@pytest.fixture(scope="module", params=[_row(row) for row in (*STAND_INS, *ROWS)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server, from its start until it is ready; whatever is left of it is killed in the end."""
    row: Row = request.param
    if row.real:
        needs(row.engine)
    directory = tmp_path_factory.mktemp(row.engine)
    one = Server(row, directory, wanted(row, directory), free_port())
    try:
        yield one.start()
    finally:
        one.end()


# In this order: a server is started once, and its end is the last test.


def test_not_ready_looks_not_ready_until_it_generates(server: Server) -> None:
    assert not server.cheap()[1], "nothing serves yet"
    server.until_ready()
    verdicts = [good for _, _, good in server.seen]
    first = verdicts.index(True)
    assert all(verdicts[first:]), "the cheap probe never takes a yes back while it starts"
    if server.row.real and ENGINES[server.row.engine].protocol == "triton":
        statuses = [status for _, status, _ in server.seen[:first]]
        assert 400 in statuses, "Triton is up before its model is"
        assert "200 400 200" in " ".join(map(str, server.health)), "its own readiness is said too early, and taken back"


def test_it_answers_in_the_models_own_template(server: Server) -> None:
    assert server.question(CAPITAL).text == PARIS
    assert server.question("What is the capital of Italy?").text == ROME


def test_the_exact_bytes_of_the_format_reach_it(server: Server) -> None:
    sent: list[bytes] = []
    backend = server.backend(sent)
    reply = backend.ask(wish(backend, "Who are you?", max_tokens=24))[0].future.result(60)
    assert (bool(reply.text), reply.problem) == (True, "")
    body = json.loads(b"".join(sent).partition(b"\r\n\r\n")[2])
    assert GOLDEN[server.row.model] in [text.encode() for text in strings(body)]


def test_the_answer_of_another_model_is_not_taken(server: Server) -> None:
    engine = ENGINES[server.row.engine]
    if engine.protocol == "nemo-generate":
        pytest.skip("this protocol names no model: the epoch's own port is what tells servers apart")
    prompt = server.prompting.compose(CAPITAL)
    reply = server.ask(prompt, served="another")
    status, body = server.raw(engine.ask(server.served, server.prompting, prompt, max_tokens=24))
    assert reply.problem or server.row.engine == "llamacpp"  # which answers whatever name it is called by
    if engine.protocol == "openai":
        assert engine.read(status, body, served="another", prompt=prompt, stop=()).problem


def bad_requests(server: Server) -> Iterator[tuple[str, HttpRequest, int, str]]:
    """What, the request, its status, and a word of the answer; as each real server was seen to answer."""
    engine, name = server.row.engine, server.served
    if engine == "nemo-eval":
        for what, method, path, body, status, word in (
            ("root", "GET", "/", "", 404, ""),
            ("wrong method", "POST", "/generate", "{}", 405, "not allowed"),
            ("no JSON", "PUT", "/generate", "{", 400, "message"),
            ("no sentences", "PUT", "/generate", "{}", 500, "Internal Server Error"),
            ("too many", "PUT", "/generate", say({"sentences": ["a"] * 129}), 400, "Maximum number"),
            (
                "no tokens",
                "PUT",
                "/generate",
                say({"sentences": ["a"], "tokens_to_generate": 0}),
                200,
                "greater than 0",
            ),
            ("cold", "PUT", "/generate", say({"sentences": ["a"], "temperature": 0}), 200, "temperature must be"),
        ):
            yield what, HttpRequest(method=method, path=path, body=body), status, word
        return
    if ENGINES[engine].protocol == "triton":
        prompts = {"name": "prompts", "datatype": "BYTES", "shape": [1, 1], "data": ["a"]}
        wrong = {"name": "wrong", "datatype": "INT64", "shape": [1, 1], "data": [1]}
        yield "server", HttpRequest(method="GET", path="/v2/models/nope/ready", body=""), 400, ""
        for what, model, inputs, status, word in (
            ("model", "nope", [prompts], 404, "not found"),
            ("tensor", name, [prompts, wrong], 400, "unexpected inference input"),
            ("no prompt", name, [], 400, "prompts"),
        ):
            yield (
                what,
                HttpRequest(method="POST", path=TRITON.format(model), body=say({"inputs": inputs})),
                status,
                word,
            )
        return
    path = "/v1/completions"
    good = {"model": name, "prompt": "a", "max_tokens": 2}
    statuses = {"vllm": (404, 400, 400), "transformers": (400, 422, 500), "llamacpp": (200, 400, 400)}[engine]
    yield "model", HttpRequest(method="POST", path=path, body=say({**good, "model": "nope"})), statuses[0], ""
    yield "no JSON", HttpRequest(method="POST", path=path, body="{"), statuses[1], ""
    wrong_type = {**good, "max_tokens": "many"}
    yield "type", HttpRequest(method="POST", path=path, body=say(wrong_type)), statuses[2], ""
    yield "path", HttpRequest(method="POST", path="/nowhere", body="{}"), 404, ""


def test_a_bad_request_is_told_apart_and_hurts_nobody(server: Server) -> None:
    engine = ENGINES[server.row.engine]
    told = {}
    for what, request, status, word in bad_requests(server):
        got, body = server.raw(request)
        told[what] = (got, word in body, body[:200])
        if (status, what) != (200, "model"):
            assert engine.read(got, body, served=server.served, prompt="a", stop=()).problem, what
    assert {what: (status, True) for what, _, status, _ in bad_requests(server)} == {
        what: seen[:2] for what, seen in told.items()
    }, told
    assert server.question(CAPITAL).text == PARIS


def test_an_error_inside_a_200_is_an_error(server: Server) -> None:
    engine = server.row.engine
    if engine == "nemo-eval":
        reply = server.question("What is the capital of France?", tokens=0)
        assert "greater than 0" in reply.problem
    elif engine.startswith("nemo-trtllm"):
        reply = server.ask("a " * 5000)
        assert "An error occurred" in reply.problem
    else:
        pytest.skip("this server uses HTTP's own statuses, or is shown in test_failures.py")
    assert not reply.text


def test_the_same_weights_give_the_same_text_everywhere(server: Server) -> None:
    """One Llama by llama.cpp, transformers, vLLM (with empty blocks between), Triton over Export-Deploy and over
    megatron-core; one Nemotron by NeMo's own server and by Triton over transformers."""
    if not server.row.real:
        pytest.skip("stand-ins all generate with llama.cpp")
    family = N8 if CHECKPOINTS[server.row.model] == "nemotron" else L70
    prompting = known_model(family).prompting
    puts_it_in_front = family == N8 or server.row.model != "tiny"
    for question in QUESTIONS:
        prompt = ("" if puts_it_in_front else "<|begin_of_text|>") + prompting.compose(question)
        text = server.ask(prompt, prompting=prompting).text
        others = TEXTS.setdefault((family, question), {})
        others[server.row.engine] = text
        assert text
        assert set(others.values()) == {text}, others


def test_openais_own_client_is_answered(server: Server) -> None:
    """A prompt in the model's own template, by way of the gateway where the server speaks another protocol."""
    prompt = server.prompting.compose(CAPITAL)
    direct = server.ask(prompt).text
    with server.client() as client:
        made = client.completions.create(model=server.served, prompt=prompt, max_tokens=24, temperature=0)
        assert direct == PARIS
        if server.row.label in COUNTS:
            assert made.usage
            assert (made.usage.prompt_tokens > 5, 5 < made.usage.completion_tokens < 24) == (True, True), made.usage
        assert cut(made.choices[0].text, server.prompting.stop).strip() == direct
        if server.row.real or ENGINES[server.row.engine].protocol != "openai":  # those stand-ins do not stream
            stream = client.completions.create(
                model=server.served, prompt=prompt, max_tokens=24, temperature=0, stream=True
            )
            text = "".join(piece.choices[0].text for piece in stream)
            assert cut(text, server.prompting.stop).strip() == direct


def test_an_answer_comes_in_pieces_or_whole(server: Server) -> None:
    if ENGINES[server.row.engine].protocol == "openai" and not server.row.real:
        pytest.skip("this stand-in does not stream")
    backend = server.backend()
    assert "".join(pieces(backend, wish(backend, CAPITAL, max_tokens=24))).strip() == PARIS


def test_openais_own_client_converses(server: Server) -> None:
    if ENGINES[server.row.engine].protocol == "openai" and not server.row.real:
        pytest.skip("this stand-in knows /v1/completions only")
    talk = [{"role": "user", "content": CAPITAL}, {"role": "assistant", "content": PARIS}]
    talk.append({"role": "user", "content": "What is the capital of Italy?"})
    ask = {"model": server.served, "messages": talk[:1], "max_tokens": 24, "temperature": 0}
    with server.client() as client:
        answer = client.chat.completions.create(**ask)  # type: ignore[call-overload]
        assert answer.choices[0].message.content.strip() == PARIS
        stream = client.chat.completions.create(**ask, stream=True)  # type: ignore[call-overload]
        assert "".join(piece.choices[0].delta.content or "" for piece in stream if piece.choices).strip() == PARIS
        answer = client.chat.completions.create(**{**ask, "messages": talk})  # type: ignore[call-overload]
        said = answer.choices[0].message.content.strip()
        assert said == ROME if CHECKPOINTS[server.row.model] == "nemotron" and server.row.real else said


def test_what_a_client_asks_for_is_had_or_refused_by_name(server: Server) -> None:
    engine = ENGINES[server.row.engine]
    if engine.protocol == "openai":
        pytest.skip("what this server refuses is its own affair: requests go through as they are")
    with server.client() as client:

        def ask(**more: Any) -> Any:
            return client.completions.create(model=server.served, max_tokens=4, **{"prompt": "The capital of", **more})

        for name, value in (("temperature", 0.9), ("top_p", 0.5), ("seed", 7)):
            asked = {name: value, "temperature": 0.9}
            if engine.samples_by >= asked.keys():
                assert len(ask(**asked).choices) == 1
            else:
                with pytest.raises(
                    openai.BadRequestError, match=f"(temperature|{name}) cannot be told to {engine.name}"
                ):
                    ask(**asked)
        assert len(ask(prompt=["The capital of", "What is"], n=2).choices) == 4
        for wrong, error in (
            ({"model": "nope"}, openai.NotFoundError),
            ({"logprobs": 3}, openai.BadRequestError),
            ({"max_tokens": 10**6}, openai.BadRequestError),
            ({"prompt": "\0"}, openai.BadRequestError),
        ):
            with pytest.raises(error):
                client.completions.create(**{"model": server.served, "prompt": "a", **wrong})  # type: ignore[call-overload]
    assert server.question(CAPITAL).text == PARIS


def test_it_ends_in_order_when_it_is_asked_to(server: Server) -> None:
    statuses = server.stop()
    assert len(statuses) == len(server.ranks), "every rank has left its status"
    assert server.left() == [], "no process is left"
    assert server.cheap() == (0, False)


def test_it_is_gone_with_its_status_when_its_program_is_killed(server: Server, tmp_path: Path) -> None:
    """A second one of the same, whose first rank's program is killed outright."""
    again = Server(server.row, tmp_path, server.wanted, free_port())
    try:
        again.start().until_ready()
        again.kill_program()
        assert again.ranks[0].wait(30) == KILLED
        assert (tmp_path / "epoch/ranks/0.rc").read_text().strip() == str(KILLED)
        assert again.cheap() == (0, False)
    finally:
        again.end()
