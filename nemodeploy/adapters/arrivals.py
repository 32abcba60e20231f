"""The answers of a request as they come: what stands between a service and its HTTP server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Protocol

from nemodeploy.core.openai_answers import Answering, refusal
from nemodeploy.core.openai_requests import Refused
from nemodeploy.values import Reply


class Talk(Protocol):
    """A request under way: a future for each choice, in order; all are settled in the loop that serves."""

    @property
    def answering(self) -> Answering:
        """How its answers are said."""

    @property
    def futures(self) -> Sequence[Future[Reply]]:
        """Each raises Refused when its answer cannot be had."""

    def drop(self) -> None:
        """Nobody listens any more."""


class Arrivals:
    """The choices of a request that have their answers, as they come."""

    def __init__(self, talk: Talk) -> None:
        """From now on, in the loop that runs here."""
        self.loop = asyncio.get_running_loop()
        self.left = len(talk.futures)
        self._gone = False
        self._news: deque[tuple[int, Future[Reply]]] = deque()
        self._waits: asyncio.Future[None] | None = None
        for index, one in enumerate(talk.futures):
            one.add_done_callback(partial(self._arrives, index))

    async def next(self) -> tuple[int, Reply] | None:
        """The next one, and which; None: the client has left. Raises Refused where there is no answer."""
        while not self._news:
            if self._gone:
                return None
            self._waits = self.loop.create_future()
            await self._waits
        index, one = self._news.popleft()
        self.left -= 1
        return index, _settled(one)

    def leave(self, *_: object) -> None:
        """The client has left."""
        self._gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waits and not self._waits.done():
            self._waits.set_result(None)

    def _arrives(self, index: int, one: Future[Reply]) -> None:
        self._news.append((index, one))
        self._wake()


def _settled(one: Future[Reply]) -> Reply:
    """A reply with text. Raises Refused for any other."""
    error = one.exception()
    if error is not None:
        raise error if isinstance(error, Refused) else Refused(500, f"a bug in nemodeploy: {error!r}")
    wrong = refusal(one.result())
    if wrong:
        raise wrong
    return one.result()
