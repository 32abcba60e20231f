"""OpenAI's API over HTTP on this machine's loopback: bytes, connections and the key. The extra `gateway`.

What is asked and answered is the service's; here is who may ask, how much, and what happens when somebody leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from nemodeploy.adapters.arrivals import Arrivals, Talk
from nemodeploy.adapters.loops import Loop
from nemodeploy.core.door import keyless, stranger
from nemodeploy.core.openai_answers import DONE, describe, model_card
from nemodeploy.core.openai_requests import LEFT, PATHS, Refused
from nemodeploy.values import Reply, Secret
from nemodeploy.version import __version__

MOST_BYTES = 8 * 2**20
SIGN_OF_LIFE_S = 15.0
LISTEN_AFTER_S = 0.1  # a task that hears whether a client leaves costs as much as many an answer
LAST_WORDS_S = 1.0

Endpoint = Callable[[Request], Awaitable[Response]]


class Service(Protocol):
    """What stands behind the API."""

    @property
    def loop(self) -> Loop:
        """Where it works, and where it is served."""

    @property
    def key(self) -> Secret:
        """What a client has to know."""

    @property
    def model(self) -> str:
        """The only one there is."""

    def serves(self) -> bool:
        """Whether there is a server at this moment."""

    def accept(self, kind: str, raw: bytes, created: int) -> Talk:
        """Take up a request's body, which came so many seconds after the Epoch. Raises Refused."""

    def refuse(self) -> None:
        """In its loop: whoever waits is told that nothing comes any more."""

    def close(self) -> None:
        """Nobody asks any more: its loop ends."""


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """That a client does not hear the end before everything ends is nobody's bug."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


logging.getLogger("uvicorn.error").addFilter(_is_worth_telling)


class HttpServer:
    """Serves in its service's loop, on a socket that listens already."""

    def __init__(self, listener: socket.socket, service: Service) -> None:
        """Nothing is answered before `start`."""
        self.listener, self.service = listener, service
        settings = uvicorn.Config(
            application(service),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,  # nobody stands before it
        )
        self.server = uvicorn.Server(settings)

    def start(self) -> None:
        """Serve from now on."""
        self.service.loop.start(self._serve())

    async def _serve(self) -> None:
        try:
            await self.server.serve([self.listener])
        finally:
            self.service.refuse()
            left = self.server.server_state.tasks
            if left:
                await asyncio.wait(left, timeout=LAST_WORDS_S)
            self.service.close()

    def close(self) -> None:
        """Take no more connections, and close the service; waits for nothing."""
        self.server.should_exit = self.server.force_exit = True


def application(service: Service) -> ASGIApp:
    """The routes. What generates goes past Starlette's own layers, which are for what these routes do not do."""
    api = _Api(service)
    generating = {path: api.guarded(api.generation(kind)) for kind, path in PATHS.items()}
    routes = [
        *(Route(path, endpoint, methods=["POST"]) for path, endpoint in generating.items()),
        Route("/health", api.health, methods=["GET"]),
        Route("/openapi.json", api.document, methods=["GET"]),
        Route("/v1/models", api.guarded(api.listing), methods=["GET"]),
        Route("/v1/models/{name:path}", api.guarded(api.one), methods=["GET"]),
    ]
    others = Starlette(routes=routes, exception_handlers={HTTPException: _no_route})

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        refused = stranger(scope["headers"])
        endpoint = generating.get(scope.get("path", "")) if scope.get("method") == "POST" else None
        await (_refuse(refused) if refused else endpoint or others)(scope, receive, send)

    return dispatch


class _Api:
    """One method a route."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def guarded(self, answer: Endpoint) -> ASGIApp:
        """For those who know the key; what is refused is said in OpenAI's form."""
        return _Guarded(self.service.key, answer)

    async def health(self, _: Request) -> Response:
        if self.service.serves():
            return _json({"status": "ok"})
        return _refuse(Refused(503, "the server is not serving", code="unavailable"))

    async def document(self, _: Request) -> Response:
        return _json(describe(__version__))

    async def listing(self, _: Request) -> Response:
        return _json({"object": "list", "data": [model_card(self.service.model)]})

    async def one(self, request: Request) -> Response:
        if request.path_params["name"] != self.service.model:
            raise Refused(404, f"there is no such model; it is {self.service.model}", "model", "model_not_found")
        return _json(model_card(self.service.model))

    def generation(self, kind: str) -> Endpoint:
        """Chat or text, whole or in pieces."""

        async def answer(request: Request) -> Response:
            talk = self.service.accept(kind, await _body(request), int(time.time()))
            arrivals = Arrivals(talk)
            if talk.answering.asked.stream:
                return await _stream(request, talk, arrivals)
            return await _whole(request, talk, arrivals)

        return answer


