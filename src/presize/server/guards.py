"""What every request passes first, as plain ASGI: its id, the limits, the key. In this order, outermost first."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from presize.server.errors import ApiError
from presize.server.stream import refusal

OPEN_PATHS = frozenset({"/health"})  # without a key
# without a key too: a browser can not send one when it opens a page. They are the same for everyone and hold no data;
# the page asks for the key, and /live, which it draws, is closed. Unlike /health they count as connections.
PAGE_PATHS = frozenset({"/", "/style.css", "/page.js", "/draw.js", "/chat.js", "/icon.svg"})
TENANT = "presize.tenant"  # in the scope: which key a request came with
REQUEST_ID = "presize.request_id"
_BODY_SECONDS = 60  # between two parts of a body
_PROPER_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class RequestIds:
    """``X-Request-Id`` goes out as it came in, or gets made; an improper one is replaced."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _PROPER_ID.fullmatch(given) else uuid.uuid4().hex
        scope[REQUEST_ID] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class Limits:
    """Requests at the same time, bytes of a head, and bytes and seconds of a body."""

    def __init__(self, app: ASGIApp, max_connections: int, max_body_bytes: int, max_header_bytes: int) -> None:
        self._app = app
        self._max_connections, self._max_body, self._max_head = max_connections, max_body_bytes, max_header_bytes
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._count >= self._max_connections and scope["path"] not in OPEN_PATHS:
            error = ApiError(429, f"{self._count} requests are in work, and {self._max_connections} may", retry_after=1)
            await refusal(error)(scope, receive, send)
            return
        self._count += 1
        try:
            await self._limited(scope, receive, send)
        finally:
            self._count -= 1

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        # `HttpProtocol` cuts off a head that comes in pieces; one that comes in a single piece gets here
        if _head_bytes(scope) > self._max_head:
            await refusal(ApiError(431, f"the head is larger than {self._max_head} bytes"))(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        too_large = f"the body is larger than {self._max_body} bytes"
        if not declared.isdigit() or int(declared) > self._max_body:
            await refusal(ApiError(413, too_large))(scope, receive, send)
            return
        seen, complete = 0, False

        async def receive_limited() -> Message:
            nonlocal seen, complete
            if complete:  # what comes now is the client's end
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), _BODY_SECONDS)
            except TimeoutError as error:
                raise HTTPException(400, f"the body was not complete after {_BODY_SECONDS} s") from error
            seen += len(message.get("body", b""))
            if seen > self._max_body:
                raise HTTPException(413, too_large)
            complete = not message.get("more_body", False)
            return message

        await self._app(scope, receive_limited, send)


class Keys:
    """``Authorization: Bearer KEY`` for every path but the open ones; compared in constant time."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._keys and scope["path"] not in OPEN_PATHS | PAGE_PATHS:
            scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
            given = _digest(key.strip().encode("utf-8", "surrogateescape")) if scheme.lower() == "bearer" else b""
            matches = [hmac.compare_digest(given, known) for known in self._keys]  # all of them, whichever fits
            if not any(matches):
                error = ApiError(401, "a valid API key is needed: Authorization: Bearer KEY", code="invalid_api_key")
                await refusal(error)(scope, receive, send)
                return
            scope[TENANT] = f"key{matches.index(True)}"
        await self._app(scope, receive, send)


def _head_bytes(scope: Scope) -> int:
    # a line has a colon, a space and its end as well
    lines = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return lines + len(scope["raw_path"]) + len(scope["query_string"])


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
