"""nemodeploy generate: questions and answers, one or many, through the tunnel."""

from __future__ import annotations

import contextlib
import fcntl
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nemodeploy.cli import options, world
from nemodeploy.cli.words import put_json, say, tell
from nemodeploy.errors import BadInput, PreflightFailed

if TYPE_CHECKING:
    from nemodeploy.app.backend import Backend
    from nemodeploy.app.prompts import Prompt

SCHEMA = "nemodeploy/generate@1"
TIMEOUT_S = 600.0
Write = Callable[[Mapping[str, Any]], None]
BEGINNING = '{"line": '  # of every line of answers


def sampling(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of everything that makes answers."""
    for option in (
        click.option("--top-p", type=options.Number(0, 1, min_open=True), help="Share of the likeliest tokens."),
        click.option("--seed", type=int, help="For the same answer again, where there is a temperature."),
        click.option("--temperature", type=options.Number(0, 2), help="0, the default, takes the likeliest token."),
        click.option("--max-tokens", type=click.IntRange(1), help="Length of an answer; default: the model's."),
        click.option("--system", help="What the system says; default: the model's own."),
    ):
        function = option(function)
    return function


@click.command("generate", short_help="Ask it something.")
@click.argument("name")
@click.argument("prompt", required=False)
@options.networked
@click.option("-n", "n", type=click.IntRange(1, 128), default=1, help="So many answers to each prompt.")
@sampling
@click.option(
    "--input", "source", type=click.Path(), help="Prompts from a file, - for stdin: one a line, or JSON lines."
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="With --input: answers to a file.")
def command(
    name: str,
    prompt: str | None,
    cluster: str | None,
    as_json: bool,
    n: int,
    system: str | None,
    source: str | None,
    output: Path | None,
    **told: Any,
) -> int:
    """Send a prompt in the model's own template and print what it generates.

    With --input each answer is a line of JSON, as it comes; an --output that has some of them already gets the others.
    """
    from nemodeploy.app.prompts import read_prompts

    world.require_name(name)
    if (prompt is None) == (source is None):
        raise BadInput("either a PROMPT or --input", hint=f'nemodeploy generate {name} "…"')
    if output and source is None:
        raise BadInput("--output goes with --input", hint="nemodeploy generate NAME … > FILE")
    if output and source not in (None, "-") and output.resolve() == Path(str(source)).resolve():
        raise BadInput("--input and --output are the same file", hint="another file for --output")
    if output and output.exists() and not output.is_file():
        raise BadInput(f"--output {output} is no regular file", hint="leave it out: the answers are printed")
    settings = {"n": n, **{key: value for key, value in told.items() if value is not None}}
    prompts = read_prompts(_text_of(source), source) if source is not None else []
    with asked_at(cluster, name) as backend:
        if prompt is not None:
            _one(backend, name, prompt, system, settings, as_json=as_json)
            return 0
        return _many(backend, prompts, system, settings, output)


@contextlib.contextmanager
def asked_at(cluster: str | None, name: str) -> Iterator[Backend]:
    """Whoever is asked, and its lease renewed meanwhile."""
    from nemodeploy.app.connecting import Connection
    from nemodeploy.cli.reporters import PlainReporter

    with contextlib.ExitStack() as stack:
        site, directory, endpoint = world.serving(stack, cluster, name)
        connection = Connection(site, world.ports(PlainReporter()), directory.token, directory.plan, endpoint)
        connection.tend()
        stack.callback(connection.close)
        yield stack.enter_context(contextlib.closing(connection.backend(within_s=TIMEOUT_S)))


def _one(
    backend: Backend, name: str, prompt: str, system: str | None, settings: Mapping[str, Any], *, as_json: bool
) -> None:
    from nemodeploy.app.prompts import Prompt, run

    _, texts, error = next(run(backend, [Prompt(1, prompt)], system, settings))
    if error:
        raise error
    if as_json:
        put_json({"schema": SCHEMA, "name": name, "prompt": prompt, "text": texts[0], "texts": texts})
    else:
        say("\n\n".join(texts))


def _many(
    backend: Backend,
    prompts: Sequence[Prompt],
    system: str | None,
    settings: Mapping[str, Any],
    output: Path | None,
) -> int:
    """Answers as they come; 12 when some prompts have none."""
    from nemodeploy.app.prompts import run

    kept = {"model": backend.can.model, **settings, **({"system": system} if system is not None else {})}
    with _answers(output, kept) as (there, write):
        left = [one for one in prompts if one not in there]
        if len(left) < len(prompts):
            tell(f"  {len(prompts) - len(left)} of {len(prompts)} prompts are answered already")
        good, bad, shown = 0, 0, 0
        for one, texts, error in run(backend, left, system, settings):
            good, bad = (good, bad + 1) if error else (good + 1, bad)
            said: dict[str, object] = {"error": error.message} if error else {"texts": texts}
            its = {} if one.system is None else {"system": one.system}
            write({"line": one.line, "prompt": one.text, **its, **said, "settings": kept})
            if 10 * (good + bad) // len(left) > shown:  # a line for every tenth
                shown = 10 * (good + bad) // len(left)
                tell(f"  {good + bad} of {len(left)} prompts" + (f", {bad} without an answer" if bad else ""))
    if bad:
        where = f"; the same command again asks only for those that {output} lacks" if output else ""
        raise PreflightFailed(f"{bad} of {len(left)} prompts have no answer{where}", hint="its line says why")
    return 0


@contextlib.contextmanager
def _answers(output: Path | None, settings: Mapping[str, Any]) -> Iterator[tuple[set[Prompt], Write]]:
    """Which prompts are answered already, and where the next answer goes. Raises BadInput."""
    from nemodeploy.app.prompts import answered

    if output is None:
        yield set(), put_json
        return
    try:
        with output.open("a+", encoding="utf-8", newline="") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(f"another command writes to --output {output}", hint="another file") from None
            file.seek(0)
            text = file.read()
            whole = text[: text.rfind("\n") + 1]
            there = answered(whole, str(output), settings)
            if not BEGINNING.startswith(text[len(whole) :][: len(BEGINNING)]):  # else a line that was cut off
                raise BadInput(f"--output {output} does not end in a line of answers", hint="another file")
            file.truncate(len(whole.encode()))

            def write(line: Mapping[str, Any]) -> None:
                file.write(json.dumps(line) + "\n")
                file.flush()

            yield there, write
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--output {output} cannot be used: {error}", hint="another file") from error


def _text_of(source: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"--input {source} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"--input {source} is no UTF-8 text (byte {error.start + 1})") from error
