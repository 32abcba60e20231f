"""Many prompts from a file, and what has been answered already."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from nemodeploy.app import talking
from nemodeploy.app.asking import NoAnswer
from nemodeploy.app.backend import Backend, Job
from nemodeploy.core.openai_requests import Asked, Refused
from nemodeploy.errors import BadInput, ClusterUnreachable, NemodeployError
from nemodeploy.values import Reply

AHEAD = 256  # answers that are waited for at the same time
LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of many: its place in the file, from 1, the text, and what the system says if the line says so."""

    line: int
    text: str
    system: str | None = None


def read_prompts(text: str, name: str) -> list[Prompt]:
    """One a line; a line that begins with `{` is JSON with `prompt` and perhaps `system`. Raises BadInput."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if line.lstrip().startswith("{"):
            found.append(_from_json(line, number, name))
        elif line.strip():
            found.append(Prompt(number, line))
    if not found:
        raise BadInput(f"{name} holds no prompt", hint='one a line, or JSON: {"prompt": "…"}')
    return found


def _from_json(line: str, number: int, name: str) -> Prompt:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{name}:{number}: no JSON: {error}", hint='{"prompt": "…"} in one line') from None
    prompt, system = data.get("prompt"), data.get("system")
    if not isinstance(prompt, str) or not (system is None or isinstance(system, str)):
        raise BadInput(f"{name}:{number}: prompt and system must be strings", hint='{"prompt": "…", "system": "…"}')
    unknown = sorted(set(data) - {"prompt", "system"})
    if unknown:
        raise BadInput(f"{name}:{number}: unknown key {unknown[0]!r}", hint="prompt and system are known")
    return Prompt(number, prompt, system)


def answered(text: str, name: str, settings: Mapping[str, Any]) -> set[Prompt]:
    """Which prompts a file of answers has already. Raises BadInput when it is not one of these, or
    was made with other settings."""
    found = set()
    for number, line in enumerate(text.splitlines(), 1):
        try:
            data = json.loads(line)
            system = str(data["system"]) if "system" in data else None
            there = Prompt(int(data["line"]), str(data["prompt"]), system)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise BadInput(f"{name}:{number} is no line of answers", hint="another file for --output") from None
        if data.get("settings") != settings:
            raise BadInput(f"{name}:{number} was made with other settings", hint="another file for --output")
        if "error" not in data:
            found.add(there)
    return found


def run(
    backend: Backend, prompts: Sequence[Prompt], system: str | None, settings: Mapping[str, Any]
) -> Iterator[tuple[Prompt, list[str], NemodeployError | None]]:
    """Each prompt with its answers, or why it has none, as they come. All are checked before any is sent.

    Raises BadInput with the line. Closed before its end, what is under way is dropped.
    """
    waiting = [(one, _checked(backend, one, system, settings)) for one in prompts][::-1]
    under_way: dict[Future[Reply], tuple[Prompt, Sequence[Job]]] = {}
    try:
        while waiting or under_way:
            while waiting and len(under_way) < AHEAD:
                prompt, asked = waiting.pop()
                jobs = backend.ask(asked)
                under_way |= dict.fromkeys((job.future for job in jobs), (prompt, jobs))
            for future in wait(under_way, LOOK_EVERY_S, FIRST_COMPLETED).done:
                prompt, sent = under_way.pop(future)
                if all(job.future not in under_way for job in sent):
                    yield (prompt, *_outcome(sent))
    finally:
        backend.drop([job for _, sent in under_way.values() for job in sent])


def _checked(backend: Backend, one: Prompt, system: str | None, settings: Mapping[str, Any]) -> Asked:
    try:
        return talking.wish(backend, one.text, system=system if one.system is None else one.system, **settings)
    except BadInput as error:
        raise BadInput(f"line {one.line}: {error.message}", hint=error.hint) from None


def _outcome(jobs: Sequence[Job]) -> tuple[list[str], NemodeployError | None]:
    try:
        return [talking.settled(job.future.result()) for job in jobs], None
    except Refused as error:
        return [], talking.failure(error)
    except (NoAnswer, ClusterUnreachable) as error:
        return [], error
