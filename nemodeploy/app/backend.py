"""A server that speaks its engine's own protocol, and those who wait for its answers: many prompts, few requests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from http.client import HTTPException
from typing import Any

from nemodeploy.adapters import http
from nemodeploy.adapters.loops import Answer, Hand, Loop, send
from nemodeploy.app import asking
from nemodeploy.core.openai_requests import LEFT, Abilities, Asked, Refused
from nemodeploy.engines.base import Question
from nemodeploy.errors import NemodeployError
from nemodeploy.values import Reply, Sampling

WITHIN_S = 3600.0
# Connections to a server that answers several requests at the same time, as far as it wants so many. Where the login
# host forwards nothing each is a session, of which sshd allows ten.
AT_ONCE = 8
LINGER_S, LINGER_SHARE = 0.005, 0.2  # at most so long, and at most so much of what the last answer took
AT_A_TIME_BYTES = 16384  # as much goes into a new connection without waiting


@dataclass(eq=False, slots=True)
class Job:
    """One prompt that waits for its text; `dropped`: nobody wants it any more; `party`: who may be asked for in the
    same request, where a seed is to give the same text again."""

    prompt: str
    sampling: Sampling
    party: Asked | None = None
    dropped: bool = False
    future: Future[Reply] = field(default_factory=Future)


class Backend:
    """The server behind, asked over streams that `dial` opens; one that answers one at a time gets several prompts in
    a request. Any thread may ask; the work is done in a loop."""

    def __init__(
        self, plan: Mapping[str, Any], dial: Callable[[], socket.socket], *, within_s: float = WITHIN_S
    ) -> None:
        """`dial` raises NemodeployError when there is no way to the server; `within_s`: how long an answer may take."""
        self.plan, self.dial, self.within_s = plan, dial, within_s
        self.engine, self.prompting = asking.engine_of(plan), asking.prompting_of(plan)
        self.served = asking.served_of(plan)
        serving = plan.get("serving") or {}
        batch = max(int(serving.get("max_batch", 1)), 1)
        self.most = 1 if self.engine.at_once else batch
        context = int(serving.get("max_length", 4096))
        self.can = Abilities(
            model=self.served,
            prompting=self.prompting,
            context=context,
            longest_answer=self.engine.longest_answer(context),
            samples_by=self.engine.samples_by,
            engine=str(plan.get("engine")),
        )
        self.loop = Loop()
        self._waiting: list[Job] = []
        self._sleeping: dict[asyncio.Future[None], int] = {}  # and how many have to wait before it is woken
        self._cuts: dict[Callable[[], object], Sequence[Job]] = {}  # what is under way, by what ends it
        self._refuses = False
        connections = min(batch, AT_ONCE) if self.engine.at_once else 1
        self._workers = [self.loop.start(self._work()) for _ in range(connections)]

    def ask(self, asked: Asked) -> list[Job]:
        """Take up a request: a job for each choice, in order. Their futures are settled in the loop. Raises Refused
        when it is closed."""
        party = asked if asked.sampling.seed is not None else None
        alike = self.most if self.engine.shares_seed else 1
        samplings = [_nth(asked.sampling, index // alike) for index in range(asked.n)]
        jobs = [Job(prompt, sampling, party) for prompt in asked.prompts for sampling in samplings]
        try:
            self.loop.call(self._take_up, jobs)
        except RuntimeError:  # its loop is no more
            raise _closed() from None
        return jobs

    def drop(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for these any more; when that holds for all that were sent together, the connection is cut."""
        with contextlib.suppress(RuntimeError):
            self.loop.call(self._drop, jobs)

    def refuse(self) -> None:
        """In the loop: who waits and who comes is refused from now on."""
        self._refuses = True
        for worker in self._workers:
            worker.cancel()
        waiting, self._waiting = self._waiting, []
        _settle(waiting)

    def close(self) -> None:
        """Ask no more; who still waits is refused. Waits for nothing."""
        with contextlib.suppress(RuntimeError):
            self.loop.call(self.refuse)
        self.loop.close()

    def _take_up(self, jobs: Sequence[Job]) -> None:
        if self._refuses:
            _settle(jobs)
            return
        self._waiting += jobs
        for sleeper, enough in self._sleeping.items():
            if len(self._waiting) >= enough and not sleeper.done():
                sleeper.set_result(None)

    def _drop(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.dropped = True
        self._waiting = [job for job in self._waiting if not job.dropped]
        for cut, sent in tuple(self._cuts.items()):
            if all(job.dropped for job in sent):
                with contextlib.suppress(Exception):
                    cut()

    async def _work(self) -> None:
        """Until it is cancelled: whatever comes, by a hand of its own."""
        hand = Hand(self.loop.asyncio)
        try:
            await self._serve(hand)
        finally:
            hand.end()

    async def _serve(self, hand: Hand) -> None:
        """For ever: the oldest job, and with it whatever can be asked in the same request."""
        last, took_s = 1, 0.0
        while True:
            while not self._waiting:
                await self._until(1)
            if len(self._waiting) < last:  # where several ask at the same time as many are going to come again
                await self._until(last, min(LINGER_S, LINGER_SHARE * took_s))
            batch, begun = self._take(), time.monotonic()
            last = len(batch)
            try:
                if batch:
                    await self._answer(batch, hand)
            except asyncio.CancelledError:
                _settle(batch)
                raise
            took_s = time.monotonic() - begun

    async def _until(self, enough: int, within_s: float | None = None) -> None:
        """So many wait, or the time is over."""
        loop = self.loop.asyncio
        sleeper: asyncio.Future[None] = loop.create_future()
        self._sleeping[sleeper] = enough
        late = loop.call_later(within_s, _wake, sleeper) if within_s is not None else None
        await sleeper
        del self._sleeping[sleeper]
        if late:
            late.cancel()

    def _take(self) -> Sequence[Job]:
        """Whom to ask for next; none, when they have all left."""
        if not self._waiting:
            return ()
        first = self._waiting[0]
        batch = [job for job in self._waiting if job.sampling == first.sampling and job.party is first.party]
        taken = set(batch[: self.most])
        self._waiting = [job for job in self._waiting if job not in taken]
        return batch[: self.most]

    async def _answer(self, batch: Sequence[Job], hand: Hand) -> None:
        """A request that fails for several is sent again for each, so that one's fault is not the others'."""
        with contextlib.ExitStack() as afterwards:
            try:
                replies = await self._exchange(batch, hand, afterwards)
                alone = len(batch) > 1 and any(reply.problem for reply in replies)
            except Exception as error:  # the loop has nobody above it; whoever waits for a job is told
                alone = len(batch) > 1 and not isinstance(error, Refused)
                for job in batch if not alone else ():
                    job.future.set_exception(error)
            else:
                for job, reply in zip(batch, replies, strict=True) if not alone else ():
                    job.future.set_result(reply)
            await asyncio.sleep(0)  # first those who waited for it
        for job in batch if alone else ():
            await self._answer([job], hand)

    async def _exchange(self, batch: Sequence[Job], hand: Hand, afterwards: contextlib.ExitStack) -> Sequence[Reply]:
        """One request. `afterwards`: what is to be done when its answer has been passed on."""
        prompts, sampling = [job.prompt for job in batch], batch[0].sampling
        request = self.engine.asked(self.served, self.prompting, prompts, sampling)
        dialing = hand.do(self.dial, unwanted=_close)
        afterwards.callback(_hang_up, dialing)
        try:
            stream = await dialing
        except NemodeployError as error:
            raise Refused(503, f"the server cannot be reached: {error.message}", code="unavailable") from error
        if all(job.dropped for job in batch):
            raise Refused(LEFT, "nobody waits for it any more")
        try:
            await self._send(stream, http.written("127.0.0.1", request), batch, hand)
            answer = Answer(self.loop.asyncio, stream, request.method, timeout_s=self.within_s)
            with self._cut_by(answer.give_up, batch):
                status, body = await answer.read()
        except TimeoutError as error:
            raise Refused(504, f"the server did not answer within {self.within_s:.0f} s", code="timeout") from error
        except (OSError, EOFError, HTTPException, ValueError) as error:
            raise Refused(502, f"the connection to the server broke: {error}", code="broken") from error
        stop = (*self.prompting.stop, *sampling.stop)
        question = Question(served=self.served, prompts=prompts, stop=stop, most=sampling.max_tokens)
        return self.engine.replies(status, body, question)

    async def _send(self, stream: socket.socket, request: bytes, batch: Sequence[Job], hand: Hand) -> None:
        """What is long may have to wait until the way is free."""
        if len(request) <= AT_A_TIME_BYTES:
            send(stream, request)
            return
        stream.settimeout(self.within_s)
        with self._cut_by(partial(stream.shutdown, socket.SHUT_RDWR), batch):
            await hand.do(partial(send, stream, request))

    @contextlib.contextmanager
    def _cut_by(self, cut: Callable[[], object], batch: Sequence[Job]) -> Iterator[None]:
        """What is awaited in the block is ended so when nobody waits for any of it."""
        self._cuts[cut] = batch
        try:
            yield
        finally:
            del self._cuts[cut]


def _nth(sampling: Sampling, index: int) -> Sampling:
    """Of several requests for the same prompt each has its own seed, or they would have the same answer."""
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + index)


def _closed() -> Refused:
    return Refused(503, "the way to the server is closed", code="unavailable")


def _settle(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(_closed())


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


def _hang_up(dialing: asyncio.Future[socket.socket]) -> None:
    if dialing.done() and not dialing.cancelled() and not dialing.exception():
        _close(dialing.result())


def _close(stream: socket.socket) -> None:
    with contextlib.suppress(Exception):  # also what only SSH knows; there is nobody to tell
        stream.close()
