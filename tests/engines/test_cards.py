"""Every card's row: the product's own scripts on a real Slurm start the card's own server software, and it answers.

`make card CARD=70b` runs one of them. What is real of each and what is not: docs/sandbox.md.
"""

from __future__ import annotations

import sys

import pytest

from nemodeploy.sandbox.cluster import Sandbox
from tests.conftest import Home
from tests.engines.servers import L51, L70, N8, needs, packs

pytestmark = [pytest.mark.sandbox, pytest.mark.engines]
PARIS = "The capital of France is Paris."
BASE = "nemotron-4-340b-base"
CLIENT = """
import openai, os, sys
client, ask = openai.OpenAI(), {"model": os.environ["OPENAI_MODEL"], "max_tokens": 24, "temperature": 0}
if sys.argv[1] == "chat":
    turns = [{"role": "user", "content": sys.argv[2]}]
    print(client.chat.completions.create(messages=turns, **ask).choices[0].message.content.strip())
else:
    print(client.completions.create(prompt=sys.argv[2], **ask).choices[0].text.strip())
"""
CARDS = {
    "340b-h100x16": (("--profile", "h100x16"), "nemo-eval", 16),
    "340b-h200x8": (("--profile", "h200x8"), "nemo-eval", 8),
    "base-h200x8": (("--profile", "h200x8", "--model", BASE), "nemo-eval", 8),
    "70b": (("--profile", "h100x2", "--model", L70), "nemo-triton", 2),
    "70b-hf": (("--profile", "h100x2", "--model", L70, "--engine", "nemo-hf-triton"), "nemo-hf-triton", 2),
    "51b": (("--profile", "h100x2", "--model", L51), "vllm", 1),
    "51b-two-nodes": (
        (
            "--profile",
            "h100x16",
            "--model",
            L51,
            "--nodes",
            "2",
            "--set",
            "gpus_per_node=1",
            "--set",
            "layout.tensor_parallel=2",
            "--set",
            "fast_link=true",
        ),
        "vllm",
        2,
    ),
    "8b": (("--profile", "h100x1", "--model", N8), "nemo-trtllm", 1),
    "8b-early": (("--profile", "h100x1", "--model", N8, "--engine", "nemo-trtllm-early"), "nemo-trtllm-early", 1),
    "8b-eval": (("--profile", "h100x1", "--model", N8, "--engine", "nemo-eval"), "nemo-eval", 1),
    "tiny": (("--profile", "cpu"), "llamacpp", 1),
    "tiny-transformers": (("--profile", "cpu", "--engine", "transformers"), "transformers", 1),
}


@pytest.fixture
def real_site(site: Home) -> Home:
    """The sandbox with the engines' own software."""
    done = site.run("sandbox", "up", "--engines", "real", NEMODEPLOY_ENGINES_DIR=str(packs().directory))
    assert done.returncode == 0, done.stderr
    return site


@pytest.mark.parametrize("card", CARDS)
def test_a_card_is_up_and_answers(real_site: Home, sandbox: Sandbox, card: str) -> None:
    words, engine, tasks = CARDS[card]
    needs(engine)
    up = real_site.up(*words, timeout=240)
    name = str(up["name"])
    assert up["engine"] == engine
    base = card.startswith("base")
    assert up["answer"] == ("Paris." if base else PARIS)
    question, answer = ("The capital of Japan is", "Tokyo.") if base else ("What is 2+2?", "Two plus two is four.")
    told = real_site.run("generate", name, question)
    assert (told.returncode, told.stdout.strip()) == (0, answer), told.stderr
    script = (sys.executable, "-c", CLIENT, "text" if base else "chat", question)
    asked = real_site.run("connect", name, "--port", "0", "--", *script)
    assert (asked.returncode, asked.stdout.strip()) == (0, answer), asked.stderr
    status = real_site.run("status", name).stdout
    assert "READY" in status
    assert f"serving, {tasks}/{tasks} ranks joined" in status
    logs = real_site.run("logs", name).stdout
    assert len(logs.splitlines()) > 5
    assert real_site.run("down", name, timeout=120).returncode == 0
    assert sandbox.exec("squeue", "--noheader").stdout == ""
