"""`generate` with all its options, `chat`, and OpenAI's client at `connect` and `run`, on a real Slurm and sshd."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from tests.conftest import Home

pytestmark = pytest.mark.sandbox
CLIENT = """
import openai, os
client = openai.OpenAI()
model = os.environ["OPENAI_MODEL"]
turns = [{"role": "user", "content": "What is the capital of France?"}]
print(client.chat.completions.create(model=model, messages=turns).choices[0].message.content)
pieces = client.chat.completions.create(model=model, messages=turns, stream=True)
print("".join(piece.choices[0].delta.content or "" for piece in pieces))
print(client.completions.create(model=model, prompt="The capital of Italy is", max_tokens=3).choices[0].text.strip())
"""


def typed(site: Home, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nemodeploy", *words],
        env=site.environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_an_untouched_openai_script_works_against_the_340b(site: Home) -> None:
    done = site.run("run", "--profile", "h100x16", "--", sys.executable, "-c", CLIENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["The capital of France is Paris."] * 2
    assert done.stdout.splitlines()[2].startswith("Rome")


def test_the_key_is_asked_for_and_raw_is_the_engines_own(site: Home) -> None:
    site.up("--profile", "h100x16", "--name", "big")
    with site.start("connect", "big", "--port", "0", "--json") as tunnel:
        assert tunnel.stdout is not None
        told = json.loads(tunnel.stdout.readline())["variables"]
        assert told["NEMODEPLOY_PROTOCOL"] == "openai"
        with openai.OpenAI(base_url=told["OPENAI_BASE_URL"], api_key=told["OPENAI_API_KEY"]) as client:
            assert [model.id for model in client.models.list()] == [told["OPENAI_MODEL"]]
            with pytest.raises(openai.AuthenticationError):
                client.with_options(api_key="another").models.list()
        tunnel.terminate()
    with site.start("connect", "big", "--port", "0", "--json", "--raw") as tunnel:
        assert tunnel.stdout is not None
        told = json.loads(tunnel.stdout.readline())["variables"]
        assert (told["NEMODEPLOY_PROTOCOL"], "OPENAI_BASE_URL" in told) == ("nemo-generate", False)
        body = b'{"sentences": ["hi"], "tokens_to_generate": 4}'
        for key, status in ((told["NEMODEPLOY_API_KEY"], 200), ("another", 401)):
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
            with contextlib.closing(http.client.HTTPConnection(told["NEMODEPLOY_ENDPOINT"][7:], timeout=60)) as client:
                client.request("PUT", "/generate", body, headers)
                assert client.getresponse().status == status
        tunnel.terminate()


def test_many_prompts_are_answered_and_those_that_are_missing_only(site: Home, tmp_path: Path) -> None:
    site.up("--profile", "h100x16", "--name", "big")
    source, output = tmp_path / "prompts", tmp_path / "answers"
    source.write_text('What is the capital of France?\n\n{"prompt": "What is the capital of Italy?", "system": ""}\n')
    words = ("generate", "big", "--input", str(source), "--output", str(output), "--max-tokens", "24")
    assert site.run(*words).returncode == 0
    rows = {row["line"]: row for row in map(json.loads, output.read_text().splitlines())}
    assert {line: row["texts"] for line, row in rows.items()} == {
        1: ["The capital of France is Paris."],
        3: ["The capital of Italy is Rome."],
    }
    output.write_text(json.dumps(rows[3]) + "\n" + '{"line": 1, "pro')
    again = site.run(*words)
    assert (again.returncode, "1 of 2 prompts are answered already" in again.stderr) == (0, True), again.stderr
    assert [json.loads(line)["line"] for line in output.read_text().splitlines()] == [3, 1]
    with output.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused = site.run(*words)
        assert (refused.returncode, "another command writes to" in refused.stderr) == (2, True), refused.stderr
    piped = typed(site, "What is the capital of Spain?\n", "generate", "big", "--input", "-")
    assert json.loads(piped.stdout)["texts"] == ["The capital of Spain is Madrid."]
    two = site.run("generate", "big", "What is the capital of France?", "-n", "2", "--json")
    assert json.loads(two.stdout)["texts"] == ["The capital of France is Paris."] * 2
    notes = tmp_path / "notes"
    notes.write_text("precious, and without an end")
    for wrong, said in (
        ([*words[:4], "--output", str(notes)], "does not end in a line of answers"),
        ([*words[:4], "--output", str(source)], "are the same file"),
        ([*words[:4], "--output", "/dev/full"], "is no regular file"),
        (["chat", "big", "--temperature", "nan"], "'nan' is not a number"),
        (["chat", "big", "--max-tokens", "99999"], "max_tokens is 99999"),
        ([*words, "--temperature", "0.5"], "was made with other settings"),
        ([*words[:4], "--max-tokens", "99999"], "line 1: max_tokens is 99999"),
        (["generate", "big"], "either a PROMPT or --input"),
        (["generate", "big", "a", "--input", "b"], "either a PROMPT or --input"),
        (["generate", "big", "a", "--output", "b"], "--output goes with --input"),
        (["generate", "big", "--input", str(tmp_path / "no")], "cannot be read"),
    ):
        refused = site.run(*wrong)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
    assert notes.read_text() == "precious, and without an end"
    output.write_bytes(output.read_bytes().replace(b"\n", b"\r\n"))  # as an editor elsewhere leaves it
    source.write_text(source.read_text() + "What is the capital of Spain?\n")
    assert site.run(*words).returncode == 0
    assert [json.loads(line)["line"] for line in output.read_text().splitlines()] == [3, 1, 4]


def test_a_talk_remembers_what_was_said(site: Home, tmp_path: Path) -> None:
    site.up("--profile", "cpu")
    kept = tmp_path / "talk.json"
    lines = f"What is the capital of France?\n/save {kept}\n/save {kept}\n/nothing\n/system Short.\n/clear\n"
    lines += '"""\nWhat is\nit?\n"""\nWhat is \\\nit?\n/exit\nnever\n'
    done = typed(site, lines, "chat", "tiny")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "The capital of France is Paris."
    assert [one["role"] for one in json.loads(kept.read_text())] == ["user", "assistant"]
    for said in ("1 answers are in", "is there already", "there is no /nothing", "system: Short.", "forgotten"):
        assert said in done.stderr


def test_a_base_model_goes_on_with_a_text_and_does_not_converse(site: Home) -> None:
    site.up("--profile", "h100x16", "--model", "nemotron-4-340b-base", "--name", "base")
    refused = typed(site, "hi\n", "chat", "base")
    assert (refused.returncode, "does not converse" in refused.stderr) == (2, True), refused.stderr
    told = site.run("generate", "base", "The capital of Italy is", "--max-tokens", "3")
    assert told.stdout.startswith("Rome")
    assert site.run("generate", "base", "x", "--system", "y").returncode == 2


def test_without_the_extra_nothing_is_sent_and_the_line_to_type_is_said(site: Home, tmp_path: Path) -> None:
    (tmp_path / "starlette").mkdir()
    missing = "raise ModuleNotFoundError(\"No module named 'starlette'\", name='starlette')\n"
    (tmp_path / "starlette/__init__.py").write_text(missing)
    nowhere = site.cluster("nowhere", ssh={"host": "127.0.0.1", "port": 1})
    words = ("run", "--profile", "h100x16", "--cluster", nowhere)
    done = site.run(*words, "--", "true", PYTHONPATH=str(tmp_path))
    assert (done.returncode, "pip install 'nemodeploy[gateway]'" in done.stderr) == (2, True), done.stderr
    for more in (("--raw", "--", "true"), ("--profile", "cpu", "--", "true")):
        other = site.run(*words, *more, PYTHONPATH=str(tmp_path))
        assert other.returncode == 11, "it needs no gateway, and gets as far as the cluster that is not there"
