"""A server with limits of a test's own, its raw connections, and what is said of a refusal."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from pathlib import Path
from typing import Any

import httpx2 as httpx
from serving import Server

from presize.config import LimitOptions

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
KEY = "sk-right"
DEFAULTS = LimitOptions()
PROMPT = {"prompt": "the cat", "max_tokens": 1}
TALK: dict[str, Any] = {"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 1}
LEAST = {TEXT: PROMPT, CHAT: TALK}
JSON = {"content-type": "application/json"}


class Limited(Server):
    """``http``: a client that keeps its connections and sends the ``key``."""

    def __init__(self, model: Path, *flags: str, key: str | None = None) -> None:
        super().__init__(model, *flags)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """A plain GET."""
        return self.http.get(path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """JSON, as Python's json has it: NaN and huge numbers too."""
        return self.http.post(path, content=json.dumps(body), headers=JSON, **options)

    def connect(self, data: bytes = b"") -> contextlib.closing[socket.socket]:
        """A connection of its own; it is closed when the block ends."""
        made = socket.create_connection(("127.0.0.1", httpx.URL(self.url).port), timeout=60)
        made.sendall(data)
        return contextlib.closing(made)

    def request(self, body: Any) -> contextlib.closing[socket.socket]:
        """A request for answers, sent and not waited for."""
        content = json.dumps(body).encode()
        head = f"POST {TEXT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        return self.connect(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """The exit status."""
        if hasattr(self, "http"):
            self.http.close()
        return super().stop(signum)

    def check_sound(self) -> None:
        """Whatever a test did, the server answers, and no memory is held."""
        self.until(lambda: self.get("/metrics").status_code == 200)
        self.until(lambda: self.metric("presize_kv_cache_usage_perc") == 0)
        assert self.metric("presize_num_requests_running") == self.metric("presize_num_requests_waiting") == 0
        assert self.get("/health").json() == {"status": "ok"}
        assert self.post(TEXT, PROMPT).status_code == 200
        assert not any("Traceback" in line for line in self.log)


def refused(response: httpx.Response, status: int, field: str | None = None) -> str:
    """The message of an error in its envelope."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["param"] == field, error
    return str(error["message"])


def whole(connection: socket.socket) -> bytes:
    """All that comes until the end."""
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)
