"""An asyncio loop in a thread of its own, what blocks beside it, and an HTTP answer that is read in it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from http.client import HTTPException
from typing import Any, TypeVar, cast

from nemodeploy.adapters import http

Made = TypeVar("Made")
_Task = tuple[Callable[[], Any], "asyncio.Future[Any]", Callable[[Any], object]]
CHUNK_BYTES = 65536
MOST_BYTES = http.CAP_BYTES + CHUNK_BYTES  # with a head


class Loop:
    """Runs until it is closed, or the process ends."""

    def __init__(self) -> None:
        """It runs from now on."""
        self.asyncio = asyncio.new_event_loop()
        self.asyncio.set_exception_handler(_complain)
        self._ends, self._ending = False, threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def call(self, what: Callable[..., object], *words: object) -> None:
        """From any thread: have it done in the loop; at once where that is here. Raises RuntimeError when it is closed;
        what is accepted is done."""
        if threading.get_ident() == self._thread.ident:
            what(*words)
        else:
            with self._ending:
                if self._ends:
                    raise RuntimeError("the loop is closed")
                self.asyncio.call_soon_threadsafe(partial(what, *words))

    def start(self, what: Coroutine[Any, Any, None]) -> Future[None]:
        """From any thread: run it beside all else; what comes back cancels it."""
        return asyncio.run_coroutine_threadsafe(what, self.asyncio)

    def close(self) -> None:
        """From any thread: cancel what still runs in it, and end. Waits for nothing."""
        with contextlib.suppress(RuntimeError):  # it is closed
            self.asyncio.call_soon_threadsafe(self.asyncio.stop)

    def _run(self) -> None:
        self.asyncio.run_forever()
        with self._ending:
            self._ends = True
        self.asyncio.run_until_complete(_cancel_all())
        self.asyncio.close()


async def _cancel_all() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """At the end of the process nobody has to hear that something was still waiting."""
    if "was destroyed" not in context["message"]:
        loop.default_exception_handler(context)


class Hand:
    """A thread beside a loop for what blocks, one thing after the other; it ends when it is told to, and with the
    process, whatever it does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Its results are heard in this loop."""
        self.loop = loop
        self._work: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def do(
        self, what: Callable[[], Made], *, unwanted: Callable[[Made], object] = lambda _: None
    ) -> asyncio.Future[Made]:
        """In the loop: what comes of it, or what it raises; what nobody waits for any more is given to `unwanted`."""
        result: asyncio.Future[Made] = self.loop.create_future()
        self._work.put((what, result, unwanted))
        return result

    def end(self) -> None:
        """After what it does now and was given already."""
        self._work.put(None)

    def _run(self) -> None:
        while work := self._work.get():
            what, result, unwanted = work
            try:
                made = what()
            except Exception as error:  # it is the asker's
                with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                    self.loop.call_soon_threadsafe(_fail, result, error)
                continue
            try:
                self.loop.call_soon_threadsafe(_give, result, made, unwanted)
            except RuntimeError:
                unwanted(made)


def _give(result: asyncio.Future[Any], made: Any, unwanted: Callable[[Any], object]) -> None:
    if result.cancelled():
        unwanted(made)
    else:
        result.set_result(made)


def _fail(result: asyncio.Future[Any], error: Exception) -> None:
    if not result.cancelled():
        result.set_exception(error)


class Answer:
    """What comes over a stream after a request, read in a loop as it comes."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, stream: socket.socket, method: str, *, timeout_s: float
    ) -> None:
        """Reading begins; `method` is the request's."""
        self.loop, self.stream, self.method = loop, stream, method
        self._data = bytearray()
        self._whole: asyncio.Future[tuple[int, str]] = loop.create_future()
        self._file = stream.fileno()
        loop.add_reader(self._file, self._ready)
        self._late = loop.call_later(timeout_s, self._fail, TimeoutError())

    async def read(self) -> tuple[int, str]:
        """Status and body, the body cut at 16 MiB. Raises TimeoutError, OSError, EOFError or HTTPException."""
        return await self._whole

    def give_up(self) -> None:
        """Nobody waits for it any more: `read` raises OSError."""
        self._fail(ConnectionAbortedError("given up"))

    def _ready(self) -> None:
        """Whatever goes wrong ends it: nobody else takes away what is there to be read."""
        try:
            chunk = _received(self.stream)
            if chunk is None:
                return
            self._data += chunk
            whole = http.whole(self._data)
            if whole is None and chunk and len(self._data) <= MOST_BYTES:
                return
            self._succeed(whole or http.parse(bytes(self._data), self.method))
        except Exception as error:
            self._fail(_known(error))

    def _succeed(self, answer: tuple[int, str]) -> None:
        self._end()
        self._whole.set_result(answer)

    def _fail(self, error: Exception) -> None:
        if not self._whole.done():
            self._end()
            self._whole.set_exception(error)

    def _end(self) -> None:
        self.loop.remove_reader(self._file)
        self._late.cancel()


def send(stream: socket.socket, data: bytes) -> None:
    """All of it. Raises OSError or EOFError."""
    try:
        stream.sendall(data)
    except Exception as error:
        raise _known(error) from error


def _known(error: Exception) -> Exception:
    """What SSH alone calls by another name is a broken connection, too."""
    return error if isinstance(error, (OSError, EOFError, HTTPException)) else OSError(str(error))


def _received(stream: socket.socket) -> bytes | None:
    """From a stream that can be read; None: that was nothing of ours. A channel of SSH can be read, too, when something
    is on its second stream, where a login may have left noise."""
    if hasattr(stream, "recv_stderr_ready"):
        channel = cast(Any, stream)
        while channel.recv_stderr_ready():
            channel.recv_stderr(CHUNK_BYTES)
        if not (channel.recv_ready() or channel.eof_received or channel.closed):
            return None
    return stream.recv(CHUNK_BYTES)
