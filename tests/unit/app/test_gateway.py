"""The gateway over HTTP, with OpenAI's client before it and a server of NeMo's habits behind it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemodeploy.adapters.clock import nonce
from nemodeploy.adapters.forwarding import listen
from nemodeploy.app.backend import Backend
from nemodeploy.app.gateway import Gateway, serve
from nemodeploy.core.openai_requests import PATHS, Refused, read_request
from nemodeploy.core.openai_table import CHAT, TEXT
from nemodeploy.engines.base import Question
from nemodeploy.errors import ClusterUnreachable
from nemodeploy.values import Secret
from tests.unit.core.test_openai_requests import JUNK, values
from tests.unit.held import held, nothing_more_than

PLAN = {
    "engine": "nemo-eval",
    "served": "m",
    "serving": {"max_length": 4096, "max_batch": 32},
    "prompting": {"template": "U {prompt} A ", "turn": "<e>U {prompt} A ", "system": "", "stop": ["<e>"], "probe": "p"},
}


def second(text: str) -> str:
    """The second word, as far as there are two."""
    return [*text.split(), "nothing", ""][:2][-1]


class Nemo:
    """Answers `PUT /generate` one at a time, as NeMo does; what it does is the test's to choose."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.hold, self.lock = threading.Event(), threading.Lock()
        self.hold.set()
        self.refuses: Callable[[list[str]], object] = lambda _: None
        self.unreachable = self.cut = False
        self.left = 0
        nemo = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with nemo.lock:
                    nemo.batches.append(body["sentences"])
                    while not nemo.hold.wait(0.02):
                        if self.gone():
                            nemo.left += 1
                            return
                    if nemo.cut:
                        return
                    refusal = nemo.refuses(body["sentences"])
                    texts = [
                        text + f"echo {[*text.split(), 'nothing', ''][:2][-1]}<e>more" for text in body["sentences"]
                    ]
                    data = json.dumps(refusal if refusal is not None else {"sentences": texts}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(data)

            def gone(self) -> bool:
                try:
                    return bool(self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
                except BlockingIOError:
                    return False

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def dial(self) -> socket.socket:
        if self.unreachable:
            raise ClusterUnreachable("demo is not serving")
        return socket.create_connection(("127.0.0.1", self.port))

    def until(self, count: int) -> None:
        """Wait until so many requests have come."""
        deadline = time.monotonic() + 10
        while len(self.batches) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)


class Rig:
    """One gateway, and how to reach it."""

    def __init__(self, nemo: Nemo) -> None:
        self.backend = Backend(PLAN, nemo.dial)
        self.gateway = Gateway(self.backend, lambda: not nemo.unreachable, nonce, Secret("the key"))
        listener = listen(0)
        self.port = listener.getsockname()[1]
        self.server = serve(self.gateway, listener)
        self.server.start()
        self.key = self.gateway.key.reveal()
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=self.key, max_retries=0)

    def ask(self, text: str, **more: Any) -> Any:
        return self.client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], **more)

    def raw(self, method: str, path: str, body: bytes = b"", key: str = "", **more: str) -> tuple[int, Any, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Authorization": f"Bearer {key or self.key}", **more})
            answer = connection.getresponse()
            return answer.status, answer.headers, json.loads(answer.read())

    def together(self, count: int, **more: Any) -> list[str]:
        """So many clients at the same time; their answers."""
        found = [""] * count

        def one(number: int) -> None:
            try:
                found[number] = self.ask(str(number), **more).choices[0].message.content
            except openai.APIError as error:
                found[number] = f"{type(error).__name__} {error}"

        threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


@pytest.fixture
def nemo() -> Iterator[Nemo]:
    one = Nemo()
    yield one
    one.hold.set()
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture
def rig(nemo: Nemo) -> Iterator[Rig]:
    one = Rig(nemo)
    yield one
    one.client.close()
    one.server.close()


def test_a_talk_comes_back_as_openais_client_expects_it(rig: Rig, nemo: Nemo) -> None:
    answer = rig.ask("hi", n=2)
    assert [choice.message.content for choice in answer.choices] == ["echo hi", "echo hi"]
    assert (answer.choices[0].finish_reason, answer.usage, answer.model) == ("stop", None, "m")
    assert nemo.batches == [["U hi A ", "U hi A "]]
    assert [model.id for model in rig.client.models.list()] == ["m"]
    assert rig.client.models.retrieve("m").id == "m"


def test_those_who_wait_are_asked_for_together(rig: Rig, nemo: Nemo) -> None:
    nemo.hold.clear()
    first = threading.Thread(target=rig.ask, args=("first",))
    first.start()
    nemo.until(1)
    release = threading.Timer(0.5, nemo.hold.set)
    release.start()
    answers = rig.together(40)
    first.join()
    assert answers == [f"echo {number}" for number in range(40)]
    sizes = [len(batch) for batch in nemo.batches]
    assert (sizes[0], max(sizes), sum(sizes)) == (1, 32, 41)
    assert len(sizes) <= 4


def test_different_settings_are_not_mixed(rig: Rig, nemo: Nemo) -> None:
    nemo.hold.clear()
    threads = [
        threading.Thread(target=rig.ask, args=("x",), kwargs={"max_tokens": tokens}) for tokens in (1, 2, 2, 3, 3, 3)
    ]
    for thread in threads:
        thread.start()
    nemo.until(1)
    time.sleep(0.3)
    nemo.hold.set()
    for thread in threads:
        thread.join()
    assert 3 <= len(nemo.batches) <= 4


def batches_behind_another(rig: Rig, nemo: Nemo, **more: Any) -> list[int]:
    """How many are asked for together, where three come while the server works for one."""
    nemo.hold.clear()
    first = threading.Thread(target=rig.ask, args=("first",))
    first.start()
    nemo.until(1)
    threading.Timer(0.5, nemo.hold.set).start()
    rig.together(3, **more)
    first.join()
    return [len(batch) for batch in nemo.batches]


def test_whoever_wants_the_same_text_again_by_a_seed_is_asked_for_alone(rig: Rig, nemo: Nemo) -> None:
    assert batches_behind_another(rig, nemo, seed=7, temperature=0.5, n=2) == [1, 2, 2, 2]


def test_one_that_is_refused_does_not_hurt_the_others(rig: Rig, nemo: Nemo) -> None:
    nemo.refuses = lambda sentences: "the number is bad" if any(" 3 " in one for one in sentences) else None
    nemo.hold.clear()
    threading.Timer(0.5, nemo.hold.set).start()
    answers = rig.together(6)
    assert answers[3].startswith("BadRequestError")
    assert "the number is bad" in answers[3]
    assert [answer for number, answer in enumerate(answers) if number != 3] == [f"echo {n}" for n in (0, 1, 2, 4, 5)]


def test_errors_have_openais_form_and_the_right_status(rig: Rig, nemo: Nemo) -> None:
    nemo.refuses = lambda _: {"message": "Internal Server Error"}
    with pytest.raises(openai.InternalServerError, match="no sentences in the answer"):
        rig.ask("hi")
    nemo.refuses = lambda _: None
    with pytest.raises(openai.NotFoundError, match="it is m"):
        rig.client.models.retrieve("other")
    status, _, body = rig.raw("GET", "/v1/nothing")
    assert (status, body["error"]["type"]) == (404, "invalid_request_error")
    assert rig.raw("GET", "/v1/completions")[0] == 405
    status, headers, body = rig.raw("POST", "/v1/completions", b"{}", key="wrong")
    assert (status, headers["WWW-Authenticate"], body["error"]["code"]) == (401, "Bearer", "invalid_api_key")
    assert rig.raw("GET", "/health", key="wrong")[0] == 200
    status, _, body = rig.raw("POST", "/v1/completions", json.dumps({"\ud800": 1}).encode())
    assert (status, body["error"]["param"]) == (400, "\ud800")
    assert rig.ask("hi").choices


@pytest.mark.parametrize("path", ["/health", "/openapi.json", "/v1/models", "/v1/models/m", "/nothing"])
def test_no_route_answers_a_page_of_another_site(rig: Rig, path: str) -> None:
    for headers, code in (
        ({"Host": "evil.example"}, "foreign_host"),
        ({"Origin": "http://evil.example"}, "foreign_origin"),
        ({"Origin": "null"}, "foreign_origin"),
    ):
        status, _, body = rig.raw("GET", path, b"", "", **headers)
        assert (status, body["error"]["code"]) == (403, code)
    assert rig.raw("POST", "/v1/completions", b"{}", Origin="http://evil.example")[0] == 403
    assert rig.raw("GET", "/health", Host="localhost", Origin="http://localhost:3000")[0] == 200


def test_a_body_too_large_is_413_and_the_next_is_answered(rig: Rig) -> None:
    huge = json.dumps({"model": "m", "prompt": "a" * 10_000_000}).encode()
    try:
        status = rig.raw("POST", "/v1/completions", huge)[0]
    except (BrokenPipeError, ConnectionResetError):  # it need not read to the end
        status = 413
    assert status == 413
    long = json.dumps({"model": "m", "prompt": "a " * 100_000}).encode()
    assert rig.raw("POST", "/v1/completions", long)[2]["error"]["code"] == "context_length_exceeded"
    assert rig.ask("hi").choices


def test_a_server_that_is_not_there_is_503_and_when_to_try_again(rig: Rig, nemo: Nemo) -> None:
    nemo.unreachable = True
    body = json.dumps({"model": "m", "prompt": "a"}).encode()
    status, headers, document = rig.raw("POST", "/v1/completions", body)
    assert (status, headers["Retry-After"]) == (503, "5")
    assert "demo is not serving" in document["error"]["message"]
    assert rig.raw("GET", "/health")[0] == 503
    nemo.unreachable = False
    assert rig.raw("POST", "/v1/completions", body)[0] == 200


def test_a_stream_has_the_answer_as_soon_as_it_is_there(rig: Rig) -> None:
    pieces = list(rig.ask("hi", stream=True, n=2, stream_options={"include_usage": True}))
    said = {0: "", 1: ""}
    for piece in pieces:
        for choice in piece.choices:
            said[choice.index] += choice.delta.content or ""
    assert said == {0: "echo hi", 1: "echo hi"}
    assert all(piece.choices for piece in pieces), "the server does not count, so there is no last piece with the usage"


def test_a_server_that_dies_under_a_stream_is_an_error_in_it(rig: Rig, nemo: Nemo) -> None:
    nemo.cut = True
    with pytest.raises(openai.APIError, match="the connection to the server broke"):
        list(rig.ask("hi", stream=True))
    with pytest.raises(openai.APIStatusError) as caught:
        rig.ask("hi")
    assert caught.value.status_code == 502


def test_a_fault_that_is_known_before_anything_was_said_has_its_status_in_a_stream_too(rig: Rig, nemo: Nemo) -> None:
    nemo.unreachable = True
    with pytest.raises(openai.APIStatusError, match="demo is not serving") as caught:
        rig.ask("hi", stream=True)
    assert (caught.value.status_code, caught.value.response.headers["Retry-After"]) == (503, "5")
    nemo.unreachable = False
    nemo.refuses = lambda _: "it is bad"
    with pytest.raises(openai.BadRequestError, match="it is bad"):
        rig.ask("hi", stream=True)


def test_a_later_fault_is_an_error_in_the_stream(rig: Rig, nemo: Nemo) -> None:
    nemo.refuses = lambda sentences: "it is bad" if "bad" in sentences else None
    pieces = rig.client.completions.create(model="m", prompt=["good", "bad"], stream=True)
    assert next(pieces).choices[0].text == "echo nothing"
    with pytest.raises(openai.APIError, match="it is bad"):
        list(pieces)


def test_what_changes_nothing_does_not_keep_equal_requests_apart(rig: Rig, nemo: Nemo) -> None:
    assert batches_behind_another(rig, nemo, seed=7, temperature=0, top_p=0.5) == [1, 3]


@pytest.mark.parametrize(("engine", "seeds"), [("nemo-eval", [7]), ("nemo-trtllm", [7, 8, 9]), ("vllm", [7, 8, 9])])
def test_several_answers_under_one_seed_are_several(nemo: Nemo, engine: str, seeds: list[int]) -> None:
    backend = Backend({**PLAN, "engine": engine}, nemo.dial)
    body = b'{"model": "m", "prompt": "x", "n": 3, "seed": 7, "temperature": 0.5}'
    with contextlib.closing(backend):
        jobs = backend.ask(read_request(TEXT, body, backend.can))
        assert sorted({job.sampling.seed or 0 for job in jobs}) == seeds


def test_a_fault_of_the_reader_with_one_answer_does_not_hurt_the_others(
    rig: Rig, nemo: Nemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = rig.backend.engine.replies

    def odd(status: int, body: str, question: Question) -> Any:
        if any(" 1 " in prompt for prompt in question.prompts):
            raise IndexError("out of range")
        return reader(status, body, question)

    monkeypatch.setattr(rig.backend.engine, "replies", odd)
    nemo.hold.clear()
    threading.Timer(0.5, nemo.hold.set).start()
    answers = rig.together(3)
    assert "a bug in nemodeploy" in answers[1]
    assert [answers[0], answers[2]] == ["echo 0", "echo 2"]


def test_no_500_that_the_server_did_not_cause(rig: Rig) -> None:
    """Fuzzed from its own OpenAPI document, over HTTP."""
    document = rig.raw("GET", "/openapi.json")[2]

    @settings(max_examples=150)
    @given(data=st.data(), kind=st.sampled_from([CHAT, TEXT]))
    def fuzz(data: st.DataObject, kind: str) -> None:
        schema = document["paths"][PATHS[kind]]["post"]["requestBody"]["content"]["application/json"]["schema"]
        body = data.draw(values({**schema, "type": "object"}))
        body["model"] = data.draw(st.sampled_from(["m", body["model"]]))
        body["stream"] = False
        for name in data.draw(st.lists(st.sampled_from([*schema["properties"], "zz"]), max_size=1)):
            body[name] = data.draw(JUNK)
        if body.get("stream") is True:
            return
        status, _, answer = rig.raw("POST", PATHS[kind], json.dumps(body).encode())
        assert status in (200, 400, 404), answer
        assert answer["choices"] if status == 200 else answer["error"]["message"]

    fuzz()


def test_what_is_dropped_while_the_way_is_opened_is_not_sent(nemo: Nemo) -> None:
    dials, opened = threading.Event(), threading.Event()

    def dial() -> socket.socket:
        dials.set()
        opened.wait()
        return nemo.dial()

    backend = Backend(PLAN, dial)
    asked = read_request(TEXT, b'{"model": "m", "prompt": "a b"}', backend.can)
    jobs = backend.ask(asked)
    dials.wait()
    backend.drop(jobs)
    opened.set()
    with pytest.raises(Refused, match="nobody waits"):
        jobs[0].future.result(10)
    assert backend.ask(asked)[0].future.result(10).text == "echo b"
    assert nemo.batches == [["a b"]]


def test_a_closed_gateway_leaves_nothing_and_refuses_who_still_waits(nemo: Nemo) -> None:
    before = held()
    nemo.hold.clear()
    rig = Rig(nemo)
    jobs = rig.backend.ask(read_request(TEXT, b'{"model": "m", "prompt": "asked already"}', rig.backend.can))
    nemo.until(1)
    jobs += rig.backend.ask(read_request(TEXT, b'{"model": "m", "prompt": "waits"}', rig.backend.can))
    rig.server.close()
    for job in jobs:
        with pytest.raises(Refused, match="closed"):
            job.future.result(10)
    nemo.hold.set()
    rig.client.close()
    assert nothing_more_than(before)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", rig.port))


def test_clients_of_a_closed_gateway_are_told(
    rig: Rig, nemo: Nemo, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    nemo.hold.clear()
    told: list[str] = []

    def one(stream: bool) -> None:
        with pytest.raises(openai.APIError, match="closed") as caught:
            list(rig.ask("hello", stream=stream))
        told.append(str(getattr(caught.value, "status_code", "")))

    clients = [threading.Thread(target=one, args=(number % 2 == 1,)) for number in range(6)]
    for client in clients:
        client.start()
    nemo.until(1)
    time.sleep(0.3)
    rig.server.close()
    for client in clients:
        client.join(10)
    assert told == ["503"] * 6
    assert "Traceback" not in capfd.readouterr().err + caplog.text
    with pytest.raises(Refused, match="closed"):
        rig.backend.ask(read_request(TEXT, b'{"model": "m", "prompt": "late"}', rig.backend.can))[0].future.result(10)


def test_nobody_is_forgotten_when_it_closes_between_two_of_a_party(nemo: Nemo) -> None:
    backend = Backend(PLAN, nemo.dial)
    nemo.refuses = lambda prompts: "too much" if len(prompts) > 1 else nemo.hold.clear()
    asked = read_request(TEXT, b'{"model": "m", "prompt": ["a", "b", "c"]}', backend.can)
    jobs = backend.ask(asked)
    nemo.until(1)
    time.sleep(0.3)
    backend.close()
    assert not wait([job.future for job in jobs], 10).not_done


class Odd(socket.socket):
    """Its close fails in words of its own, as a channel of SSH may."""

    def close(self) -> None:
        super().close()
        raise RuntimeError("Key-exchange timed out waiting for key negotiation")


def test_a_stream_that_cannot_even_be_closed_holds_nobody_up(nemo: Nemo) -> None:
    def dial() -> socket.socket:
        stream = Odd()
        stream.connect(("127.0.0.1", nemo.port))
        return stream

    backend = Backend(PLAN, dial)
    asked = read_request(TEXT, b'{"model": "m", "prompt": "a b"}', backend.can)
    for _ in range(2):
        assert backend.ask(asked)[0].future.result(10).text == "echo b"


def test_what_is_too_long_to_be_sent_is_given_up_when_nobody_waits_for_it(nemo: Nemo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        ports = iter([int(deaf.getsockname()[1]), nemo.port])
        backend = Backend(PLAN, lambda: socket.create_connection(("127.0.0.1", next(ports))))
        long = json.dumps({"model": "m", "prompt": "a" * 7_000_000}).encode()
        jobs = backend.ask(read_request(TEXT, long, backend.can))
        time.sleep(0.5)  # else both go in one request
        next_one = backend.ask(read_request(TEXT, b'{"model": "m", "prompt": "a b"}', backend.can))[0]
        backend.drop(jobs)
        assert next_one.future.result(10).text == "echo b"


@pytest.mark.parametrize("stream", [False, True])
def test_when_a_client_leaves_its_request_is_dropped(rig: Rig, nemo: Nemo, stream: bool) -> None:
    nemo.hold.clear()
    body = {"model": "m", "prompt": "gone", "stream": stream}
    connections = []
    for prompt in ("first", "second"):
        connection = http.client.HTTPConnection("127.0.0.1", rig.port)
        text = json.dumps({**body, "prompt": f"a {prompt}"})
        connection.request("POST", "/v1/completions", text, {"Authorization": f"Bearer {rig.key}"})
        connections.append(connection)
        nemo.until(1)
    time.sleep(0.2)
    for connection in reversed(connections):
        connection.close()
        time.sleep(0.2)
    deadline = time.monotonic() + 10
    while nemo.left < 1:
        assert time.monotonic() < deadline, "the server still works for somebody who has left"
        time.sleep(0.02)
    nemo.hold.set()
    assert rig.ask("hi").choices[0].message.content == "echo hi"
    assert [batch for batch in nemo.batches if "a second" in batch] == [], "what nobody waits for is not sent"
