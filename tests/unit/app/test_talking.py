"""Answers piece by piece, and what stays of a talk that is interrupted; prompts from files."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nemodeploy.app.asking import NoAnswer
from nemodeploy.app.backend import Backend
from nemodeploy.app.prompts import Prompt, answered, read_prompts
from nemodeploy.app.talking import Talk
from nemodeploy.errors import BadInput, ClusterUnreachable

PLAN = {
    "engine": "vllm",
    "served": "m",
    "serving": {"max_length": 64, "max_batch": 4},
    "prompting": {
        "template": "U {prompt} A ",
        "turn": "<e>U {prompt} A ",
        "system": "",
        "stop": ["<end>"],
        "probe": "p",
    },
}


class Streaming:
    """Sends the pieces that a test puts in, as server-sent events in chunks."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.prompts: list[str] = []
        self.breaks = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.prompts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"])
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in outer.pieces:
                    data = f"data: {piece}\n\n".encode()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.close_connection = True
                if not outer.breaks:
                    self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def says(self, *texts: str) -> None:
        self.pieces = [json.dumps({"choices": [{"text": text}]}) for text in texts] + ["[DONE]"]

    def talk(self) -> Talk:
        address = self.server.server_address
        return Talk(backend=Backend(PLAN, lambda: socket.create_connection((str(address[0]), address[1]))))


@pytest.fixture
def server() -> Iterator[Streaming]:
    one = Streaming()
    yield one
    one.server.shutdown()
    one.server.server_close()


def test_pieces_are_shown_as_they_come_and_the_stop_string_never(server: Streaming) -> None:
    talk, shown = server.talk(), list[str]()
    server.says(" The capital", " of Fran", "ce is Paris.<", "en", "d>and more")
    talk.ask("one", shown.append)
    assert "".join(shown) == "The capital of France is Paris."
    assert len([piece for piece in shown if piece]) > 2
    server.says("Yes.\n", "\n")
    talk.ask("two", shown.append)
    assert server.prompts == ["U one A ", "U one A The capital of France is Paris.<e>U two A "]
    assert [one["content"] for one in talk.messages] == ["one", "The capital of France is Paris.", "two", "Yes."]


def test_an_answer_that_is_stopped_stays_as_far_as_it_came(server: Streaming) -> None:
    talk = server.talk()
    server.says("word " * 20, "word " * 20)

    def stop(piece: str) -> None:
        if piece:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk.ask("one", stop)
    assert talk.said[1]["content"].startswith("word word")


@pytest.mark.parametrize(
    ("pieces", "breaks", "error", "words"),
    [
        (['{"error": {"message": "out of memory"}}'], False, NoAnswer, "out of memory"),
        (["no json"], False, NoAnswer, "no JSON"),
        ([], True, ClusterUnreachable, "broke"),
        (['{"choices": [{"text": "half"}]}'], True, ClusterUnreachable, "broke off in the middle"),
    ],
)
def test_what_goes_wrong_leaves_the_talk_as_it_was(
    server: Streaming, pieces: list[str], breaks: bool, error: type[Exception], words: str
) -> None:
    talk = server.talk()
    server.pieces, server.breaks = pieces, breaks
    with pytest.raises(error, match=words):
        talk.ask("one", lambda _: None)
    assert talk.said == []
    with pytest.raises(BadInput, match="more than the 64 that there are"):
        talk.ask("a " * 70, lambda _: None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no prompt"),
        ("\n \n", "holds no prompt"),
        ('ok\n{"prompt": 3}', "f:2: prompt and system must be strings"),
        ('{"prompt": "a"', "f:1: no JSON"),
        ('{"prompt": "a", "promt": ""}', "f:1: unknown key 'promt'"),
    ],
)
def test_a_file_of_prompts_that_cannot_be_read_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_prompts(text, "f")


def test_lines_are_prompts() -> None:
    found = read_prompts('one \r\n\n{"prompt": "{two}"}\n', "f")
    assert [(one.line, one.text, one.system) for one in found] == [(1, "one ", None), (3, "{two}", None)]


def test_answers_are_found_again_unless_they_failed() -> None:
    settings = {"n": 1}
    rows: list[dict[str, object]] = [{"line": 1, "prompt": "a", "texts": []}, {"line": 2, "prompt": "b", "error": "no"}]
    rows.append({"line": 3, "prompt": "c", "system": "Be brief.", "texts": []})
    text = "".join(json.dumps({**row, "settings": settings}) + "\n" for row in rows)
    assert answered(text, "f", settings) == {Prompt(1, "a"), Prompt(3, "c", "Be brief.")}
    for wrong in ("{}\n", "x\n", "[]\n"):
        with pytest.raises(BadInput, match="f:1 is no line of answers"):
            answered(wrong, "f", settings)
