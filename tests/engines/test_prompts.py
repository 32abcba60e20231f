"""Our prompt templates against transformers' own chat templates, on the tiny checkpoints."""

from __future__ import annotations

import json
import subprocess

import pytest

from nemodeploy.app.wanted import known_model
from nemodeploy.sandbox.packs import PACKS
from nemodeploy.sandbox.programs import CHECKPOINTS
from tests.engines.servers import HINT, packs

pytestmark = pytest.mark.engines
RENDER = """
import json, sys
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
turns = [{"role": "user", "content": sys.argv[2]}]
text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
ours = tokenizer(sys.argv[3]).input_ids
print(json.dumps([text, tokenizer.bos_token, ids, ours]))
"""


@pytest.mark.parametrize("name", [name for name in sorted(CHECKPOINTS) if not name.endswith("base")])
def test_transformers_renders_the_same_prompt_and_the_same_tokens(name: str) -> None:
    pack = PACKS["nemo"]
    if not packs().installed(pack):
        pytest.skip(f"the pack nemo is not installed; {HINT}")
    prompting = known_model(name).prompting
    question = "Who are you? {prompt} é"
    words = [str(packs().python(pack)), "-c", RENDER, packs().checkpoint(name), question, prompting.compose(question)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    text, begin, theirs, ours = json.loads(done.stdout)
    if prompting.add_bos:
        text = text.removeprefix(begin)
    assert text.encode() == prompting.compose(question).encode()
    assert ours == theirs
