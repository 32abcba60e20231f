"""A port of this machine's loopback before a server that speaks HTTP: every request is checked, then passed on.

Requests and answers go through piece by piece as they come. Each client's connection has a thread that reads what the
client says, and each answer one that reads what the server says.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable

import h11

from nemodeploy.adapters.loops import send
from nemodeploy.core.door import refusal
from nemodeploy.core.openai_requests import Refused
from nemodeploy.errors import NemodeployError
from nemodeploy.values import Secret

CHUNK_BYTES = 65536
HEAD_BYTES = 65536
PAUSE_S = 0.1
LINGER_S = 5.0
# What concerns one connection and not the one behind it; h11 says how long the body is there. Source: RFC 9110, 7.6.1.
HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
KEPT = frozenset({b"host", b"content-length"})  # also where Connection names them
CHUNKED = (b"Transfer-Encoding", b"chunked")
CLOSE = (b"Connection", b"close")

Dial = Callable[[], socket.socket]
Event = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]
Lines = list[tuple[bytes, bytes]]


class Proxy:
    """Serves clients that connect to a listening socket and know the key, once `start` was called."""

    def __init__(self, listener: socket.socket, dial: Dial, key: Secret) -> None:
        """`dial` opens a stream to the server, or raises NemodeployError."""
        self.listener, self.dial, self.key = listener, dial, key
        self._closed = False

    def start(self) -> None:
        """Serve from now on, in threads that end with the process."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that stand go on until one of their ends closes them."""
        self._closed = True
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self.listener.accept()
            except OSError:  # such as more connections than this process may have files
                time.sleep(PAUSE_S)
                continue
            threading.Thread(target=_Visit(near, self.dial, self.key).serve, daemon=True).start()


class _End:
    """A socket or an SSH channel, and the state of HTTP on it. One thread at a time reads, and one writes."""

    def __init__(self, stream: socket.socket, role: type[h11.CLIENT] | type[h11.SERVER]) -> None:
        """`role`: what this process is there."""
        self.stream, self.http = stream, h11.Connection(role, max_incomplete_event_size=HEAD_BYTES)
        self._state = threading.Lock()
        stream.settimeout(None)
        with contextlib.suppress(OSError, AttributeError):  # a channel has no such option
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self) -> Event:
        """The next event. Raises OSError, EOFError, or RemoteProtocolError when it is not HTTP or not whole."""
        while True:
            with self._state:
                event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            data = self.stream.recv(CHUNK_BYTES)
            with self._state:
                self.http.receive_data(data)

    def write(self, *events: h11.Event) -> None:
        """Send these at once. Raises OSError, EOFError, or LocalProtocolError when they do not fit the state."""
        with self._state:
            data = b"".join(self.http.send(event) or b"" for event in events)
        if data:
            send(self.stream, data)

    def is_free(self) -> bool:
        """Whether it can carry another request: the last is over, and the server has not closed the stream since."""
        if (self.http.our_state, self.http.their_state) != (h11.DONE, h11.DONE):
            return False
        poll = select.poll()
        poll.register(self.stream.fileno(), select.POLLIN)
        return not poll.poll(0)

    def finish(self) -> None:
        """Nothing more is sent."""
        self._shut(socket.SHUT_WR)

    def cut(self) -> None:
        """Wake the threads that read or write here, with an end. A socket keeps its number until `close`."""
        self._shut(socket.SHUT_RDWR)
        if not isinstance(self.stream, socket.socket):
            self.close()  # nothing else wakes who reads from a channel

    def close(self) -> None:
        """Give it back; no thread may use it then."""
        with contextlib.suppress(Exception):  # an SSH channel may fail with errors of its own
            self.stream.close()

    def _shut(self, how: int) -> None:
        with contextlib.suppress(Exception):
            self.stream.shutdown(how)


