"""Requests that stream: the parts say the same as the whole, and nothing is shown that is taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.core.request import Request
from presize.engine.engine import Engine
from presize.engine.outputs import RequestOutput
from presize.engine.sampling_params import SamplingParams

EngineOf = Callable[..., Engine]


def run(engine: Engine) -> dict[str, list[RequestOutput]]:
    found: dict[str, list[RequestOutput]] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            found.setdefault(output.request_id, []).append(output)
    return found


@given(
    seed=st.integers(0, 2**31),
    stops=st.lists(st.text("abcdehint ", min_size=1, max_size=3), max_size=4),
    n=st.integers(1, 3),
    max_tokens=st.integers(1, 60),
    min_tokens=st.integers(0, 1),
    logprobs=st.sampled_from([None, 0, 2]),
    interval=st.integers(1, 9),
)
def test_the_parts_of_a_stream_are_the_whole_answer(engine_of: EngineOf, **drawn: Any) -> None:
    interval = drawn.pop("interval")
    params = SamplingParams(stop=drawn.pop("stops"), temperature=1.5, **drawn)
    engine = engine_of("llama")
    engine.add_tokens("streams", [5, 6, 7], params, stream_interval=interval)
    engine.add_tokens("whole", [5, 6, 7], params)
    found = run(engine)
    (whole,) = found["whole"]
    assert [output.finished for output in found["streams"]] == [False] * (len(found["streams"]) - 1) + [True]
    for answer in whole.outputs:
        parts = [part for output in found["streams"] for part in output.outputs if part.index == answer.index]
        assert "".join(part.text for part in parts) == answer.text
        assert [token for part in parts for token in part.token_ids] == answer.token_ids
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + [answer.finish_reason]
        assert parts[-1].stop_reason == answer.stop_reason
        told = [len(part.token_ids) for part in parts]
        assert told[0] == 1
        assert all(count == interval for count in told[1:-1])
        assert told[-1] <= interval or len(told) == 1
        if answer.logprobs is not None:
            assert [each for part in parts for each in part.logprobs or ()] == answer.logprobs
    assert found["streams"][-1].metrics.answers == [(len(a.token_ids), a.finish_reason) for a in whole.outputs]


def test_a_stop_string_that_only_begins_is_held_back_and_then_shown(chain_engine: Callable[[str], Engine]) -> None:
    engine = chain_engine("the cat")
    whole = "".join(o.outputs[0].text for o in _chain(engine, ()))
    assert whole == "the cat"
    shown = [o.outputs[0].text for o in _chain(engine, ["e cow"])]
    assert "".join(shown) == whole
    assert not any(text.endswith("e c") for text in shown)


def _chain(engine: Engine, stop: Any) -> list[RequestOutput]:
    ids = engine.tokenizer.encode_chat([{"role": "user", "content": "say"}])
    engine.add_tokens("a", ids, SamplingParams(temperature=0, max_tokens=30, stop=stop), stream_interval=1)
    return run(engine)["a"]


def test_a_lower_priority_value_goes_first(engine_of: EngineOf) -> None:
    engine = engine_of("llama", max_num_seqs=1)
    params = SamplingParams(max_tokens=2, ignore_eos=True)
    for name, priority in (("late", 5), ("middle", 0), ("first", -5)):
        engine.add_tokens(name, [5, 6], params, priority=priority)
    assert list(run(engine)) == ["first", "middle", "late"]


def test_warm_up_leaves_no_trace(engine_of: EngineOf) -> None:
    engine = engine_of("llama")
    engine.warm_up()
    assert engine.stats.summary()["output_tokens"] == 0
    assert engine.scheduler.ledger.held_blocks == 0
    assert not engine.has_unfinished_requests()


def test_what_is_asked_of_the_engine_about_a_request(engine_of: EngineOf) -> None:
    engine = engine_of("llama")
    forecast = engine.add_tokens("a", [5, 6], SamplingParams(max_tokens=9, ignore_eos=True))
    low, high = forecast.predicted_range
    assert low <= forecast.predicted_tokens <= high <= 9
    engine.step()
    (request,) = engine.scheduler.running
    assert isinstance(request, Request)
    assert engine.sequence(request).predicted_tokens == forecast.predicted_tokens
    (output,) = run(engine)["a"]
    assert output.metrics.queue_s <= output.metrics.ttft_s <= output.metrics.latency_s
    assert output.metrics.answers == [(9, "length")]


@pytest.mark.parametrize("when", [0, 3])
def test_a_stream_can_be_aborted(engine_of: EngineOf, when: int) -> None:
    engine = engine_of("llama")
    engine.add_tokens("a", [5, 6], SamplingParams(max_tokens=9, ignore_eos=True), stream_interval=1)
    for _ in range(when):
        engine.step()
    engine.abort("a")
    assert engine.scheduler.ledger.held_blocks == 0
    assert not engine.has_unfinished_requests()
