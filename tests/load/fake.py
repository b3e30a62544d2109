"""A server of OpenAI's kind, on a thread, that answers as a test wants it; and what its frames look like."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """One frame."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def delta(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    """A frame of a chat; ``text`` None is one with a role only."""
    content = {"role": "assistant", "content": ""} if text is None else {"content": text}
    return event({"choices": [{"index": 0, "delta": content, "finish_reason": finish}], **more})


def usage(given: int, made: int) -> bytes:
    """The frame of the counts."""
    return event({"choices": [], "usage": {"prompt_tokens": given, "completion_tokens": made}})


async def stream(request: web.Request, *parts: bytes) -> web.StreamResponse:
    """An event stream of these bytes."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for part in parts:
        await response.write(part)
    await response.write_eof()
    return response


async def hello(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Two frames of text for three tokens, to any request."""
    return await stream(request, delta(), delta("hel"), delta("lo", "stop"), usage(7, 3), DONE)


def refuse(status: int, message: str, **headers: str) -> web.Response:
    """An error in OpenAI's envelope."""
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


class Fake:
    """seen: the bodies of the requests for answers so far; headers: of each; models: what /v1/models answers."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.models: Any = {"data": [{"id": "fake"}]}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(30)

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._end.wait()
        await runner.cleanup()

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response(self.models)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        self.headers.append({"path": request.path, **{k.lower(): v for k, v in request.headers.items()}})
        return await self._answer(request, body)

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)
        assert not self._thread.is_alive()