class _Visit:
    """One client's connection, from its first request to its end."""

    def __init__(self, near: socket.socket, dial: Dial, key: Secret) -> None:
        self.near, self.dial, self.key = _End(near, h11.SERVER), dial, key
        self.far: _End | None = None
        self.answering: threading.Thread | None = None
        self.method = b""
        self.fault: Refused | None = None

    def serve(self) -> None:
        """Take what the client says until it leaves or is refused."""
        try:
            try:
                while self._take(self.near.read()):
                    pass
            except h11.RemoteProtocolError as error:
                self._misread(error)
            self._drain()
        except (OSError, EOFError):
            pass
        finally:
            self._leave()

    def _take(self, event: Event) -> bool:
        """False: nothing that this client says counts from now on."""
        if isinstance(event, h11.Request):
            return self._request(event)
        if event is h11.PAUSED:  # the next request came before the answer to this one has ended
            return self._next()
        if isinstance(event, (h11.Data, h11.EndOfMessage)):
            self._upload(event)
        return not isinstance(event, h11.ConnectionClosed)

    def _request(self, request: h11.Request) -> bool:
        self.method = request.method
        refused = refusal(request.headers, self.key) or _unsupported(request)
        if refused:
            return self._refuse(refused)
        try:
            far = self._reach()
        except NemodeployError as error:
            return self._refuse(Refused(503, f"the server cannot be reached: {error.message}", code="unavailable"))
        with contextlib.suppress(OSError, EOFError):  # who reads the answer meets the same end, and tells the client
            far.write(_onwards(request))
        self.answering = threading.Thread(target=self._answer, args=(far,), daemon=True)
        self.answering.start()
        return True

    def _reach(self) -> _End:
        """The stream of the last request where it can carry another, else a new one. Raises NemodeployError."""
        if self.far and self.far.is_free():
            self.far.http.start_next_cycle()
            return self.far
        if self.far:
            self.far.close()
            self.far = None
        self.far = _End(self.dial(), h11.CLIENT)
        return self.far

    def _upload(self, event: h11.Data | h11.EndOfMessage) -> None:
        assert self.far
        with contextlib.suppress(OSError, EOFError):  # a server may answer and close before it has read everything
            self.far.write(event if isinstance(event, h11.Data) else h11.EndOfMessage())

    def _next(self) -> bool:
        if self.answering:
            self.answering.join()
        if (self.near.http.our_state, self.near.http.their_state) != (h11.DONE, h11.DONE):
            return False
        self.near.http.start_next_cycle()
        return True

    def _answer(self, far: _End) -> None:
        """In a thread of its own: pass on what the server answers."""
        try:
            while not isinstance(event := far.read(), h11.EndOfMessage):
                self._pass_on(event)
            self.near.write(h11.EndOfMessage())
        except (OSError, EOFError, h11.ProtocolError) as error:
            far.cut()
            if self.fault:  # the client's own, and it is told that
                return
            self._refuse(Refused(502, f"the connection to the server broke: {error}", code="broken"))
        if far.http.their_state is not h11.DONE:  # it takes no other request
            far.cut()
        if self.near.http.our_state is not h11.DONE:
            self.near.finish()

    def _pass_on(self, event: Event) -> None:
        if isinstance(event, h11.Response):
            # A client that was not told to go on may send the body or not: what follows could not be told apart.
            closing = [CLOSE] if self.near.http.they_are_waiting_for_100_continue else []
            headers = [*_passed(event), *closing]
            self.near.write(h11.Response(status_code=event.status_code, headers=headers, reason=event.reason))
        elif isinstance(event, h11.Data):
            self.near.write(event)
        elif isinstance(event, h11.InformationalResponse) and self.near.http.their_http_version != b"1.0":
            headers = _passed(event)
            self.near.write(
                h11.InformationalResponse(status_code=event.status_code, headers=headers, reason=event.reason)
            )

    def _refuse(self, refused: Refused) -> bool:
        """Say why, unless an answer was begun: that breaks off. The connection ends. Returns False."""
        if self.near.http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._say(refused)
        self.near.finish()
        return False

    def _say(self, refused: Refused) -> None:
        body = json.dumps(refused.document()).encode()
        said = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refused.headers()}
        headers = [*((name.encode(), value.encode()) for name, value in said.items()), CLOSE]
        content = [] if self.method == b"HEAD" else [h11.Data(data=body)]
        with contextlib.suppress(OSError):
            self.near.write(h11.Response(status_code=refused.status, headers=headers), *content, h11.EndOfMessage())

    def _misread(self, error: h11.RemoteProtocolError) -> None:
        """What the client sent is not HTTP: the server hears no more of it, and the client is told."""
        self.fault = Refused(error.error_status_hint, f"this port speaks HTTP/1.1: {error}", code="bad_request")
        if self.far:
            self.far.cut()
        if self.answering:
            self.answering.join()
        self._refuse(self.fault)

    def _drain(self) -> None:
        """Read what still comes: a connection that is closed before is reset, and its last answer may be lost."""
        self.near.stream.settimeout(LINGER_S)
        while self.near.stream.recv(CHUNK_BYTES):
            pass

    def _leave(self) -> None:
        """The server is told by the end of its stream that no client wants the answer."""
        ends = [end for end in (self.far, self.near) if end]
        for end in ends:
            end.cut()
        if self.answering:
            self.answering.join()
        for end in ends:
            end.close()


def _unsupported(request: h11.Request) -> Refused | None:
    upgrades = any(name == b"upgrade" and b"websocket" in value.lower() for name, value in request.headers)
    if upgrades or request.method == b"CONNECT":
        return Refused(501, "this port passes on plain HTTP requests, no WebSockets and no CONNECT", code="unsupported")
    return None


def _onwards(request: h11.Request) -> h11.Request:
    """A request as the server has it: without our key."""
    chunked = [CHUNKED] if any(name == b"transfer-encoding" for name, _ in request.headers) else []
    headers = [*_passed(request, b"authorization"), *chunked]
    return h11.Request(method=request.method, target=request.target, headers=headers)


def _passed(head: h11.Request | h11.InformationalResponse | h11.Response, *others: bytes) -> Lines:
    """The headers, but for those of this connection only. With chunks there is no length, and h11 tells of them."""
    named = {
        word.strip().lower() for name, value in head.headers if name == b"connection" for word in value.split(b",")
    }
    gone = {*HOP, *others, *(named - KEPT)}
    if any(name == b"transfer-encoding" for name, _ in head.headers):
        gone.add(b"content-length")
    return [(name, value) for name, value in head.headers.raw_items() if name.lower() not in gone]
