"""One HTTP request over a byte stream that is open already, such as a tunnel."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

from nemodeploy.values import HttpRequest

CAP_BYTES = 16 * 2**20
LINE_BYTES = 2**20


def exchange(
    stream: socket.socket,
    host: str,
    request: HttpRequest,
    *,
    timeout_s: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[int, str]:
    """Status and body, the body cut at 16 MiB. Raises TimeoutError, OSError or HTTPException; leaves the stream open.
    `meanwhile` is done while the server is at it.

    http.client's own connection closes its socket before the body of an HTTP/1.0 answer is read. A socket survives
    that while a file on it is open; an SSH channel does not, and the body is lost (paramiko 5.1, about 1 in 20 times).
    """
    _send(stream, host, request, timeout_s)
    meanwhile()
    with contextlib.closing(
        http.client.HTTPResponse(cast(socket.socket, _Source(stream)), method=request.method)
    ) as response:
        response.begin()
        return response.status, response.read(CAP_BYTES).decode(errors="replace")


def lines(stream: socket.socket, host: str, request: HttpRequest, *, timeout_s: float) -> Iterator[tuple[int, str]]:
    """The same, line by line as they come: the status with each; a line is cut at 1 MiB."""
    _send(stream, host, request, timeout_s)
    with contextlib.closing(
        http.client.HTTPResponse(cast(socket.socket, _Source(stream)), method=request.method)
    ) as response:
        response.begin()
        while line := response.readline(LINE_BYTES):
            yield response.status, line.decode(errors="replace")


def _send(stream: socket.socket, host: str, request: HttpRequest, timeout_s: float) -> None:
    body = request.body.encode()
    head = (
        f"{request.method} {request.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    stream.settimeout(timeout_s)
    stream.sendall(head.encode() + body)


class _Bytes(io.RawIOBase):
    """What comes over a socket or an SSH channel; the latter's own file cannot look ahead, as chunks need it."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Source:
    """What http.client reads an answer from."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream

    def makefile(self, *_: Any, **__: Any) -> Any:
        return io.BufferedReader(_Bytes(self.stream))
