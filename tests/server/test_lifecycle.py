"""Start, stop, clients that go, an engine that fails: every request has one outcome, and no block is lost."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import orjson
import pytest
from serving import Server

LONG = {"prompt": "the cat sat on the mat", "max_tokens": 15_000, "ignore_eos": True}
SHORT = {**LONG, "max_tokens": 400}
Serve = Callable[..., Server]


def blocks_held(server: Server) -> float:
    return server.metric("presize_kv_cache_usage_perc")


@contextlib.contextmanager
def streaming(server: Server, body: dict[str, Any] = LONG) -> Iterator[Iterator[str]]:
    """The lines of a stream whose first frame is there."""
    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", f"{server.url}/v1/completions", json={**body, "stream": True}) as response,
    ):
        assert response.status_code == 200, response.read()
        lines = response.iter_lines()
        next(lines)
        yield lines


def test_a_client_that_goes_while_it_is_answered_frees_its_blocks(serve: Serve) -> None:
    server = serve()
    before = server.metric("presize_http_outcomes_total", outcome="disconnect")
    with streaming(server):
        assert blocks_held(server) > 0
    server.until(lambda: blocks_held(server) == 0)
    server.until(lambda: server.metric("presize_http_outcomes_total", outcome="disconnect") == before + 1)


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_go_before_their_turn_leave_the_queue(serve: Serve, stream: bool) -> None:
    server = serve("--max-num-seqs", "1")
    body = orjson.dumps({**LONG, "stream": stream})
    head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    with streaming(server):
        host, port = server.url.removeprefix("http://").split(":")
        clients = [socket.create_connection((host, int(port))) for _ in range(5)]
        for client in clients:
            client.sendall(head.encode() + body)
        server.until(lambda: server.metric("presize_num_requests_waiting") == 5)
        for client in clients:
            client.close()
        server.until(lambda: server.metric("presize_num_requests_waiting") == 0)
        assert server.metric("presize_num_requests_running") == 1
    server.until(lambda: blocks_held(server) == 0)


def test_health_tells_loading_from_ready(tiny_model: Any) -> None:
    server = Server(tiny_model, wait=False)
    try:
        assert server.get("/health").json() == {"status": "loading"}
        early = server.post("/v1/completions", LONG)
        assert (early.status_code, early.json()["error"]["code"]) == (503, "loading")
        assert early.headers["retry-after"] == "5"
        server.line(" ready ")
        assert server.get("/health").status_code == 200
    finally:
        assert server.stop() == 0


def test_a_stop_lets_what_is_in_work_end(serve: Serve) -> None:
    server = serve("--shutdown-timeout", "60")
    with streaming(server, {**LONG, "max_tokens": 3000}) as lines:
        server.process.send_signal(signal.SIGTERM)
        server.line("stopping")
        refused = server.post("/v1/completions", LONG)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert server.get("/health").json() == {"status": "draining"}
        frames = [line for line in lines if line]
        assert frames[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in frames[-2]
    assert server.process.wait(30) == 0


def test_what_is_not_done_in_time_gets_an_error(serve: Serve) -> None:
    server = serve("--shutdown-timeout", "0")
    with streaming(server) as lines:
        server.process.send_signal(signal.SIGTERM)
        frames = [line for line in lines if line]
    assert frames[-1] == "data: [DONE]"
    assert orjson.loads(frames[-2].removeprefix("data: "))["error"]["message"] == "the server is stopping"
    assert server.process.wait(30) == 0


def test_a_second_signal_ends_at_once(serve: Serve) -> None:
    server = serve("--shutdown-timeout", "1000")
    with streaming(server):
        server.process.send_signal(signal.SIGTERM)
        server.line("stopping")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 128 + signal.SIGTERM


def test_a_request_that_takes_too_long_is_given_up(serve: Serve) -> None:
    server = serve("--request-timeout", "0.3", "--max-num-seqs", "1")
    response = server.post("/v1/completions", LONG)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "timeout")
    server.until(lambda: blocks_held(server) == 0)
    assert server.metric("presize_http_outcomes_total", outcome="timeout") == 1


def test_lower_priorities_go_first(serve: Serve) -> None:
    server = serve("--max-num-seqs", "1")
    order: list[int] = []

    def ask(priority: int) -> None:
        server.post("/v1/completions", {"prompt": "one", "max_tokens": 40, "ignore_eos": True, "priority": priority})
        order.append(priority)

    with streaming(server):
        threads = []
        for count, priority in enumerate((5, 0, -3), start=1):
            threads.append(threading.Thread(target=ask, args=(priority,)))
            threads[-1].start()
            server.until(lambda count=count: server.metric("presize_num_requests_waiting") == count)
    for thread in threads:
        thread.join()
    assert order == [-3, 0, 5]


def test_what_can_not_start_in_time_is_refused_at_once(serve: Serve) -> None:
    server = serve("--max-num-seqs", "1", "--slo-ttft-ms", "1")
    server.post("/v1/completions", SHORT)  # what a step costs is learned from steps
    refused = server.post("/v1/completions", {**LONG, "prompt": "the cat " * 150, "max_tokens": 50})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert "slo_ttft_ms" in refused.json()["error"]["message"]


def test_keys(serve: Serve, tmp_path: Any) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# for the tests\nsecond-key\n")
    server = serve("--api-key", "first-key", "--api-key-file", str(keys))
    for key in ("first-key", "second-key"):
        assert server.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
    for headers in ({}, {"authorization": "Bearer FIRST-KEY"}, {"authorization": "first-key"}):
        response = server.get("/v1/models", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert server.get("/health").status_code == 200
