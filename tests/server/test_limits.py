"""SECURITY.md's limits, each against a real server; after every test it still answers and holds no memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import tiny
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from presize.config import LimitOptions
from presize.engine.sampling_params import MAX_LOGPROBS, MAX_N, MAX_STOP_LENGTH, MAX_STOPS, MAX_TOKENS, SEED_RANGE
from presize.server import guards
from presize.server.protocol import (
    MAX_FIELDS,
    MAX_MESSAGES,
    MAX_PRIORITY,
    MAX_PROMPTS,
    ChatRequest,
    CompletionRequest,
    Generation,
)

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
KEY = "sk-right"
DEFAULTS = LimitOptions()
PROMPT = {"prompt": "the cat", "max_tokens": 1}
TALK: dict[str, Any] = {"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 1}
LEAST = {TEXT: PROMPT, CHAT: TALK}
JSON = {"content-type": "application/json"}


class Running:
    """A server process, and a client of it."""

    def __init__(self, model: Path, log: Path, *flags: str, key: str | None = None) -> None:
        self.log = log
        command = [sys.executable, "-m", "presize.cli.main", "serve", str(model), "--port", "0", "--kv-tokens", "2048"]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*command, "--threads", "1", *flags], stderr=file, env={**os.environ, "OMP_WAIT_POLICY": "passive"}
            )
        self.wait_for(lambda: " ready " in log.read_text() or self.process.poll() is not None, seconds=120)
        url = re.search(r"listening url=(http://127\.0\.0\.1:(\d+))", log.read_text())
        assert url is not None, log.read_text()
        self.port = int(url.group(2))
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.client = httpx.Client(base_url=url.group(1), headers=headers, timeout=60)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Until the condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """JSON, as Python's json has it: NaN and huge numbers too."""
        return self.client.post(path, content=json.dumps(body), headers=JSON, **options)

    def metric(self, name: str, labels: str = "") -> float:
        """A number of /metrics."""
        text = self.client.get("/metrics").text
        found = re.search(rf"^presize_{name}\{{[^}}]*{labels}[^}}]*\}} (\S+)$", text, re.MULTILINE)
        assert found is not None, text
        return float(found.group(1))

    def connect(self, data: bytes = b"") -> contextlib.closing[socket.socket]:
        """A connection of its own; it is closed when the block ends."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        made.sendall(data)
        return contextlib.closing(made)

    def request(self, body: Any) -> contextlib.closing[socket.socket]:
        """A request for answers, sent and not waited for."""
        content = json.dumps(body).encode()
        head = f"POST {TEXT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        return self.connect(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)

    def stop(self) -> int:
        """The exit status."""
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random one, of 512 tokens' context."""
    directory = tmp_path_factory.mktemp("limits") / "model"
    tiny.save(tiny.make_model("llama", max_position_embeddings=512), directory)
    return directory


@contextlib.contextmanager
def running(model: Path, name: str, *flags: str, key: str | None = None) -> Iterator[Running]:
    made = Running(model, model.parent / f"{name}.log", *flags, key=key)
    try:
        yield made
    finally:
        status = made.stop()
    assert status == 0, made.log.read_text()


@pytest.fixture(scope="module")
def usual(model: Path) -> Iterator[Running]:
    """Every limit at its default; with keys."""
    keys = model.parent / "keys"
    keys.write_text(f"# of the tests\n{KEY}\nsk-other\n")
    with running(model, "usual", "--api-key-file", str(keys), key=KEY) as made:
        yield made


@pytest.fixture(scope="module")
def narrow(model: Path) -> Iterator[Running]:
    """Small limits on how much is taken on; two sequences at a time make others wait."""
    flags = ("--max-num-seqs", "2", "--max-num-batched-tokens", "64", "--max-queued-requests", "128")
    with running(model, "narrow", *flags, "--max-queued-tokens", "1000", "--max-connections", "5") as made:
        yield made


@pytest.fixture(scope="module")
def hasty(model: Path) -> Iterator[Running]:
    """Little time for a request."""
    flags = ("--max-num-seqs", "2", "--max-num-batched-tokens", "64", "--request-timeout", "1.5")
    with running(model, "hasty", *flags) as made:
        yield made


