"""Responses that notice when the client goes: server-sent events, and whole answers that are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from presize.server.errors import ApiError

DONE = b"data: [DONE]\n\n"


def event(content: Any) -> bytes:
    """One frame."""
    return b"data: " + orjson.dumps(content) + b"\n\n"


def reply(content: Any, status: int = 200) -> Response:
    """JSON."""
    return Response(orjson.dumps(content), status, media_type="application/json")


def refusal(error: ApiError) -> Response:
    """An error in its envelope."""
    return Response(error.body(), error.status, error.headers, media_type="application/json")


class Watched(Response):
    """Base: ``work`` is cancelled as soon as the client disconnects."""

    media_type = "application/json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self.work(scope, receive, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work
        if not work.cancelled():
            work.result()

    async def work(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Whole(Watched):
    """The answer of ``make``, once it is there."""

    def __init__(self, make: Callable[[], Awaitable[Any]]) -> None:
        super().__init__()
        self._make = make

    async def work(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = reply(await self._make())
        except ApiError as error:
            response = refusal(error)
        await response(scope, receive, send)


class EventStream(Watched):
    """Frames of ``parts``, each list of them in one write.

    What goes wrong before the first frame is an ordinary error response; after it, an error frame is the last one. A
    client that reads slowly holds up its own task alone: frames that come meanwhile go out together.
    """

    def __init__(self, parts: AsyncGenerator[list[bytes], None]) -> None:
        super().__init__()
        self._parts = parts

    async def work(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        try:
            async for frames in self._parts:
                if not begun:
                    begun = True
                    await send(_HEAD)
                await send({"type": "http.response.body", "body": b"".join(frames), "more_body": True})
        except ApiError as error:
            if not begun:
                await refusal(error)(scope, receive, send)
                return
            await send({"type": "http.response.body", "body": event(error.envelope()), "more_body": True})
        finally:
            await self._parts.aclose()
        await send({"type": "http.response.body", "body": DONE, "more_body": False})


_HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ],
}
