"""A loop in a thread: what blocks beside it, and answers that come in pieces, late, broken or with noise."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from http.client import HTTPException
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemodeploy.adapters.loops import Answer, Hand, Loop
from tests.unit.held import held, nothing_more_than

FRAMED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\nX: y\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
ENDLESS = b"HTTP/1.0 500 Oh no\r\nServer: Content-Length: 3\r\n\r\nhello"


LOOP = Loop()


@pytest.fixture
def loop() -> Loop:
    return LOOP


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def within(loop: Loop, what: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(what, loop.asyncio).result(10)


async def read(loop: Loop, stream: socket.socket, timeout_s: float = 5) -> tuple[int, str]:
    return await Answer(loop.asyncio, stream, "GET", timeout_s=timeout_s).read()


@given(
    answer=st.sampled_from([(PLAIN, 200), (PLAIN.replace(b"Content-Length", b"content-length"), 200)]),
    cuts=st.lists(st.integers(0, len(PLAIN)), max_size=4),
)
def test_an_answer_that_says_its_length_needs_no_end(answer: tuple[bytes, int], cuts: list[int]) -> None:
    data, status = answer
    near, far = socket.socketpair()
    with near, far:
        coming = asyncio.run_coroutine_threadsafe(read(LOOP, near), LOOP.asyncio)
        places = [0, *sorted(cuts), len(data)]
        for begin, end in itertools.pairwise(places):
            far.sendall(data[begin:end])
        assert coming.result(10) == (status, "hello")


@pytest.mark.parametrize(("data", "status"), [(CHUNKED, 404), (FRAMED, 200), (ENDLESS, 500)])
def test_another_is_whole_at_its_end(
    loop: Loop, pair: tuple[socket.socket, socket.socket], data: bytes, status: int
) -> None:
    near, far = pair
    coming = asyncio.run_coroutine_threadsafe(read(loop, near), loop.asyncio)
    far.sendall(data)
    assert not coming.done()
    far.shutdown(socket.SHUT_WR)
    assert coming.result(10) == (status, "hello")


@pytest.mark.parametrize("data", [b"", PLAIN[:-1], CHUNKED[:-9], b"220 mail.example ESMTP\r\n"])
def test_what_is_no_answer_or_half_of_one_is_an_error(
    loop: Loop, pair: tuple[socket.socket, socket.socket], data: bytes
) -> None:
    near, far = pair
    far.sendall(data)
    far.shutdown(socket.SHUT_WR)
    with pytest.raises((OSError, HTTPException)):
        within(loop, read(loop, near))


class Broken(socket.socket):
    """What an SSH library says in words of its own."""

    def recv(self, *_: Any) -> bytes:
        raise RuntimeError("Key-exchange timed out waiting for key negotiation")


def test_what_only_ssh_knows_is_a_broken_connection(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.sendall(PLAIN)
    with Broken(fileno=near.detach()) as broken, pytest.raises(OSError, match="Key-exchange"):
        within(loop, read(loop, broken))


def test_one_that_does_not_come_is_a_timeout_and_the_stream_is_left_alone(
    loop: Loop, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    with pytest.raises(TimeoutError):
        within(loop, read(loop, near, timeout_s=0.05))
    far.sendall(PLAIN)
    assert within(loop, read(loop, near)) == (200, "hello")


def test_one_that_nobody_wants_any_more_ends(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    async def give_up() -> tuple[int, str]:
        answer = Answer(loop.asyncio, pair[0], "GET", timeout_s=5)
        loop.asyncio.call_later(0.02, answer.give_up)
        return await answer.read()

    with pytest.raises(OSError, match="given up"):
        within(loop, give_up())


class Noisy:
    """What a channel of SSH has: one file to wait for, two streams behind it; noise on the second."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream, self.noise, self.closed, self.eof_received = stream, 3, False, False
        self.recv, self.fileno = stream.recv, stream.fileno

    def recv_stderr_ready(self) -> bool:
        return self.noise > 0

    def recv_stderr(self, _: int) -> bytes:
        self.noise -= 1
        self.stream.recv(5)
        return b"noise"

    def recv_ready(self) -> bool:
        try:
            return bool(self.stream.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False


def test_noise_on_a_channels_second_stream_is_no_answer(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.sendall(b"noise" * 3)
    coming = asyncio.run_coroutine_threadsafe(read(loop, Noisy(near)), loop.asyncio)  # type: ignore[arg-type]
    threading.Timer(0.1, far.sendall, [PLAIN]).start()
    assert coming.result(10) == (200, "hello")


def test_what_blocks_does_not_block_the_loop_and_what_it_raises_is_the_askers(loop: Loop) -> None:
    held = threading.Event()

    async def ask() -> str:
        hand = Hand(loop.asyncio)
        slow = hand.do(held.wait)
        await asyncio.sleep(0)
        held.set()
        assert await slow
        with pytest.raises(ZeroDivisionError):
            await hand.do(lambda: 1 // 0)
        return await hand.do(lambda: "made")

    assert within(loop, ask()) == "made"


def test_a_closed_loop_leaves_neither_threads_nor_files() -> None:
    before = held()
    ended, go = threading.Event(), threading.Event()

    async def wait(hand: Hand) -> None:
        try:
            await hand.do(go.wait)
        finally:
            ended.set()

    one = Loop()
    hand = Hand(one.asyncio)
    one.start(wait(hand))
    time.sleep(0.05)
    hand.end()
    one.close()
    assert ended.wait(5)
    go.set()
    assert nothing_more_than(before)
    one.close()


def test_what_a_loop_accepts_while_it_closes_is_done() -> None:
    for _ in range(100):
        loop, done, accepted = Loop(), list[int](), itertools.count()

        def ask(loop: Loop, done: list[int], accepted: Iterator[int]) -> None:
            with contextlib.suppress(RuntimeError):
                while True:
                    loop.call(done.append, 1)
                    next(accepted)

        asking = threading.Thread(target=ask, args=(loop, done, accepted))
        asking.start()
        loop.close()
        asking.join()
        deadline = time.monotonic() + 5
        while not loop.asyncio.is_closed() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(done) == next(accepted)


def test_a_process_ends_in_silence_whatever_still_waits() -> None:
    script = (
        "import asyncio, time\nfrom nemodeploy.adapters.loops import Hand, Loop\nloop = Loop()\n"
        "async def wait():\n    await Hand(loop.asyncio).do(lambda: time.sleep(600))\n"
        "loop.start(wait()); time.sleep(0.2)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("closed", [False, True])
def test_what_nobody_waits_for_any_more_is_put_away(closed: bool) -> None:
    loop, goes_on, away = Loop(), threading.Event(), threading.Event()
    given: list[str] = []

    def make() -> str:
        goes_on.wait(10)
        return "made"

    def unwanted(made: str) -> None:
        given.append(made)
        away.set()

    async def ask() -> None:
        hand = Hand(loop.asyncio)
        asked = hand.do(make, unwanted=unwanted)
        await asyncio.sleep(0)
        asked.cancel()
        hand.end()

    within(loop, ask())
    if closed:
        loop.close()
        loop._thread.join(10)
    goes_on.set()
    assert away.wait(10)
    assert given == ["made"]
    loop.close()
