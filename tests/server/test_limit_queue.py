"""SECURITY.md's limits on what waits and how long; the server still answers then and holds no memory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from limited import PROMPT, TEXT, Limited, refused

from presize.engine.sampling_params import MAX_LOGPROBS


def test_too_many_requests_at_once_are_refused_and_health_still_answers(narrow: Limited) -> None:
    head = f"POST {TEXT} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n".encode()  # and no body
    with contextlib.ExitStack() as held:
        for _ in range(5):
            held.enter_context(narrow.connect(head))
        narrow.until(lambda: narrow.http.get("/version").status_code == 429)
        response = narrow.http.get("/version")
        assert "5 may" in refused(response, 429)
        assert response.headers["retry-after"] == "1"
        assert narrow.http.get("/health").json() == {"status": "ok"}
    narrow.until(lambda: narrow.http.get("/version").status_code == 200)


@contextlib.contextmanager
def queue(server: Limited) -> Iterator[None]:
    """Two sequences run, and 118 wait, until the block ends."""
    with server.request({"prompt": "the cat", "n": 120, "max_tokens": 500, "ignore_eos": True, "stream": True}):
        server.until(lambda: server.metric("presize_num_requests_waiting") > 100)
        yield


def test_a_full_queue_is_refused_with_the_forecast_of_room(narrow: Limited) -> None:
    with queue(narrow):
        response = narrow.post(TEXT, {**PROMPT, "n": 120})
        assert "128 may" in refused(response, 429)
        assert response.json()["error"]["code"] == "overloaded"
        assert int(response.headers["retry-after"]) >= 1
    narrow.until(lambda: narrow.metric("presize_num_requests_waiting") == 0)
    assert narrow.post(TEXT, {**PROMPT, "n": 120}).status_code == 200


def test_a_queue_full_of_tokens_is_refused(narrow: Limited) -> None:
    long = {"prompt": [5] * 300, "max_tokens": 1}
    with queue(narrow), narrow.request({**long, "n": 2}):
        narrow.until(lambda: narrow.metric("presize_requests_in_work") == 2)
        response = narrow.post(TEXT, long)
        assert "prompt tokens wait, and 1000 may" in refused(response, 429)
        assert int(response.headers["retry-after"]) >= 1


def test_a_request_alone_may_not_be_more_than_the_queue(narrow: Limited) -> None:
    assert "128 may" in refused(narrow.post(TEXT, {**PROMPT, "n": 65, "prompt": ["a", "b"]}), 400, "n")


LONG = {"prompt": "the cat", "n": 100, "max_tokens": 500, "ignore_eos": True}


def test_a_request_has_its_time(hasty: Limited) -> None:
    before = hasty.metric("presize_http_outcomes_total", outcome="timeout")
    response = hasty.post(TEXT, LONG)
    assert "1.5 s" in refused(response, 503)
    assert response.json()["error"]["code"] == "timeout"
    assert hasty.metric("presize_http_outcomes_total", outcome="timeout") == before + 1


def test_a_stream_that_has_had_its_time_ends_with_an_error(hasty: Limited) -> None:
    response = hasty.post(TEXT, {**LONG, "stream": True})
    assert response.status_code == 200
    *_, last, done = [line for line in response.text.splitlines() if line]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
    assert done == "data: [DONE]"


def test_a_client_that_does_not_read_holds_memory_no_longer_than_that(hasty: Limited) -> None:
    before = hasty.metric("presize_http_outcomes_total", outcome="timeout")
    with hasty.request({**LONG, "stream": True, "logprobs": MAX_LOGPROBS}):
        hasty.until(lambda: hasty.metric("presize_http_outcomes_total", outcome="timeout") == before + 1)
        hasty.until(lambda: hasty.metric("presize_kv_cache_usage_perc") == 0)
