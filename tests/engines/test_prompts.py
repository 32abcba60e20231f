"""Our prompt templates against transformers' own chat templates, on the tiny checkpoints."""

from __future__ import annotations

import json
import subprocess

import pytest

from nemodeploy.app.wanted import known_model
from nemodeploy.sandbox.packs import PACKS
from nemodeploy.sandbox.programs import CHECKPOINTS
from tests.engines.servers import needs, packs

pytestmark = pytest.mark.engines
RENDER = """
import json, sys
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
turns = json.loads(sys.argv[2])
text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
ours = tokenizer(sys.argv[3]).input_ids
print(json.dumps([text, tokenizer.bos_token, ids, ours]))
"""


QUESTION = "Who are you? {prompt} é"
TALKS = {
    "one question": ("", [QUESTION], []),
    "system": ("Be short. {system}", [QUESTION], []),
    "three turns": ("Be short.", ["Who are you?", QUESTION, "Go on."], ["A model.\n", " {prompt}"]),
}


@pytest.mark.parametrize("talk", sorted(TALKS))
@pytest.mark.parametrize("name", [name for name in sorted(CHECKPOINTS) if not name.endswith("base")])
def test_transformers_renders_the_same_prompt_and_the_same_tokens(name: str, talk: str) -> None:
    needs("transformers")
    prompting = known_model(name).prompting
    system, questions, answers = TALKS[talk]
    turns = [{"role": "system", "content": system}] if system else []
    for question, answer in zip(questions, [*answers, ""], strict=True):
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer.strip()}]
    ours = prompting.converse(questions, answers, system=system)
    words = [str(packs().python(PACKS["nemo"])), "-c", RENDER, packs().checkpoint(name), json.dumps(turns[:-1]), ours]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    text, begin, theirs, tokens = json.loads(done.stdout)
    if prompting.add_bos:
        text = text.removeprefix(begin)
    assert text.encode() == ours.encode()
    assert tokens == theirs
