"""One HTTP request over a byte stream that is open already, such as a tunnel."""

from __future__ import annotations

import http.client
import socket

from nemodeploy.values import HttpRequest

CAP_BYTES = 16 * 2**20


def exchange(stream: socket.socket, host: str, request: HttpRequest, *, timeout_s: float) -> tuple[int, str]:
    """Status and body, the body cut at 16 MiB. Raises TimeoutError, OSError or HTTPException; leaves the stream open.

    http.client's own connection closes its socket before the body of an HTTP/1.0 answer is read. A socket survives
    that while a file on it is open; an SSH channel does not, and the body is lost (paramiko 5.1, about 1 in 20 times).
    """
    body = request.body.encode()
    head = (
        f"{request.method} {request.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    stream.settimeout(timeout_s)
    stream.sendall(head.encode() + body)
    response = http.client.HTTPResponse(stream, method=request.method)
    response.begin()
    return response.status, response.read(CAP_BYTES).decode(errors="replace")
