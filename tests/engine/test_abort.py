"""Requests that are given up: their memory is free at once, and nobody else's tokens change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presize.core.admission import POLICIES
from presize.engine.engine import Engine
from presize.engine.llm import LLM
from presize.engine.outputs import RequestOutput
from presize.engine.sampling_params import SamplingParams


@pytest.fixture(scope="module")
def prompts() -> dict[str, list[int]]:
    lengths = [1, 3, 30, 33, 64, 80, 7, 31, 20, 50, 2, 90]
    return {str(i): [(7 * i + k) % 290 + 5 for k in range(n)] for i, n in enumerate(lengths)}


def params(request_id: str) -> SamplingParams:
    i = int(request_id)
    return SamplingParams(n=1 + 2 * (i % 3 == 0), seed=i, max_tokens=5 + 3 * (i % 4), ignore_eos=True)


def tokens(output: RequestOutput) -> list[list[int]]:
    return [answer.token_ids for answer in output.outputs]


def steps(engine: Engine) -> Iterator[list[RequestOutput]]:
    while engine.has_unfinished_requests():
        yield engine.step()


@pytest.fixture(scope="module")
def undisturbed(engine_of, prompts) -> dict[str, list[list[int]]]:
    engine = engine_of()
    for key, prompt in prompts.items():
        engine.add_request(key, prompt, params(key))
    return {output.request_id: tokens(output) for outputs in steps(engine) for output in outputs}


@settings(max_examples=20)
@given(
    when=st.dictionaries(st.integers(0, 11).map(str), st.integers(0, 25), max_size=8),
    policy=st.sampled_from(list(POLICIES)),
    budget=st.sampled_from([16, 64]),
    kv_tokens=st.sampled_from([160, 4096]),
)
def test_an_abort_at_any_time_frees_its_memory_and_changes_nothing_else(
    engine_of, prompts, undisturbed, when, policy, budget, kv_tokens
):
    engine = engine_of(kv_tokens=kv_tokens, policy=policy, max_num_seqs=8, max_num_batched_tokens=budget)
    ledger = engine.scheduler.ledger
    for key, prompt in prompts.items():
        engine.add_request(key, prompt, params(key))
    finished: dict[str, RequestOutput] = {}
    for step in range(1000):
        for key in [k for k, at in when.items() if at == step]:
            output = engine.abort(key)
            assert (output is None) == (key in finished)
            if output is not None:
                check_aborted(output, undisturbed[key])
                running = [r.request_id for r in engine.scheduler.running]
                assert sum(len(ledger.held(name)) for name in running) == ledger.held_blocks
                finished[key] = output
            ledger.check_integrity()
            assert engine.abort(key) is None
        if not engine.has_unfinished_requests():
            break
        finished |= {output.request_id: output for output in engine.step()}
    assert ledger.free_blocks == ledger.unbooked_blocks == ledger.num_blocks
    assert set(finished) == set(prompts)
    whole = {k for k, output in finished.items() if all(a.finish_reason == "length" for a in output.outputs)}
    assert set(prompts) - whole <= set(when)
    assert {k: tokens(finished[k]) for k in whole} == {k: undisturbed[k] for k in whole}


def check_aborted(output: RequestOutput, full: list[list[int]]) -> None:
    """What was said until then is given back, no less; answers that had ended before keep their own reason."""
    assert any(answer.finish_reason == "abort" for answer in output.outputs)
    for answer, expected in zip(output.outputs, full, strict=True):
        assert answer.token_ids == expected[: len(answer.token_ids)]
        assert (answer.finish_reason == "length") == (len(answer.token_ids) == len(expected))
    assert 0 <= output.metrics.ttft_s <= output.metrics.latency_s or not any(tokens(output))


def test_an_unknown_id_is_no_error(engine_of):
    assert engine_of().abort("nobody") is None


def test_an_interrupted_generate_leaves_the_engine_empty(llm_of, prompts, monkeypatch):
    llm: LLM = llm_of(kv_tokens=160)
    before = llm.generate([prompts["3"]], SamplingParams(temperature=0), use_tqdm=False)
    step, count = llm.engine.step, 0

    def interrupted() -> list[RequestOutput]:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return step()

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(list(prompts.values()), SamplingParams(max_tokens=20, ignore_eos=True, n=2), use_tqdm=False)
    ledger = llm.engine.scheduler.ledger
    ledger.check_integrity()
    assert ledger.free_blocks == ledger.num_blocks
    after = llm.generate([prompts["3"]], SamplingParams(temperature=0), use_tqdm=False)
    assert tokens(after[0]) == tokens(before[0])
