"""Timed steps are described as what the engine computed in them."""

from __future__ import annotations

from presize.engine.timing import peaks, time_steps


def test_steps_are_seen_as_what_they_were(engine_of) -> None:
    engine = engine_of(kv_tokens=512)
    steps = time_steps(engine, 1)
    assert all(step.seconds > 0 for step in steps)
    # batches of 1, 2 and 4 prompts of 32 tokens and one of 256, with 8 tokens of answer each
    assert {1, 2, 4}.issubset({step.decodes for step in steps if not step.chunks})
    prompts = sum(tokens for step in steps for tokens, _, _ in step.chunks)
    drawn = sum(step.decodes + sum(draws for *_, draws in step.chunks) for step in steps)
    assert (prompts, drawn) == (7 * 32 + 256, 8 * 8)
    for step in steps:
        assert step.decodes * 33 <= step.context <= max(step.decodes * 40, 256 + 8)
    assert not engine.has_unfinished_requests()


def test_peaks_are_those_of_a_machine(engine_of) -> None:
    found = peaks(engine_of(kv_tokens=64), rounds=1)
    assert 1e8 < found.bandwidth < 1e13
    assert 1e8 < found.flops < 1e15
    assert found.memory_bytes > 1e8
