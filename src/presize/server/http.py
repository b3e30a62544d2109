"""HTTP/1.1 by uvicorn and httptools, with limits where they have none: on all but bodies, and on the wait for them."""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from presize.server.errors import ApiError

HEAD_SECONDS = 30.0  # until the head of a connection's first request is complete, and of a later one once it has begun


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    The bytes that come without completing a head or bringing a part of a body (a head without an end, trailers, the
    extensions of a chunk) are at most ``h11_max_incomplete_event_size`` of the configuration; uvicorn has this limit
    for h11 alone. What is refused here, and what is not HTTP, gets OpenAI's envelope as well.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._idle_bytes = 0
        self._progressed = False
        self._timer: asyncio.TimerHandle | None = None
        super().connection_made(cast(asyncio.Transport, transport))  # as uvicorn has it: TCP is nothing else
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._progressed = False
        super().data_received(data)
        self._idle_bytes = 0 if self._progressed else self._idle_bytes + len(data)
        limit = self.config.h11_max_incomplete_event_size
        if limit is not None and self._idle_bytes > limit:
            self._refuse(ApiError(431, f"the head is larger than {limit} bytes"))

    def on_message_begin(self) -> None:
        self._progressed = True
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._progressed = True
        self._head_came()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._progressed = True
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, msg))

    def _await_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._late)

    def _head_came(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.headers is None:  # nothing was asked yet: a browser keeps spare connections, and expects no answer
            self.transport.close()
        self._refuse(ApiError(400, f"the head of a request was not complete after {HEAD_SECONDS:g} s"))

    def _refuse(self, error: ApiError) -> None:
        """The last words on this connection; nothing is said into an answer that has begun."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = error.body()
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[error.status] + head.encode() + body)
        self.transport.close()
