"""Asking a server through the tunnel, in its engine's own protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from nemodeploy.adapters.http import exchange
from nemodeploy.app.site import Site
from nemodeploy.core.foreign import wash_line
from nemodeploy.core.spec import Prompting
from nemodeploy.engines import ENGINES
from nemodeploy.engines.answers import visible_or_token
from nemodeploy.engines.base import NO_TEXT, Engine, Question
from nemodeploy.errors import ClusterUnreachable, PreflightFailed
from nemodeploy.values import Endpoint, HttpRequest, Reply

DEFAULT_TOKENS = 256  # of manifests that say nothing


class NoAnswer(PreflightFailed):
    """The server was reached and gave no text."""


class NoText(NoAnswer):
    """Its answer is in order and holds nothing that can be seen; `given` is what it holds, quoted."""

    given = ""


def prompting_of(plan: Mapping[str, Any]) -> Prompting:
    """How the deployed model is spoken to, as its manifest keeps it."""
    kept = plan.get("prompting") or {}
    length = kept.get("max_tokens")
    return Prompting(
        template=str(kept.get("template", "{prompt}")),
        system=str(kept.get("system", "")),
        stop=tuple(map(str, kept.get("stop", ()))),
        probe=str(kept.get("probe", "")),
        add_bos=bool(kept.get("add_bos", False)),
        turn=str(kept.get("turn", "")),
        max_tokens=length if isinstance(length, int) and length > 0 else DEFAULT_TOKENS,
    )


def generate(
    site: Site, endpoint: Endpoint, plan: Mapping[str, Any], question: str, *, max_tokens: int, timeout_s: float
) -> str:
    """One question, one text. Raises ClusterUnreachable (no way there) or NoAnswer (there, but no text)."""
    engine, prompting = engine_of(plan), prompting_of(plan)
    prompt = prompting.compose(question)
    status, body = _send(
        site, endpoint, plan, engine.ask(served_of(plan), prompting, prompt, max_tokens=max_tokens), timeout_s
    )
    return _text(engine.read(status, body, served=served_of(plan), prompt=prompt, stop=prompting.stop))


def recorded(plan: Mapping[str, Any], answer: str) -> str:
    """The text in an answer that the job kept (`probe.body`: status, newline, body). Raises NoAnswer."""
    if not answer.strip():
        raise NoAnswer("the server's answer to the job cannot be read yet")
    engine, prompting = engine_of(plan), prompting_of(plan)
    status, _, body = answer.lstrip("\n").partition("\n")
    prompt = prompting.compose(prompting.probe)
    number = int(status) if status.isdigit() else 0
    reply = engine.read(number, body, served=served_of(plan), prompt=prompt, stop=prompting.stop)
    if reply.problem == NO_TEXT:
        whole = engine.replies(number, body, Question(served=served_of(plan), prompts=(prompt,)))[0].text
        error = NoText(f"the server gave no text: {reply.problem}")
        shown = whole.encode("ascii", "backslashreplace").decode() if not visible_or_token(whole) else whole.strip()
        error.given = f"`{wash_line(shown)[:200]}`" if whole.strip() else "an empty text"
        raise error
    return _text(reply)


def only_unseen(plan: Mapping[str, Any], answer: str) -> str | None:
    """What the server gave instead of text, where its answer is good but for that; None: it is another answer."""
    try:
        recorded(plan, answer)
    except NoText as error:
        return error.given
    except NoAnswer:
        pass
    return None


def reach(site: Site, endpoint: Endpoint, plan: Mapping[str, Any], *, timeout_s: float) -> None:
    """The engine's cheap question, for the way there only. Raises ClusterUnreachable, or NoAnswer (none in time)."""
    _send(site, endpoint, plan, engine_of(plan).cheap_probe(served_of(plan)).request, timeout_s)


def engine_of(plan: Mapping[str, Any]) -> Engine:
    """The plugin of a deployment. Raises PreflightFailed when this version knows none of that name."""
    engine = ENGINES.get(str(plan.get("engine")))
    if engine is None:
        raise PreflightFailed(f"this version of nemodeploy does not know the engine {plan.get('engine')}")
    return engine


def served_of(plan: Mapping[str, Any]) -> str:
    """The model's name in requests; older manifests hold the model's own only."""
    return str(plan.get("served") or plan.get("model"))


def _text(reply: Reply) -> str:
    if reply.problem:
        raise NoAnswer(f"the server gave no text: {wash_line(reply.problem)}")
    return reply.text


def _send(
    site: Site, endpoint: Endpoint, plan: Mapping[str, Any], request: HttpRequest, timeout_s: float
) -> tuple[int, str]:
    host = str(plan.get("endpoint_host") or endpoint.host)
    stream = site.transport.tunnel(host, endpoint.port)
    try:
        return exchange(stream, host, request, timeout_s=timeout_s)
    except TimeoutError as error:
        raise NoAnswer(f"the server did not answer within {timeout_s:.0f} s") from error
    except (OSError, EOFError, HTTPException) as error:
        raise ClusterUnreachable(f"the connection to the server broke: {error}") from error
    finally:
        with contextlib.suppress(OSError, EOFError):
            stream.close()