class _Guarded:
    """An application of its own, so that Starlette wraps it in nothing that it does not need."""

    def __init__(self, key: Secret, answer: Endpoint) -> None:
        self.key, self.answer = key, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        refused = keyless(scope["headers"], self.key)
        try:
            response = _refuse(refused) if refused else await self.answer(request)
        except Refused as error:
            response = _refuse(error)
        except ClientDisconnect:
            response = Response(status_code=LEFT)
        await response(scope, receive, send)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refuse(Refused(error.status_code, f"{error.detail}: {request.method} {request.url.path}"))


async def _body(request: Request) -> bytes:
    found = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        found += message.get("body", b"")
        if len(found) > MOST_BYTES:
            raise Refused(413, f"the body is larger than {MOST_BYTES // 2**20} MiB")
        if not message.get("more_body"):
            return bytes(found)


def _refuse(error: Refused) -> Response:
    return _json(error.document(), status=error.status, headers=error.headers())


def _json(document: Mapping[str, object], *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """In ASCII: a text may hold what UTF-8 cannot say."""
    return Response(json.dumps(document), status_code=status, headers=headers, media_type="application/json")


async def _whole(request: Request, talk: Talk, arrivals: Arrivals) -> Response:
    """The answer when it is there; when the client leaves before, nobody waits for it."""
    replies: dict[int, Reply] = {}
    try:
        with _listening(request, arrivals):
            while arrivals.left:
                arrival = await arrivals.next()
                if arrival is None:
                    return Response(status_code=LEFT)
                replies[arrival[0]] = arrival[1]
        return _json(talk.answering.whole([replies[index] for index in sorted(replies)]))
    finally:
        talk.drop()


async def _stream(request: Request, talk: Talk, arrivals: Arrivals) -> Response:
    """Its head goes out with the first choice, so that a fault which is known by then has its own status; or with the
    first sign of life."""
    first: tuple[int, Reply] | None = None
    try:
        with _listening(request, arrivals), contextlib.suppress(asyncio.TimeoutError):
            first = await asyncio.wait_for(arrivals.next(), SIGN_OF_LIFE_S)
            if first is None:
                raise ClientDisconnect
    except BaseException:
        talk.drop()
        raise
    return StreamingResponse(_events(talk, arrivals, first), media_type="text/event-stream")


@contextlib.contextmanager
def _listening(request: Request, arrivals: Arrivals) -> Iterator[None]:
    """Whether the client leaves meanwhile is heard."""
    listening: list[asyncio.Task[None]] = []

    def listen() -> None:
        listening.append(asyncio.ensure_future(_left(request)))
        listening[0].add_done_callback(arrivals.leave)

    later = arrivals.loop.call_later(LISTEN_AFTER_S, listen)
    try:
        yield
    finally:
        later.cancel()
        for one in listening:
            one.remove_done_callback(arrivals.leave)
            one.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(talk: Talk, arrivals: Arrivals, first: tuple[int, Reply] | None) -> AsyncIterator[str]:
    """Server-sent events: each choice as soon as it is there, `first` the first of them if it is; an error is one,
    too, and then the stream ends."""
    answering = talk.answering
    try:
        for piece in answering.opening():
            yield _event(piece)
        replies: dict[int, Reply] = {}
        arrival = first
        while arrival or arrivals.left:
            if arrival:
                replies[arrival[0]] = arrival[1]
                for piece in answering.pieces(*arrival):
                    yield _event(piece)
            else:
                yield ": it is being worked on\n\n"
            arrival = None
            if arrivals.left:
                with contextlib.suppress(asyncio.TimeoutError):
                    arrival = await asyncio.wait_for(arrivals.next(), SIGN_OF_LIFE_S)
        if answering.asked.include_usage:
            for piece in answering.closing([replies[index] for index in sorted(replies)]):
                yield _event(piece)
        yield f"data: {DONE}\n\n"
    except Refused as error:
        yield _event(error.document())
    finally:
        with contextlib.suppress(Exception):
            talk.drop()


def _event(document: Mapping[str, object]) -> str:
    return f"data: {json.dumps(document)}\n\n"
