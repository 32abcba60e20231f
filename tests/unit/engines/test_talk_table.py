"""The table of docs/talk.md says what the engines themselves say."""

from __future__ import annotations

from pathlib import Path

from nemodeploy.core.spec import Prompting
from nemodeploy.engines import ENGINES
from nemodeploy.values import Sampling

PAGE = Path(__file__).parents[3] / "docs/talk.md"
HEAD = "| engine | its own protocol | an answer comes | temperature | top_p | seed | several prompts |"
PROMPTING = Prompting(template="{prompt}", system="", stop=(), probe="p")


def row(name: str) -> str:
    engine = ENGINES[name]
    if engine.protocol == "openai":
        return f"| {name} | openai | in pieces | its own | its own | its own | its own |"
    request = engine.asked("m", PROMPTING, ("a",), Sampling(max_tokens=1))
    way = "in pieces" if engine.streamed(request) else "whole"
    told = " | ".join("yes" if key in engine.samples_by else "refused" for key in ("temperature", "top_p", "seed"))
    together = "at the same time" if engine.at_once else "in one request"
    return f"| {name} | {engine.protocol} | {way} | {told} | {together} |"


def test_the_table_is_what_the_engines_can() -> None:
    lines = PAGE.read_text().splitlines()
    begin = lines.index(HEAD) + 2
    assert lines[begin : begin + len(ENGINES)] == [row(name) for name in ENGINES]
