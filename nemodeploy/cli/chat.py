"""nemodeploy chat: a talk on the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.generate import asked_at, sampling
from nemodeploy.cli.words import Flow, tell
from nemodeploy.errors import BadInput, NemodeployError

if TYPE_CHECKING:
    from nemodeploy.app.talking import Talk

HELP = """\
  a line that ends with \\   goes on with the next one
  \"\"\"                      begins and ends a text of several lines
  Ctrl-C                   stops the answer, and nothing else
  /save FILE               keeps the talk; as OpenAI's messages where FILE ends in .json
  /system TEXT             what the system says from now on; alone: what it says
  /clear                   forgets what was said
  /exit, Ctrl-D            leaves; the deployment stays up"""
MARKS = "> ", "… "
QUOTES = '"""'


@click.command("chat", short_help="Talk to it.")
@click.argument("name")
@options.cluster
@options.verbose
@sampling
def command(name: str, cluster: str | None, system: str | None, **told: Any) -> None:
    """Talk with a deployment; it remembers what was said. /help says what can be typed.

    Without a terminal every line of stdin is a question.
    """
    from nemodeploy.app.talking import Talk

    world.require_name(name)
    with asked_at(cluster, name) as backend:
        if not backend.prompting.turn:
            hint = f'nemodeploy generate {name} "…"   has it go on with a text'
            raise BadInput(f"{backend.can.model} continues text and does not converse", hint=hint)
        settings = {key: value for key, value in told.items() if value is not None}
        talk = Talk(backend=backend, system=system, settings=settings)
        talk.check()
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  # arrows and history in input()
            tell(f"{backend.can.model}; /help says what can be typed")
        for said in _lines():
            if not _obey(talk, said):
                break


def _lines() -> Iterator[str]:
    """What is typed: lines, or several as one, until the end of input."""
    while True:
        try:
            said = _question()
        except KeyboardInterrupt:
            tell("\n  Ctrl-D or /exit leaves")
            continue
        except EOFError:
            if sys.stdin.isatty():
                tell("")
            return
        if said.strip():
            yield said


def _question() -> str:
    """A line, and those that belong to it; the end of input is its end, too. Raises EOFError where there is none."""
    said = [_typed(MARKS[0])]
    with contextlib.suppress(EOFError):
        if said[0].strip() == QUOTES:
            said.clear()
            while (line := _typed(MARKS[1])).strip() != QUOTES:
                said.append(line)
            return "\n".join(said)
        while said[-1].endswith("\\"):
            said[-1] = said[-1][:-1]
            said.append(_typed(MARKS[1]))
    return "\n".join(said)


def _typed(mark: str) -> str:
    """A line without its end. Raises EOFError, or BadInput for what is no text."""
    try:
        return input(mark if sys.stdin.isatty() else "")
    except UnicodeDecodeError as error:
        raise BadInput(f"stdin is no UTF-8 text (byte {error.start + 1})") from None


def _obey(talk: Talk, said: str) -> bool:
    """Do what a line wants; False: leave."""
    word, _, rest = said.strip().partition(" ")
    if word == "/exit":
        return False
    if word in COMMANDS:
        COMMANDS[word](talk, rest.strip())
    elif word.startswith("/") and "/" not in word[1:]:
        tell(f"  there is no {word}; /help says what there is, and a blank in front makes it a question")
    else:
        _ask(talk, said)
    return True


def _ask(talk: Talk, question: str) -> None:
    """The answer as it comes; what goes wrong is said, and the talk goes on as it was."""
    flow = Flow()
    try:
        talk.ask(question, flow.show)
    except KeyboardInterrupt:
        flow.end()
        tell("  stopped")
        return
    except NemodeployError as error:
        if flow.begun:
            flow.end()
        tell(f"error: {error.message}" + (f"\n  try  {error.hint}" if error.hint else ""))
        return
    flow.end()


def _save(talk: Talk, where: str) -> None:
    from nemodeploy.adapters import files

    if not where:
        tell("  /save FILE")
        return
    path = Path(os.path.expanduser(where))  # noqa: PTH111 # where there is no such user it stays as it is
    if path.suffix == ".json":
        text = json.dumps(talk.messages, indent=2, ensure_ascii=False) + "\n"
    else:
        text = "\n\n".join(f"{one['role']}: {one['content']}" for one in talk.messages) + "\n"
    try:
        files.write_new(path, text)
    except FileExistsError:
        tell(f"  {path} is there already; another name")
    except (OSError, ValueError) as error:
        tell(f"  {path} cannot be written: {error}")
    else:
        tell(f"  {len(talk.said) // 2} answers are in {path}")


def _system(talk: Talk, text: str) -> None:
    if text:
        talk.system = text
    tell(f"  system: {talk.system if talk.system is not None else talk.backend.prompting.system or '(nothing)'}")


def _clear(talk: Talk, _: str) -> None:
    talk.said.clear()
    tell("  forgotten")


def _help(_: Talk, __: str) -> None:
    tell(HELP)


COMMANDS: Mapping[str, Callable[[Any, str], None]] = {
    "/save": _save,
    "/system": _system,
    "/clear": _clear,
    "/help": _help,
}