@pytest.fixture(autouse=True)
def _sound(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, its server answers afterwards, and no memory is held."""
    yield
    for name in {"usual", "narrow", "hasty"} & set(request.fixturenames):
        server: Running = request.getfixturevalue(name)
        check_sound(server)


def check_sound(server: Running) -> None:
    server.wait_for(lambda: server.client.get("/metrics").status_code == 200)
    server.wait_for(lambda: server.metric("kv_cache_usage_perc") == 0)
    assert server.metric("num_requests_running") == server.metric("num_requests_waiting") == 0
    assert server.client.get("/health").json() == {"status": "ok"}
    assert server.post(TEXT, PROMPT).status_code == 200
    assert "Traceback" not in server.log.read_text()


# the size of a request


def test_a_declared_body_over_the_limit_is_refused_before_it_is_sent(usual: Running) -> None:
    size = DEFAULTS.max_body_bytes + 1
    head = f"POST {TEXT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {size}\r\n\r\n"
    with usual.connect(head.encode()) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_over_the_limit_is_refused(usual: Running) -> None:
    chunks = (b" " * 2**20 for _ in range(DEFAULTS.max_body_bytes // 2**20 + 1))
    message = refused(usual.client.post(TEXT, content=chunks, headers=JSON), 413)
    assert str(DEFAULTS.max_body_bytes) in message


def test_a_body_of_just_the_limit_is_served(usual: Running) -> None:
    body = json.dumps(PROMPT).encode().ljust(DEFAULTS.max_body_bytes)
    assert usual.client.post(TEXT, content=body, headers=JSON).status_code == 200
    assert usual.client.post(TEXT, content=iter([body]), headers=JSON).status_code == 200


@pytest.mark.parametrize("line", ["GET /version?{} HTTP/1.1\r\n", "GET /version HTTP/1.1\r\nx-long: {}\r\n"])
def test_a_head_over_the_limit_is_refused_when_it_comes_at_once(usual: Running, line: str) -> None:
    rest = f"host: x\r\nconnection: close\r\nauthorization: Bearer {KEY}\r\n\r\n"
    for size, status in ((DEFAULTS.max_header_bytes, b"431"), (DEFAULTS.max_header_bytes - 500, b"200")):
        with usual.connect((line.format("a" * size) + rest).encode()) as connection:
            assert whole(connection).startswith(b"HTTP/1.1 " + status)


def test_many_headers_are_refused_by_their_size(usual: Running) -> None:
    headers = [(f"x-{i}", "") for i in range(DEFAULTS.max_header_bytes // 6)]
    assert refused(usual.client.get("/version", headers=headers), 431)


def test_a_head_without_an_end_is_cut_off(usual: Running) -> None:
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

    parts = [b"a", b"b"]
    limits = guards.Limits(application, 1, 1024, 1024)
    scope = {"type": "http", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}
    with pytest.raises(HTTPException, match="not complete") as caught:
        asyncio.run(limits(scope, client, None))  # type: ignore[arg-type]
    assert caught.value.status_code == 400
    assert parts == []


# the numbers in a request

OVER: list[tuple[str, dict[str, Any], str]] = [
    (TEXT, {"n": MAX_N + 1}, "n"),
    (CHAT, {"n": MAX_N + 1}, "n"),
    (TEXT, {"max_tokens": MAX_TOKENS + 1}, "max_tokens"),
    (CHAT, {"max_completion_tokens": MAX_TOKENS + 1}, "max_completion_tokens"),
    (TEXT, {"min_tokens": MAX_TOKENS + 1}, "min_tokens"),
    (TEXT, {"stop": ["a"] * (MAX_STOPS + 1)}, "stop"),
    (TEXT, {"stop": "a" * (MAX_STOP_LENGTH + 1)}, "stop"),
    (CHAT, {"stop": ["a", "a" * (MAX_STOP_LENGTH + 1)]}, "stop.1"),
    (TEXT, {"stop_token_ids": [1] * (MAX_STOPS + 1)}, "stop_token_ids"),
    (TEXT, {"prompt": ["a"] * (MAX_PROMPTS + 1)}, "prompt"),
    (TEXT, {"prompt": [[1]] * (MAX_PROMPTS + 1)}, "prompt"),
    (TEXT, {"prompt": ["a"] * MAX_PROMPTS, "n": MAX_N}, "n"),
    (TEXT, {"logprobs": MAX_LOGPROBS + 1}, "logprobs"),
    (CHAT, {"logprobs": True, "top_logprobs": MAX_LOGPROBS + 1}, "top_logprobs"),
    (CHAT, {"messages": TALK["messages"] * (MAX_MESSAGES + 1)}, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 1025}]}, "messages.0.content"),
    (TEXT, {"seed": SEED_RANGE[1] + 1}, "seed"),
    (TEXT, {"priority": -MAX_PRIORITY - 1}, "priority"),
    (TEXT, {"temperature": 101}, "temperature"),
]


@pytest.mark.parametrize(("path", "change", "field"), OVER)
def test_more_than_a_limit_is_refused_with_the_fields_name(
    usual: Running, path: str, change: dict[str, Any], field: str
) -> None:
    refused(usual.post(path, {**LEAST[path], **change}), 400, field)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (TEXT, {"n": MAX_N}),
        (TEXT, {"prompt": ["a"] * MAX_PROMPTS}),
        (TEXT, {"stop": ["b" * MAX_STOP_LENGTH] * MAX_STOPS}),
        (TEXT, {"logprobs": MAX_LOGPROBS}),
        (CHAT, {"logprobs": True, "top_logprobs": MAX_LOGPROBS}),
        (TEXT, {"seed": SEED_RANGE[1], "priority": -MAX_PRIORITY}),
    ],
)
def test_just_a_limit_is_served(usual: Running, path: str, change: dict[str, Any]) -> None:
    assert usual.post(path, {**LEAST[path], **change}).status_code == 200


@pytest.mark.parametrize("field", ["n", "max_tokens", "top_k", "seed", "logprobs", "priority", "temperature", "top_p"])
def test_numbers_that_are_none_are_refused(usual: Running, field: str) -> None:
    for value in (10**30, -(10**30), float("nan"), float("inf"), "1", True, [1], {"a": 1}):
        refused(usual.post(TEXT, {**PROMPT, field: value}), 400, field)


def test_the_context_is_a_limit(usual: Running) -> None:
    response = usual.post(TEXT, {**PROMPT, "max_tokens": MAX_TOKENS})
    assert "512" in refused(response, 400)
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_an_object_has_only_so_many_fields(usual: Running) -> None:
    assert str(MAX_FIELDS) in refused(usual.post(TEXT, {str(i): i for i in range(MAX_FIELDS + 1)}), 400)
    message = {str(i): i for i in range(MAX_FIELDS + 1)}
    assert str(MAX_FIELDS) in refused(usual.post(CHAT, {"messages": [message]}), 400, "messages.0")


@pytest.mark.parametrize(
    "prompt", [[-1] * 100_000, ["a"] * 100_000, [[]] * 100_000, [["a"]] * 100_000, [1] * 100_000 + [-1]]
)
def test_a_long_list_of_wrong_things_is_one_error(prompt: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"prompt": prompt})
    assert caught.value.error_count() < 10  # one for each thing that a prompt may be


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"n":' + b"9" * 5000 + b"}", b"", b"null", b"\xff", b'{"prompt": "a"', b'{"\\ud800": 1}']
)
def test_what_is_no_request_is_refused(usual: Running, body: bytes) -> None:
    refused(usual.client.post(TEXT, content=body, headers=JSON), 400)


# what could run, or fetch something


def test_no_template_no_tensor_and_no_address_is_taken(usual: Running) -> None:
    for field in ("chat_template", "chat_template_kwargs", "tools", "audio", "prompt_embeds", "guided_regex"):
        assert "not supported" in refused(usual.post(CHAT, {**TALK, field: "{{ 7 * 7 }}"}), 400, field)
    picture = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}}
    message = {"role": "user", "content": [picture]}
    refused(usual.post(CHAT, {"messages": [message]}), 400, "messages.0.content.0.type")
    refused(usual.post(CHAT, {**TALK, "an_invention": 1}), 400, "an_invention")


@pytest.mark.parametrize("kind", [CompletionRequest, ChatRequest])
def test_every_refused_field_is_refused_by_name(usual: Running, kind: type[Generation]) -> None:
    path = CHAT if kind is ChatRequest else TEXT
    for field in kind.REFUSED:
        refused(usual.post(path, {**LEAST[path], field: "surely not this"}), 400, field)


def test_text_that_looks_like_a_template_stays_text(usual: Running) -> None:
    ids = usual.post("/tokenize", {"messages": [{"role": "user", "content": "{{ 7 * 7 }}"}]}).json()["tokens"]
    assert "{{ 7 * 7 }}" in usual.post("/detokenize", {"tokens": ids}).json()["prompt"]


# keys


def test_every_path_but_health_wants_a_key(usual: Running) -> None:
    document = usual.client.get("/openapi.json").json()
    asked = [(method, path) for path, operations in document["paths"].items() for method in operations]
    assert len(asked) > 8
    asked += [("get", "/openapi.json"), ("get", "/nowhere"), ("get", "/health/"), ("put", TEXT)]
    wrong = [
        "",
        "Bearer",
        "Bearer sk-wrong",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY.upper()}",
    ]
    wrong += [f"Basic {KEY}", KEY, f"Bearer {KEY} {KEY}", f"Bearer {KEY},sk-other", "Bearer # of the tests"]
    with httpx.Client(base_url=usual.client.base_url, timeout=60) as nobody:
        for method, path in asked:
            for header in wrong:
                response = nobody.request(method, path, headers={"authorization": header} if header else {})
                if path == "/health":
                    assert response.json() == {"status": "ok"}
                    continue
                refused(response, 401)
                assert response.headers["www-authenticate"] == "Bearer"
                assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    "path", ["//health", "/x/../health", "/health/../metrics", "/HEALTH", "/health%00", "/live?/health"]
)
def test_no_spelling_of_a_path_is_open(usual: Running, path: str) -> None:
    with usual.connect(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()) as connection:
        assert whole(connection).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {KEY}", "Bearer sk-other"])
def test_each_key_of_the_file_opens(usual: Running, header: str) -> None:
    assert usual.client.get("/v1/models", headers={"authorization": header}).status_code == 200


# how much there may be


def test_too_many_requests_at_once_are_refused_and_health_still_answers(narrow: Running) -> None:
    head = f"POST {TEXT} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n".encode()  # and no body
    with contextlib.ExitStack() as held:
        for _ in range(5):
            held.enter_context(narrow.connect(head))
        narrow.wait_for(lambda: narrow.client.get("/version").status_code == 429)
        response = narrow.client.get("/version")
        assert "5 may" in refused(response, 429)
        assert response.headers["retry-after"] == "1"
        assert narrow.client.get("/health").json() == {"status": "ok"}
    narrow.wait_for(lambda: narrow.client.get("/version").status_code == 200)


@contextlib.contextmanager
def queue(server: Running) -> Iterator[None]:
    """Two sequences run, and 118 wait, until the block ends."""
    with server.request({"prompt": "the cat", "n": 120, "max_tokens": 500, "ignore_eos": True, "stream": True}):
        server.wait_for(lambda: server.metric("num_requests_waiting") > 100)
        yield


def test_a_full_queue_is_refused_with_the_forecast_of_room(narrow: Running) -> None:
    with queue(narrow):
        response = narrow.post(TEXT, {**PROMPT, "n": 120})
        assert "128 may" in refused(response, 429)
        assert response.json()["error"]["code"] == "overloaded"
        assert int(response.headers["retry-after"]) >= 1
    narrow.wait_for(lambda: narrow.metric("num_requests_waiting") == 0)
    assert narrow.post(TEXT, {**PROMPT, "n": 120}).status_code == 200


def test_a_queue_full_of_tokens_is_refused(narrow: Running) -> None:
    long = {"prompt": [5] * 300, "max_tokens": 1}
    with queue(narrow), narrow.request({**long, "n": 2}):
        narrow.wait_for(lambda: narrow.metric("requests_in_work") == 2)
        response = narrow.post(TEXT, long)
        assert "prompt tokens wait, and 1000 may" in refused(response, 429)
        assert int(response.headers["retry-after"]) >= 1


def test_a_request_alone_may_not_be_more_than_the_queue(narrow: Running) -> None:
    assert "128 may" in refused(narrow.post(TEXT, {**PROMPT, "n": 65, "prompt": ["a", "b"]}), 400, "n")


# how long it may take

LONG = {"prompt": "the cat", "n": 100, "max_tokens": 500, "ignore_eos": True}


def test_a_request_has_its_time(hasty: Running) -> None:
    before = hasty.metric("http_outcomes_total", 'outcome="timeout"')
    response = hasty.post(TEXT, LONG)
    assert "1.5 s" in refused(response, 503)
    assert response.json()["error"]["code"] == "timeout"
    assert hasty.metric("http_outcomes_total", 'outcome="timeout"') == before + 1


def test_a_stream_that_has_had_its_time_ends_with_an_error(hasty: Running) -> None:
    response = hasty.post(TEXT, {**LONG, "stream": True})
    assert response.status_code == 200
    *_, last, done = [line for line in response.text.splitlines() if line]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
    assert done == "data: [DONE]"


def test_a_client_that_does_not_read_holds_memory_no_longer_than_that(hasty: Running) -> None:
    before = hasty.metric("http_outcomes_total", 'outcome="timeout"')
    with hasty.request({**LONG, "stream": True, "logprobs": MAX_LOGPROBS}):
        hasty.wait_for(lambda: hasty.metric("http_outcomes_total", 'outcome="timeout"') == before + 1)
        hasty.wait_for(lambda: hasty.metric("kv_cache_usage_perc") == 0)
