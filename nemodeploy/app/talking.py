"""Talking with a deployment: what was said, and the next answer as it comes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import wait
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from nemodeploy.adapters.http import lines
from nemodeploy.app.asking import NoAnswer
from nemodeploy.app.backend import Backend
from nemodeploy.core.foreign import wash_line
from nemodeploy.core.openai_answers import refusal
from nemodeploy.core.openai_requests import Asked, Refused, read_request
from nemodeploy.core.openai_table import CHAT, TEXT
from nemodeploy.engines.answers import END_OF_TEXT, cut
from nemodeploy.errors import BadInput, ClusterUnreachable
from nemodeploy.values import Reply

LOOK_EVERY_S = 0.2


def wish(backend: Backend, prompt: str, *, system: str | None = None, **settings: object) -> Asked:
    """One prompt in the model's own way: a question in its template, or text to go on with where it does not converse.

    `settings`: OpenAI's parameters; those that are None are not asked for. Raises BadInput.
    """
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return checked(backend, messages, **settings)


def checked(backend: Backend, messages: list[dict[str, str]], **settings: object) -> Asked:
    """The same for a whole talk."""
    can = backend.can
    given: dict[str, object] = {"model": can.model}
    kind = CHAT if can.prompting.turn else TEXT
    if kind == CHAT:
        given["messages"] = messages
    elif len(messages) > 1:
        raise BadInput(f"{can.model} continues text and does not converse", hint="leave the system prompt out")
    else:
        prompt = messages[0]["content"]
        given |= {"prompt": prompt, "max_tokens": can.room(prompt, can.prompting.max_tokens)}
    given |= {key: value for key, value in settings.items() if value is not None}
    try:
        return read_request(kind, json.dumps(given).encode(), can)
    except Refused as error:
        raise BadInput(str(error)) from None


def settled(reply: Reply) -> str:
    """Its text without the white space around it. Raises NoAnswer."""
    wrong = refusal(reply)
    if wrong or not reply.text.strip():
        raise NoAnswer(str(wrong or "the server's answer is empty"))
    return reply.text.strip()


def failure(error: Refused) -> NoAnswer | ClusterUnreachable:
    """What kept an answer from coming."""
    text = wash_line(str(error))
    return ClusterUnreachable(text) if error.status in (502, 503) else NoAnswer(text)


def pieces(backend: Backend, asked: Asked) -> Generator[str, None, None]:
    """An answer as it comes, without its stop string. Raises NoAnswer or ClusterUnreachable.

    Closed before its end, the request is dropped.
    """
    engine, sampling = backend.engine, asked.sampling
    request = engine.streamed(engine.asked(backend.served, backend.prompting, asked.prompts, sampling))
    if request is None:
        yield _whole(backend, asked)
        return
    stop = (*backend.prompting.stop, *sampling.stop)
    held = max(map(len, (END_OF_TEXT, *stop)))  # the beginning of a stop string may be its end
    text, said, whole = "", 0, False
    stream = backend.dial()
    try:
        for status, line in lines(stream, "127.0.0.1", request, timeout_s=backend.within_s):
            reply = Reply(problem=f"status {status}: {wash_line(line)[:200]}") if status != 200 else engine.piece(line)
            if reply and reply.problem:
                raise NoAnswer(f"the server says: {wash_line(reply.problem)}")
            if reply:
                text, whole = text + reply.text, whole or reply.stopped
            ended = cut(text, stop)
            upto = len(ended) if ended != text else max(len(text) - held, said)
            yield text[said:upto]
            said = upto
            if ended != text:
                return
        if not whole:
            raise ClusterUnreachable("the server broke off in the middle of its answer")
        yield text[said:]
    except TimeoutError:
        raise NoAnswer(f"the server said nothing for {backend.within_s:.0f} s") from None
    except (OSError, EOFError, HTTPException) as error:
        raise ClusterUnreachable(f"the connection to the server broke: {error}") from error
    finally:
        with contextlib.suppress(OSError, EOFError):
            stream.close()


def _whole(backend: Backend, asked: Asked) -> str:
    jobs = backend.ask(asked)
    try:
        while not wait([jobs[0].future], LOOK_EVERY_S).done:
            pass  # again and again, so that Ctrl-C is heard
        return settled(jobs[0].future.result())
    except Refused as error:
        raise failure(error) from None
    finally:
        backend.drop(jobs)


@dataclass(kw_only=True, slots=True)
class Talk:
    """A talk so far: OpenAI's messages. `settings`: OpenAI's parameters for every answer."""

    backend: Backend
    system: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    said: list[dict[str, str]] = field(default_factory=list)

    @property
    def messages(self) -> list[dict[str, str]]:
        """With the system's, if it says anything."""
        return [*([{"role": "system", "content": self.system}] if self.system is not None else []), *self.said]

    def check(self) -> None:
        """Raises BadInput where no question could be asked, whatever it is."""
        checked(self.backend, [*self.messages, {"role": "user", "content": "?"}], **self.settings)

    def ask(self, question: str, show: Callable[[str], None]) -> None:
        """Say it, and show the answer as it comes; interrupted, what has come so far stays part of the talk.

        Raises BadInput (it cannot be asked), NoAnswer or ClusterUnreachable; then the talk is as it was.
        """
        asked = checked(self.backend, [*self.messages, {"role": "user", "content": question}], **self.settings)
        answer = ""
        coming = pieces(self.backend, asked)
        try:
            with contextlib.closing(coming):
                for piece in coming:
                    before = answer.strip()
                    answer += piece
                    show(answer.strip()[len(before) :])  # white space at an end is shown once it is within
        except KeyboardInterrupt:
            if answer.strip():
                self._keep(question, answer)
            raise
        self._keep(question, answer)

    def _keep(self, question: str, answer: str) -> None:
        self.said += [{"role": "user", "content": question}, {"role": "assistant", "content": answer.strip()}]
