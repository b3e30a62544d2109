"""SECURITY.md's limits on bytes and their time; after every test the server still answers and holds no memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from limited import DEFAULTS, JSON, KEY, PROMPT, TEXT, Limited, refused, whole
from starlette.exceptions import HTTPException

from presize.server import guards


def test_a_declared_body_over_the_limit_is_refused_before_it_is_sent(usual: Limited) -> None:
    size = DEFAULTS.max_body_bytes + 1
    head = f"POST {TEXT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {size}\r\n\r\n"
    with usual.connect(head.encode()) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_over_the_limit_is_refused(usual: Limited) -> None:
    chunks = (b" " * 2**20 for _ in range(DEFAULTS.max_body_bytes // 2**20 + 1))
    message = refused(usual.http.post(TEXT, content=chunks, headers=JSON), 413)
    assert str(DEFAULTS.max_body_bytes) in message


def test_a_body_of_just_the_limit_is_served(usual: Limited) -> None:
    body = json.dumps(PROMPT).encode().ljust(DEFAULTS.max_body_bytes)
    assert usual.http.post(TEXT, content=body, headers=JSON).status_code == 200
    assert usual.http.post(TEXT, content=iter([body]), headers=JSON).status_code == 200


@pytest.mark.parametrize("line", ["GET /version?{} HTTP/1.1\r\n", "GET /version HTTP/1.1\r\nx-long: {}\r\n"])
def test_a_head_over_the_limit_is_refused_when_it_comes_at_once(usual: Limited, line: str) -> None:
    rest = f"host: x\r\nconnection: close\r\nauthorization: Bearer {KEY}\r\n\r\n"
    for size, status in ((DEFAULTS.max_header_bytes, b"431"), (DEFAULTS.max_header_bytes - 500, b"200")):
        with usual.connect((line.format("a" * size) + rest).encode()) as connection:
            assert whole(connection).startswith(b"HTTP/1.1 " + status)


def test_many_headers_are_refused_by_their_size(usual: Limited) -> None:
    headers = [(f"x-{i}", "") for i in range(DEFAULTS.max_header_bytes // 6)]
    assert refused(usual.http.get("/version", headers=headers), 431)


def test_a_head_without_an_end_is_cut_off(usual: Limited) -> None:
    answer = b""
    with usual.connect(b"GET /version HTTP/1.1\r\nx-long: ") as connection, contextlib.suppress(ConnectionError):
        for _ in range(64):
            connection.sendall(b"a" * DEFAULTS.max_header_bytes)
        answer = whole(connection)  # a time-out if the server goes on to listen
    assert not answer or answer.startswith(b"HTTP/1.1 431 ")


def test_a_body_that_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_BODY_SECONDS", 0.01)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    async def client() -> Any:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": True}
        await asyncio.Event().wait()

    async def nobody(message: Any) -> None:
        pass

    parts = [b"a", b"b"]
    limits = guards.Limits(application, 1, 1024, 1024)
    scope = {"type": "http", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}
    with pytest.raises(HTTPException, match="not complete") as caught:
        asyncio.run(limits(scope, client, nobody))
    assert caught.value.status_code == 400
    assert parts == []
