"""Between OpenAI's API and an engine that speaks another protocol: many requests in, few out."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from nemodeploy.adapters.http import exchange
from nemodeploy.app import asking
from nemodeploy.core.openai_answers import Answering
from nemodeploy.core.openai_requests import Abilities, Asked, Refused, read_request
from nemodeploy.errors import BadInput, NemodeployError
from nemodeploy.values import Reply, Sampling, Secret

if TYPE_CHECKING:
    from nemodeploy.adapters.asgi import HttpServer

WITHIN_S = 3600.0
AT_ONCE = 4  # connections to a server that answers several requests at the same time
LINGER_S = 0.005  # where several ask at the same time the next are on their way; an answer takes much longer
SPARE_S = 0.1  # a connection that says nothing holds up a server that serves one at a time
FRESH_S = 5.0  # after a longer answer a round trip is nothing, and a server may have lost its patience
MISSING = "pip install 'nemodeploy[gateway]', or --raw for the engine's own protocol"


@dataclass(eq=False, slots=True)
class Job:
    """One prompt that waits for its text; `dropped`: nobody wants it any more; `party`: who may be asked for in the
    same request, where a seed is to give the same text again."""

    prompt: str
    sampling: Sampling
    party: Asked | None = None
    dropped: bool = False
    future: Future[Reply] = field(default_factory=Future)


class Line:
    """Streams to a server, one for each request. The next is opened while the server is busy with this one, since to
    open it takes a round trip; it is closed when it is not wanted soon."""

    def __init__(self, dial: Callable[[], socket.socket], dial_ahead: Callable[[], socket.socket | None]) -> None:
        """`dial` raises NemodeployError; `dial_ahead` gives None where no stream can be had ahead."""
        self.dial, self.dial_ahead = dial, dial_ahead
        self._spare: tuple[socket.socket, float] | None = None
        self._used: socket.socket | None = None

    @property
    def has_spare(self) -> bool:
        """Whether a stream is open that nobody has asked anything."""
        return self._spare is not None

    def take(self) -> socket.socket:
        """A stream for a request, the one before being done with. Raises NemodeployError."""
        self.done()
        if self._spare and time.monotonic() - self._spare[1] >= FRESH_S:
            self.drop()
        stream, self._spare = self._spare[0] if self._spare else self.dial(), None
        self._used = stream
        return stream

    def prepare(self) -> None:
        """Have one ready for the next request."""
        stream = self.dial_ahead()
        self._spare = (stream, time.monotonic()) if stream else None

    def done(self) -> None:
        """The stream that was taken is not needed any more; whoever waits for an answer does not wait for this."""
        if self._used:
            _close(self._used)
            self._used = None

    def drop(self) -> None:
        """Nobody asks any more."""
        if self._spare:
            _close(self._spare[0])
            self._spare = None


class Backend:
    """The server behind, asked over streams that `dial` opens; one that answers one at a time gets several prompts in
    a request."""

    def __init__(
        self,
        plan: Mapping[str, Any],
        dial: Callable[[], socket.socket],
        *,
        dial_ahead: Callable[[], socket.socket | None] = lambda: None,
        within_s: float = WITHIN_S,
    ) -> None:
        """`dial` raises NemodeployError when there is no way to the server; `dial_ahead` gives None where no stream can
        be had before there is a request; `within_s`: how long an answer may take."""
        self.plan, self.dial, self.dial_ahead, self.within_s = plan, dial, dial_ahead, within_s
        self.engine, self.prompting = asking.engine_of(plan), asking.prompting_of(plan)
        self.served = asking.served_of(plan)
        serving = plan.get("serving") or {}
        self.most = 1 if self.engine.at_once else max(int(serving.get("max_batch", 1)), 1)
        context = int(serving.get("max_length", 4096))
        self.can = Abilities(
            model=self.served,
            prompting=self.prompting,
            context=context,
            longest_answer=self.engine.longest_answer(context),
            samples_by=self.engine.samples_by,
            engine=str(plan.get("engine")),
        )
        self._waiting: list[Job] = []
        self._news = threading.Condition()
        self._enough = 1  # who waits for more is not woken for each
        self._sent: dict[socket.socket, Sequence[Job]] = {}
        for _ in range(AT_ONCE if self.engine.at_once else 1):
            threading.Thread(target=self._work, daemon=True).start()

    def ask(self, asked: Asked) -> list[Job]:
        """Take up a request: a job for each choice, in order."""
        party = asked if asked.sampling.seed is not None else None
        jobs = [Job(prompt, asked.sampling, party) for prompt in asked.prompts for _ in range(asked.n)]
        with self._news:
            self._waiting += jobs
            if len(self._waiting) >= self._enough:
                self._news.notify_all()
        return jobs

    def drop(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for these any more; when that holds for all that were sent together, the connection is cut."""
        with self._news:
            for job in jobs:
                job.dropped = True
            self._waiting = [job for job in self._waiting if not job.dropped]
            for stream, sent in self._sent.items():
                if all(job.dropped for job in sent):
                    with contextlib.suppress(OSError, EOFError):
                        stream.shutdown(socket.SHUT_RDWR)

    def _work(self) -> None:
        """For ever: the oldest job, and with it whatever can be asked in the same request."""
        line, last = Line(self.dial, self.dial_ahead), 1
        while True:
            self._await(line, last)
            batch = self._take()
            last = len(batch)
            if batch:
                self._answer(batch, line)
                line.done()

    def _await(self, line: Line, last: int) -> None:
        """Until somebody waits; where several did the last time, a little longer, for as many to come again."""
        with self._news:
            if not self._waiting and line.has_spare:
                self._news.wait(SPARE_S)
            if not self._waiting:
                line.drop()
            while not self._waiting:
                self._news.wait()
            if len(self._waiting) < last:
                self._enough = last
                self._news.wait(LINGER_S)
                self._enough = 1

    def _take(self) -> Sequence[Job]:
        """Whom to ask for next; none, when they have all left."""
        with self._news:
            if not self._waiting:
                return ()
            first = self._waiting[0]
            batch = [job for job in self._waiting if job.sampling == first.sampling and job.party is first.party]
            taken = set(batch[: self.most])
            self._waiting = [job for job in self._waiting if job not in taken]
        return batch[: self.most]

    def _answer(self, batch: Sequence[Job], line: Line) -> None:
        """A request that fails for several is sent again for each, so that one's fault is not the others'."""
        try:
            replies = self._exchange(batch, line)
        except Exception as error:  # a thread has nobody above it; whoever waits for a job is told
            for job in batch:
                job.future.set_exception(error)
            return
        if len(batch) > 1 and any(reply.problem for reply in replies):
            for job in batch:
                self._answer([job], line)
            return
        for job, reply in zip(batch, replies, strict=True):
            job.future.set_result(reply)

    def _exchange(self, batch: Sequence[Job], line: Line) -> Sequence[Reply]:
        prompts = [job.prompt for job in batch]
        sampling = batch[0].sampling
        request = self.engine.asked(self.served, self.prompting, prompts, sampling)
        try:
            stream = line.take()
        except NemodeployError as error:
            raise Refused(503, f"the server cannot be reached: {error.message}", code="unavailable") from error
        with self._news:
            self._sent[stream] = batch
        try:
            if all(job.dropped for job in batch):
                raise Refused(499, "nobody waits for it any more")
            status, body = exchange(stream, "127.0.0.1", request, timeout_s=self.within_s, meanwhile=line.prepare)
        except TimeoutError as error:
            raise Refused(504, f"the server did not answer within {self.within_s:.0f} s", code="timeout") from error
        except (OSError, EOFError, HTTPException, ValueError) as error:
            raise Refused(502, f"the connection to the server broke: {error}", code="broken") from error
        finally:
            with self._news:
                del self._sent[stream]
        stop = (*self.prompting.stop, *sampling.stop)
        return self.engine.replies(status, body, served=self.served, prompts=prompts, stop=stop)


