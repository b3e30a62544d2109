"""The official `openai` client, unchanged, on every endpoint: whole and streamed, sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import openai
import pytest
from serving import Server

MESSAGES = [{"role": "user", "content": "the cat sat on the mat"}]


def test_chat(server: Server) -> None:
    answer = server.client().chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=6, temperature=0)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    (choice,) = answer.choices
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (6, answer.usage.prompt_tokens + 6)


def test_a_stream_says_the_same_as_a_whole_answer(server: Server) -> None:
    ask = {"model": "tiny", "messages": MESSAGES, "max_tokens": 20, "seed": 3, "temperature": 1.0}
    whole = server.client().chat.completions.create(**ask)
    chunks = list(server.client().chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    parts = [c.choices[0] for c in chunks if c.choices]
    assert "".join(part.delta.content or "" for part in parts) == whole.choices[0].message.content
    assert [part.finish_reason for part in parts if part.finish_reason] == ["length"]
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_with_a_stream_interval_tokens_come_several_at_a_time(serve: Callable[..., Server]) -> None:
    client = serve("--stream-interval", "4").client()
    ask = {"model": "tiny", "messages": MESSAGES, "max_tokens": 10, "seed": 3, "temperature": 1.0}
    whole = client.chat.completions.create(**ask)
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options=options))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage is not None]
    assert counts[-1] == 10
    assert set(counts) <= {0, 1, 5, 9, 10}


def test_async_clients_side_by_side(server: Server) -> None:
    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

            async def one(seed: int) -> str:
                stream = await client.chat.completions.create(
                    model="tiny", messages=MESSAGES, max_tokens=8, seed=seed, stream=True
                )
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            return await asyncio.gather(*(one(i % 4) for i in range(12)))

    texts = asyncio.run(all_of_them())
    assert texts[:4] == texts[4:8] == texts[8:]
    assert len(set(texts)) == 4


def test_several_answers_and_several_prompts(server: Server) -> None:
    client = server.client()
    answer = client.completions.create(model="tiny", prompt=["one", "two three"], n=2, max_tokens=4, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    alone = client.completions.create(model="tiny", prompt="two three", n=2, max_tokens=4, seed=1)
    assert [c.text for c in answer.choices[2:]] == [c.text for c in alone.choices]
    found = dict.fromkeys(range(4), "")
    for chunk in client.completions.create(
        model="tiny", prompt=["one", "two three"], n=2, max_tokens=4, seed=1, stream=True
    ):
        for choice in chunk.choices:
            found[choice.index] += choice.text
    assert list(found.values()) == [choice.text for choice in answer.choices]


def test_token_ids_as_a_prompt(server: Server) -> None:
    ids = server.post("/tokenize", {"prompt": "the cat"}).json()["tokens"]
    ask = {"model": "tiny", "max_tokens": 5, "temperature": 0}
    by_ids, by_text = (server.client().completions.create(prompt=p, **ask) for p in (ids, "the cat"))
    assert by_ids.choices[0].text == by_text.choices[0].text
    assert server.post("/detokenize", {"tokens": ids}).json() == {"prompt": "the cat"}


def test_log_probabilities(server: Server) -> None:
    answer = server.client().chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 4
    for entry in logprobs.content:
        values = [top.logprob for top in entry.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert (len(values), values[0]) == (3, entry.logprob)  # greedy takes the likeliest
    text = server.client().completions.create(model="tiny", prompt="the cat", max_tokens=4, temperature=0, logprobs=2)
    lists = text.choices[0].logprobs
    assert lists is not None
    assert lists.tokens is not None
    assert lists.text_offset is not None
    assert lists.text_offset == [sum(map(len, lists.tokens[:i])) for i in range(4)]


def test_stop_strings_are_never_seen_in_a_stream(server: Server) -> None:
    ask = {"model": "tiny", "prompt": "the cat", "max_tokens": 60, "seed": 5}
    text = server.client().completions.create(**ask).choices[0].text
    stop = text[20:23]
    expected = text[: text.index(stop)]
    whole = server.client().completions.create(**ask, stop=[stop]).choices[0]
    assert (whole.text, whole.finish_reason) == (expected, "stop")
    chunks = list(server.client().completions.create(**ask, stop=[stop], stream=True))
    assert "".join(c.choices[0].text for c in chunks) == expected


def test_the_forecast_comes_before_the_answer(server: Server) -> None:
    extra = {"return_forecast": True}
    stream = server.client().chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=5, stream=True, extra_body=extra
    )
    first, *_, last = list(stream)
    assert first.choices[0].delta.content == ""
    assert first.model_extra is not None
    assert last.model_extra is not None
    ((low, high),) = first.model_extra["presize"]["predicted_range"]
    assert 1 <= low <= first.model_extra["presize"]["predicted_tokens"][0] <= high <= 5
    assert set(last.model_extra["presize"]) >= {"queue_s", "ttft_s", "preemptions"}
    plain = server.client().chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=5)
    assert "presize" not in (plain.model_extra or {})


def test_models(server: Server) -> None:
    client = server.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "presize"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tools": [{"type": "function"}]}, "tools is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias is not supported"),
        ({"max_token": 3}, "max_token"),
        ({"temperature": -1}, "temperature is -1"),
        ({"n": 10**12}, "n is 1000000000000"),
        ({"seed": -1}, "seed is -1"),
        ({"max_tokens": 5000}, "the longest sequence allowed is 512"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "be brief"}]}, "no system prompt"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens is 9"),
    ],
)
def test_what_can_not_be_done_is_refused_by_name(server: Server, changes: dict, words: str) -> None:
    response = server.post("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 4, **changes})
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert words in error["message"]


def test_harmless_fields_are_passed_over(server: Server) -> None:
    body = {
        "messages": MESSAGES, "max_tokens": 2, "user": "me", "store": False, "tools": None, "n": None,
        "tool_choice": "none", "response_format": {"type": "text"}, "logit_bias": {}, "stream": False,
    }  # fmt: skip
    assert server.post("/v1/chat/completions", body).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"\xff\xfe", b"null"])
def test_what_is_not_a_json_object_is_a_plain_400(server: Server, body: bytes) -> None:
    response = server.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, set(response.json()["error"])) == (400, {"message", "type", "param", "code"})


def test_request_ids_go_out_as_they_came(server: Server) -> None:
    assert server.get("/version", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = server.get("/version", headers={"x-request-id": "bad id"}).headers["x-request-id"]
    assert len(made) == 32
