"""One request at a time, to servers that behave well or badly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from fake import Answer, Fake, delta, event, hello, refuse, stream
from hypothesis import given
from hypothesis import strategies as st

from presize.load.client import Client, Unreachable, model_of, retry_after_s, session
from presize.load.options import LoadOptions
from presize.load.outcome import Outcome
from presize.load.prelude import measure
from presize.load.rows import Sample
from presize.load.synthetic import Ruler

Start = Callable[[Answer], Fake]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def ask(url: str, sample: Sample | None = None, *, ignore_eos: bool = False, **options: Any) -> Outcome:
    async def run() -> Outcome:
        made = LoadOptions(base_url=url, **options)
        async with session(made.api_key) as http:
            client = Client(http, made, "m", on_text=lambda: None)
            return await client.ask(sample or Sample("hi", 5), ignore_eos=ignore_eos)

    return asyncio.run(run())


def test_an_answer(fake: Start) -> None:
    server = fake(hello)
    outcome = ask(server.url, api_key="secret", temperature=0.5)
    assert outcome.failure is None
    assert (outcome.tokens, outcome.frames, outcome.input_tokens, outcome.finish_reason) == (3, 2, 7, "stop")
    assert outcome.ttft_s is not None
    assert 0 < outcome.ttft_s <= outcome.e2el_s
    assert server.seen == [
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "temperature": 0.5,
         "stream": True, "stream_options": {"include_usage": True}}
    ]  # fmt: skip
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert server.headers[0]["authorization"] == "Bearer secret"


def test_the_other_endpoint_and_a_length_that_is_asked_for(fake: Start) -> None:
    server = fake(hello)
    assert ask(server.url, ignore_eos=True, endpoint="completions").failure is None
    assert server.seen[0]["prompt"] == "hi"
    assert server.seen[0]["ignore_eos"] is True
    assert "messages" not in server.seen[0]
    assert server.headers[0]["path"] == "/v1/completions"
    assert "authorization" not in server.headers[0]


def test_conversations_go_as_they_are(fake: Start) -> None:
    server = fake(hello)
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    ask(server.url, Sample(messages, 5))
    assert server.seen[0]["messages"] == messages


async def _html(request: web.Request, body: Any) -> web.StreamResponse:
    return web.Response(text="<b>gone</b>" + " x" * 500, status=502, content_type="text/html")


async def _nothing(request: web.Request, body: Any) -> web.StreamResponse:
    return web.Response(status=500)


async def _missing(request: web.Request, body: Any) -> web.StreamResponse:
    return refuse(404, "no such model")


async def _whole(request: web.Request, body: Any) -> web.StreamResponse:
    return web.json_response({"choices": []})


async def _error_inside(request: web.Request, body: Any) -> web.StreamResponse:
    return await stream(request, delta("a"), event({"error": {"message": "preempted"}}))


async def _cut_off(request: web.Request, body: Any) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(delta("a"))
    assert request.transport is not None
    request.transport.close()
    return response


async def _hang(request: web.Request, body: Any) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def _hang_later(request: web.Request, body: Any) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(delta("a"))
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (_html, "http 502", "<b>gone</b>"),
        (_nothing, "http 500", "Internal Server Error"),
        (_missing, "http 404", "no such model"),
        (_whole, "protocol", "the answer is application/json, not an event stream"),
        (_error_inside, "stream", "preempted"),
        (_cut_off, "connection", ""),
        (_hang, "timeout", "no whole answer within 0.2 s"),
        (_hang_later, "timeout", "no whole answer within 0.2 s"),
    ],
)
def test_what_goes_wrong_has_a_kind_and_a_reason(answer: Answer, kind: str, words: str, fake: Start) -> None:
    failure = ask(fake(answer).url, timeout=0.2 if kind == "timeout" else 60.0).failure
    assert failure is not None
    assert failure.kind == kind
    assert words in failure.message
    assert 0 < len(failure.message) <= 300


def test_nobody_there() -> None:
    failure = ask("http://127.0.0.1:1").failure
    assert failure is not None
    assert (failure.kind, failure.message) == ("connection", "Connection refused")


def busy(times: int, wait: str) -> Answer:
    """So many refusals, then an answer."""
    count = 0

    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        nonlocal count
        count += 1
        return refuse(429, "busy", **{"retry-after": wait}) if count <= times else await hello(request, body)

    return answer


def test_a_refusal_is_an_end_unless_retry_is_on(fake: Start) -> None:
    server = fake(busy(2, "0"))
    failure = ask(server.url).failure
    assert failure is not None
    assert failure.kind == "http 429"
    outcome = ask(server.url, retry=True)
    assert (outcome.failure, outcome.retries) == (None, 1)
    assert len(server.seen) == 3


def test_a_wait_that_is_longer_than_the_time_left_is_not_begun(fake: Start) -> None:
    server = fake(busy(9, "61"))
    outcome = ask(server.url, retry=True, timeout=60.0)
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.retries, len(server.seen)) == ("http 429", 0, 1)


def test_other_errors_are_not_tried_again(fake: Start) -> None:
    server = fake(_missing)
    outcome = ask(server.url, retry=True)
    assert (outcome.retries, len(server.seen)) == (0, 1)


@pytest.mark.parametrize(("uses", "kinds"), [(1, [None, None, None]), (0, ["connection"] * 3)])
def test_an_old_connection_that_is_closed_is_no_failure_and_a_new_one_is(
    uses: int, kinds: list[str | None], fake: Start
) -> None:
    """The server takes so many requests on a connection, and closes it at the next one."""
    peers: list[Any] = []

    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        assert request.transport is not None
        peers.append(request.transport.get_extra_info("peername"))
        if peers.count(peers[-1]) > uses:
            request.transport.close()
        return await hello(request, body)

    async def run(url: str) -> list[Outcome]:
        async with session(None) as http:
            client = Client(http, LoadOptions(base_url=url), "m", on_text=lambda: None)
            return [await client.ask(Sample("hi", 5), ignore_eos=False) for _ in range(3)]

    outcomes = asyncio.run(run(fake(answer).url))
    assert [outcome.failure and outcome.failure.kind for outcome in outcomes] == kinds
    assert len(set(peers)) == 3
    assert len(peers) == (5 if uses else 3)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 1), ("5", 5), ("0.5", 0.5), ("-3", 0), ("soon", 1), ("inf", 1), ("nan", 1), ("", 1),
        ("Thu, 01 Jan 2026 00:00:07 GMT", 7), ("Thu, 01 Jan 2026 00:00:07", 7), ("Wed, 31 Dec 2025 00:00:00 GMT", 0),
    ],
)  # fmt: skip
def test_retry_after(header: str | None, seconds: float) -> None:
    assert retry_after_s(header, NOW) == seconds


@given(header=st.text(max_size=30))
def test_no_header_makes_a_wait_that_is_none(header: str) -> None:
    assert 0 <= retry_after_s(header, NOW) < float("inf")


def model(url: str, asked: str | None = None) -> str:
    async def run() -> str:
        async with session(None) as http:
            return await model_of(http, url, asked)

    return asyncio.run(run())


def test_the_model_is_the_first_there_is(fake: Start) -> None:
    server = fake(hello)
    assert model(server.url) == "fake"
    assert model(server.url, "mine") == "mine"


@pytest.mark.parametrize("models", [{}, [], {"data": []}, {"data": [5]}, {"data": [{"id": 5}]}])
def test_a_server_that_names_no_model(models: Any, fake: Start) -> None:
    server = fake(hello)
    server.models = models
    with pytest.raises(Unreachable, match="names no model; give --model"):
        model(server.url)
    assert model(server.url, "mine") == "mine"


def test_a_server_without_a_list_of_models(fake: Start) -> None:
    with pytest.raises(Unreachable, match=r"/x/v1/models says 404, .*Not Found.*; give --model"):
        model(fake(hello).url + "/x")


def test_a_server_that_does_not_count_gives_no_ruler(fake: Start) -> None:
    async def uncounted(request: web.Request, body: Any) -> web.StreamResponse:
        return await stream(request, delta("a", "stop"))

    async def counted(request: web.Request, body: Any) -> web.StreamResponse:
        words = len(body["messages"][0]["content"].split())
        counts = {"prompt_tokens": 11 + 2 * words, "completion_tokens": 1}
        return await stream(request, delta("a", "stop"), event({"choices": [], "usage": counts}))

    async def run(url: str) -> Ruler | None:
        async with session(None) as http:
            return await measure(Client(http, LoadOptions(base_url=url), "m", on_text=lambda: None), 0)

    assert asyncio.run(run(fake(uncounted).url)) is None
    assert asyncio.run(run(fake(counted).url)) == Ruler(frame=11, per_word=2)
    with pytest.raises(Unreachable, match=r"a probe of 16 words.*http 404: no such model"):
        asyncio.run(run(fake(_missing).url))
