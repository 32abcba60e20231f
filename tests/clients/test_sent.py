"""What real clients send, as test_clients.py recorded it, without the clients."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion, completion_create_params
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat import completion_create_params as chat_create_params

from nemodeploy.core.openai_answers import Answering
from nemodeploy.core.openai_requests import Abilities, read_request
from nemodeploy.core.openai_table import CHAT, FIELDS, REFUSED, SAME, TEXT, USED
from nemodeploy.core.spec import Prompting
from nemodeploy.values import Reply

HERE = Path(__file__).parent
SENT: Mapping[str, Any] = json.loads((HERE / "sent.json").read_text())
PAGE = HERE.parents[1] / "docs/talk.md"
HEAD = "| field | where | what becomes of it |"
CAN = Abilities(
    model="m",
    prompting=Prompting(template="U {prompt} A ", turn=" U {prompt} A ", system="", stop=("<e>",), probe="p"),
    context=4096,
    longest_answer=4096,
    samples_by=frozenset({"temperature", "top_p", "seed"}),
    engine="e",
)
REPLIES = (
    Reply(text="echo hi", stopped=True),
    Reply(text="echo hi"),
    Reply(text="echo hi", prompt_tokens=3, tokens=2),
)


@pytest.mark.parametrize("reply", REPLIES, ids=["stopped", "uncounted", "counted"])
@pytest.mark.parametrize("client", SENT)
def test_what_it_sends_is_taken_and_the_answer_is_what_it_expects(client: str, reply: Reply) -> None:
    for one in SENT[client]:
        asked = read_request(one["kind"], json.dumps(one["body"]).encode(), CAN)
        answering = Answering(asked=asked, id="1", created=7, model="m")
        replies = [reply] * (len(asked.prompts) * asked.n)
        if asked.stream:
            form: type[Any] = ChatCompletionChunk if asked.kind == CHAT else Completion
            pieces = [*answering.opening(), *answering.pieces(0, reply), *answering.closing(replies)]
        else:
            form = ChatCompletion if asked.kind == CHAT else Completion
            pieces = [answering.whole(replies)]
        for piece in pieces:
            assert form.model_validate(json.loads(json.dumps(piece)), strict=True)
            assert piece.get("usage", {}) is not None, "it is read into where it is there"


def test_the_table_has_every_field_of_the_reference() -> None:
    """The installed client is made of the reference. A field that is new there needs a decision in openai_table.py."""
    for kind, module in ((CHAT, chat_create_params), (TEXT, completion_create_params)):
        streaming: Any = module.CompletionCreateParamsStreaming
        assert streaming.__annotations__.keys() - FIELDS[kind].keys() == set()


def told(schema: Mapping[str, Any]) -> str:
    """The values that a schema allows."""
    if "required" in schema or schema.get("additionalProperties"):
        return "an object as in the reference"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
    return {"string": "any text", "boolean": "`true` or `false`", "object": "any object"}[schema["type"]]


def row(name: str) -> str:
    fields = {kind: FIELDS[kind][name] for kind in (CHAT, TEXT) if name in FIELDS[kind]}
    where = " and ".join(fields)
    said = []
    for kind, field in fields.items():
        of = f"{kind}: " if len(set(map(id, fields.values()))) > 1 else ""
        taken = {
            USED: "used",
            SAME: f"taken, since it changes nothing: {told(field.schema)}" if field.becomes == SAME else "",
            REFUSED: "refused",
        }[field.becomes]
        said.append(f"{of}{taken}; {field.why}")
    return f"| `{name}` | {where} | {'. '.join(dict.fromkeys(said))} |"


def in_order() -> list[str]:
    """What is used first, what is refused last."""
    fields = {**FIELDS[TEXT], **FIELDS[CHAT]}
    return sorted(fields, key=lambda name: (USED, SAME, REFUSED).index(fields[name].becomes))


def test_the_page_shows_the_table() -> None:
    lines = PAGE.read_text().splitlines()
    names = in_order()
    begin = lines.index(HEAD) + 2
    assert lines[begin : begin + len(names)] == [row(name) for name in names]
    assert not lines[begin + len(names)].startswith("|")
