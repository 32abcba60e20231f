"""One HTTP request over a byte stream that is open already, such as a tunnel."""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import socket
from collections.abc import Iterator
from typing import Any, cast

from nemodeploy.values import HttpRequest

CAP_BYTES = 16 * 2**20
LINE_BYTES = 2**20
# An answer whose head says its length; one that comes in parts says none.
_PLAIN = re.compile(
    rb"HTTP/1\.[01] ([2-5]\d\d)[^\r\n]*\r\n(?:[^\r\n]+\r\n)*?content-length:[ \t]*(\d{1,7})[ \t]*\r\n", re.IGNORECASE
)


def exchange(stream: socket.socket, host: str, request: HttpRequest, *, timeout_s: float) -> tuple[int, str]:
    """Status and body, the body cut at 16 MiB. Raises TimeoutError, OSError or HTTPException; leaves the stream open.

    http.client's own connection closes its socket before the body of an HTTP/1.0 answer is read. A socket survives
    that while a file on it is open; an SSH channel does not, and the body is lost (paramiko 5.1, about 1 in 20 times).
    """
    _send(stream, host, request, timeout_s)
    return _read(_file(stream), request.method)


def lines(stream: socket.socket, host: str, request: HttpRequest, *, timeout_s: float) -> Iterator[tuple[int, str]]:
    """The same, line by line as they come: the status with each; a line is cut at 1 MiB."""
    _send(stream, host, request, timeout_s)
    with _begun(_file(stream), request.method) as response:
        while line := response.readline(LINE_BYTES):
            yield response.status, line.decode(errors="replace")


def written(host: str, request: HttpRequest) -> bytes:
    """A request as it is sent; the server closes the connection after its answer."""
    body = request.body.encode()
    head = (
        f"{request.method} {request.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def whole(data: bytearray) -> tuple[int, str] | None:
    """Status and body of an answer that says how long it is, once it is all there. None: there is more to come, or only
    its end tells."""
    end = data.find(b"\r\n\r\n")
    head = _PLAIN.match(data, 0, end + 2) if end > 0 else None
    if not head or len(data) - end - 4 < int(head[2]) or b"transfer-encoding" in data[:end].lower():
        return None
    return int(head[1]), data[end + 4 : end + 4 + int(head[2])].decode(errors="replace")


def parse(data: bytes, method: str) -> tuple[int, str]:
    """Status and body of an answer that has been read, the body cut at 16 MiB. Raises HTTPException or OSError where it
    is none, or not all of one."""
    return _read(io.BytesIO(data), method)


@contextlib.contextmanager
def _begun(file: io.BufferedIOBase, method: str) -> Iterator[http.client.HTTPResponse]:
    """An answer whose head has been read."""
    with contextlib.closing(http.client.HTTPResponse(cast(socket.socket, _Source(file)), method=method)) as response:
        response.begin()
        yield response


def _read(file: io.BufferedIOBase, method: str) -> tuple[int, str]:
    """Status and body, cut at 16 MiB. Raises IncompleteRead where it ended before as much had come as its head says."""
    with _begun(file, method) as response:
        data = response.read(CAP_BYTES)
        if response.length and len(data) < CAP_BYTES:
            raise http.client.IncompleteRead(data, response.length)
        return response.status, data.decode(errors="replace")


def _send(stream: socket.socket, host: str, request: HttpRequest, timeout_s: float) -> None:
    stream.settimeout(timeout_s)
    stream.sendall(written(host, request))


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

    def __init__(self, file: io.BufferedIOBase) -> None:
        self.file = file

    def makefile(self, *_: Any, **__: Any) -> Any:
        return self.file


def _file(stream: socket.socket) -> io.BufferedIOBase:
    return io.BufferedReader(_Bytes(stream))
