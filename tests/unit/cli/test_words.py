"""What is printed is washed, disarmed where a CI system reads, and can always be encoded."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from nemodeploy.adapters import terminal as asking
from nemodeploy.cli import failing, options, words, workflow
from nemodeploy.cli.main import run
from nemodeploy.cli.reporters import PlainReporter, TerminalReporter
from nemodeploy.errors import JobEnded
from tests.conftest import Home

EVIL = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202e \ud800 [red]x[/red] :smile:\n::error::evil\n ##[error]evil"
SEEN = "red \ufffd [red]x[/red] :smile:\n::error::evil\n ##[error]evil\n"
TYPED = EVIL.replace("\ud800", "\udcff")  # a byte of an argument that is no UTF-8
IN_CI = "red \ufffd [red]x[/red] :smile:\n: :error::evil\n # #[error]evil\n"


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*words.CI_LOGS, "CI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    mine = logging.getLogger("nemodeploy")
    yield mine
    mine.setLevel(logging.NOTSET)


def test_both_ways_out_wash(capsys: pytest.CaptureFixture[str]) -> None:
    words.say(EVIL)
    words.tell(EVIL)
    assert tuple(capsys.readouterr()) == (SEEN, SEEN)
    words.say(EVIL, nl=False)
    words.redraw(EVIL)
    assert capsys.readouterr().out == f"{SEEN[:-1]}{SEEN}", "no screen is there to be cleared"


@pytest.mark.parametrize("name", words.CI_LOGS)
def test_where_a_ci_system_reads_no_line_is_a_command(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "true")
    words.say(EVIL)
    words.tell(EVIL)
    assert tuple(capsys.readouterr()) == (IN_CI, IN_CI)


def test_a_document_is_ascii_and_the_same_in_a_ci_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    value = {"a": [EVIL, "×", "###[x]"]}
    words.put_json(value)
    plain = capsys.readouterr().out
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    words.put_json(value, indent=2)
    disarmed = capsys.readouterr().out
    assert json.loads(plain) == json.loads(disarmed) == value
    assert "##" in plain
    assert "##" not in disarmed
    assert plain.isascii()


def test_an_answer_in_pieces_is_washed_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = words.Flow()
    for piece in ("a\x1b", "[3", "1mb", ":", ":", "c\n", "\n:", ":error::x\nno end"):
        flow.show(piece)
    assert capsys.readouterr().out == "ab::c\n\n::error::x\nno end", "as it comes"
    flow.end()
    monkeypatch.setenv("GITLAB_CI", "true")
    flow = words.Flow()
    for piece in ("a\n", ":", ":error::x\nb", "c ##", "[error]"):
        flow.show(piece)
    flow.end()
    assert capsys.readouterr().out == "\na\n: :error::x\nbc # #[error]\n"


def test_a_table_keeps_its_rows_and_columns(capsys: pytest.CaptureFixture[str]) -> None:
    words.say(words.table([("A", "B"), ("x\x1b[31m\ny", "z")]))
    assert capsys.readouterr().out == "A    B\nx y  z\n"


def test_questions_are_washed_and_the_answer_is_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed: list[str] = []

    def visible(prompt: str = "") -> str:
        typed.append(prompt)
        return "part"

    monkeypatch.setattr("click.termui.visible_prompt_func", visible)
    assert words.choose(f"which {EVIL}?", ["part\x1b[31m", "other"], "other") == "part\x1b[31m"
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt="": "n")
    with pytest.raises(click.Abort):
        words.confirm(f"{EVIL}?", abort=True)
    said = "".join(typed) + "".join(capsys.readouterr())
    assert "\x1b" not in said
    assert "\x9b" not in said


def test_a_servers_question_is_washed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []
    monkeypatch.setattr(asking, "_typed", lambda prompt, within_s, shown: asked.append(prompt))
    asking._ask(EVIL, [(EVIL, False)])
    assert (capsys.readouterr().err, asked) == (SEEN, [SEEN[:-1]])


def test_remote_calls_that_are_shown_are_washed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own
    options._log_calls(None, None, True)  # type: ignore[arg-type]
    logger.debug("%s", EVIL.replace("\ud800", "\ufffd"))  # what pytest keeps of a log, it must be able to encode
    assert capsys.readouterr().err == f"  {SEEN}"


def test_an_error_is_washed_on_stderr_and_in_its_document(capsys: pytest.CaptureFixture[str]) -> None:
    error = JobEnded(EVIL, hint=EVIL, detail=(f"{EVIL}!",))
    failing.show_error(error, as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)["detail"] == [f"{SEEN[:-1]}!"]
    assert err == f"error: {SEEN}  │ {SEEN[:-1]}!\n  try  {SEEN}"


def test_annotations_stay_whole_and_are_the_only_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    failing.show_error(JobEnded(EVIL, detail=(EVIL,)), as_json=False)
    workflow.begin_group(EVIL)
    commands = [line for line in capsys.readouterr().err.splitlines() if line.lstrip().startswith("::")]
    assert [line.split("::")[1] for line in commands] == ["error title=nemodeploy exit 30", "group"]
    workflow.repeat(f"error: x\n{commands[0]}\n::set-output name=a::b\n")
    assert capsys.readouterr().err == f"error: x\n{commands[0]}\n: :set-output name=a::b\n"
    assert workflow._property("a:b,c%\n") == "a%3Ab%2Cc%25%0A"
    assert workflow._cell("![x](http://y) <img> `c` & a_b") == r"!\[x\](http://y) &lt;img> \`c\` &amp; a\_b".replace(
        "!", r"\!"
    )


def test_a_change_that_is_told_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    PlainReporter().say("queued", EVIL)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_terminals_line_is_washed_and_no_markup_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter()
    reporter.say("queued", EVIL)
    reporter.close()
    err = capsys.readouterr().err
    assert "red \ufffd [red]x[/red] :smile: ::error::evil  ##[error]evil" in err
    assert not {"\x9b", "\u202e", "\x07"} & set(err)


@pytest.mark.parametrize(
    "line",
    [
        ["logs", f"a{TYPED}"],
        ["up", f"--{TYPED}"],
        [TYPED],
        ["trust", "x", "--fingerprint", TYPED],
        ["status", "--days", TYPED],
        ["plan", "--profile", TYPED],
        ["validate", TYPED],
        ["render", "--profile", "h100x16", "--output", f"/dev/null/{TYPED}"],
    ],
    ids=lambda line: ascii(line[0])[:10],
)
def test_what_was_typed_is_quoted_without_its_escapes(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line, as_json=False) == 2
    out, err = capsys.readouterr()
    assert not {"\x1b", "\x9b", "\x07", "\u202e", "\udcff"} & set(out + err)
    assert err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("line", [["sandbox", "--help"], ["plan", "--profile", "h100x16"], ["models"]])
def test_no_encoding_ends_a_command(home: Home, encoding: str, line: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nemodeploy", *line],
        env={**home.environment, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert b"Error" not in done.stderr
