"""What a connection may send besides bodies, and how long it may take, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from presize.config import ServeOptions
from presize.server import http
from presize.server.http import HttpProtocol
from presize.server.run import _socket

LIMIT = 2048
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the number of bytes of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    config = uvicorn.Config(application, h11_max_incomplete_event_size=LIMIT, log_config=None, lifespan="off")
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HttpProtocol(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.close()
        await asyncio.gather(*state.tasks)


def answer_to(pieces: Iterable[bytes]) -> bytes:
    """All that comes back until the connection is closed; each piece is sent once the last has been taken."""

    async def talk() -> bytes:
        async with connected() as (reader, writer):
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                return await asyncio.wait_for(reader.read(), 30)
            except ConnectionError:
                return b"reset"

    return asyncio.run(talk())


def test_small_writes_of_the_server_do_not_wait_for_each_other() -> None:
    """Nagle's algorithm is off on what uvloop accepts; asyncio would leave it on."""

    async def talk() -> int:
        accepted: asyncio.Future[asyncio.BaseTransport] = asyncio.get_running_loop().create_future()

        class Accepting(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted.set_result(transport)

        with _socket(ServeOptions(port=0)) as listener:
            server = await asyncio.get_running_loop().create_server(Accepting, sock=listener)
            _, writer = await asyncio.open_connection(*listener.getsockname())
            connection = (await accepted).get_extra_info("socket")
            writer.close()
            server.close()
            return int(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    assert uvloop.run(talk()) != 0


def endless(start: bytes, piece: bytes) -> Iterable[bytes]:
    """64 times the limit."""
    yield start
    for _ in range(64 * LIMIT // len(piece)):
        yield piece


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET / HTTP/1.1\r\nx-long: ", b"a" * 512),
        (b"GET /", b"a" * 512),
        (b"GET / HTTP/1.1\r\n", b"x-many: 1\r\n" * 50),
        (HEAD + b"1\r\na\r\n0\r\n", b"x-trailer: 1\r\n" * 50),
        (HEAD + b"1\r\na\r\n0\r\nx-trailer: ", b"a" * 512),
        (HEAD + b"1;extension=", b"a" * 512),
    ],
    ids=["a header", "the path", "many headers", "many trailers", "a trailer", "an extension of a chunk"],
)
def test_what_never_ends_is_cut_off(start: bytes, piece: bytes) -> None:
    assert answer_to(endless(start, piece)).startswith((b"HTTP/1.1 431 ", b"reset"))


def test_a_long_body_in_small_parts_is_no_head() -> None:
    parts = [b"200\r\n" + b"a" * 512 + b"\r\n"] * 64
    answer = answer_to([HEAD.replace(b"host", b"connection: close\r\nhost"), *parts, b"0\r\n\r\n"])
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\n32768\r\n" in answer


def test_what_is_not_http_is_told_so_in_the_envelope() -> None:
    answer = answer_to([b"hello\r\n\r\n"])
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"type":"invalid_request_error"' in answer


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", b""),
        (b"GET / HT", b"HTTP/1.1 400 "),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET", b"HTTP/1.1 200 "),
    ],
    ids=["nothing", "half of a head", "half of a second head"],
)
def test_a_head_that_does_not_come_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, expected: bytes
) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.05)
    answer = answer_to([sent])
    assert answer.startswith(expected)
    assert bool(answer) == bool(expected)


def test_a_request_in_work_has_all_the_time_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the head stops when the head is complete."""
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.01)
    timers: list[Any] = []

    async def talk() -> bytes:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later
        monkeypatch.setattr(loop, "call_later", lambda *args: timers.append(call_later(*args)) or timers[-1])
        async with connected() as (reader, writer):
            writer.write(HEAD)
            while not timers or not timers[0].cancelled():
                await asyncio.sleep(0)
            writer.write(b"0\r\n\r\n")
            return await reader.readuntil(b"\r\n\r\n")

    assert asyncio.run(asyncio.wait_for(talk(), 30)).startswith(b"HTTP/1.1 200 ")