def _close(stream: socket.socket) -> None:
    with contextlib.suppress(OSError, EOFError):
        stream.close()


@dataclass(frozen=True, slots=True)
class Conversation:
    """A request under way, and who is asked."""

    answering: Answering
    jobs: Sequence[Job]
    backend: Backend

    @property
    def futures(self) -> list[Future[Reply]]:
        """One for each choice."""
        return [job.future for job in self.jobs]

    def drop(self) -> None:
        """Nobody listens any more."""
        left = [job for job in self.jobs if not job.future.done()]
        if left:
            self.backend.drop(left)


class Gateway:
    """The service behind OpenAI's API on this machine, for one deployment and whoever knows its key."""

    def __init__(self, backend: Backend, serves: Callable[[], bool], nonce: Callable[[], str], key: Secret) -> None:
        """`serves`: whether there is a server at this moment; `nonce`: a word that nobody had before."""
        self.backend, self.serves, self.key = backend, serves, key
        self.model = backend.can.model
        mine = nonce()
        self._ids = (f"{mine}{number:06x}" for number in itertools.count())

    def accept(self, kind: str, raw: bytes, created: int) -> Conversation:
        """Check and take up a request. Raises Refused."""
        asked = read_request(kind, raw, self.backend.can)
        answering = Answering(asked=asked, id=next(self._ids), created=created, model=self.model)
        return Conversation(answering, self.backend.ask(asked), self.backend)


def require() -> None:
    """Raises BadInput where the extra is not installed."""
    try:
        from nemodeploy.adapters import asgi  # noqa: F401
    except ModuleNotFoundError as error:
        raise BadInput(
            f"this engine needs nemodeploy's gateway, and {error.name} is not installed", hint=MISSING
        ) from None


def serve(gateway: Gateway, listener: socket.socket) -> HttpServer:
    """What answers on a socket that listens, once it is started."""
    from nemodeploy.adapters.asgi import HttpServer

    return HttpServer(listener, gateway)
