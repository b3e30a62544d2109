"""An answer depends on its request alone, not on company, memory, policy or forecast; greedy ones are transformers'."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from presize.core.admission import POLICIES
from presize.core.ordering import ORDERS
from presize.engine.engine import Engine
from presize.engine.outputs import RequestOutput
from presize.engine.sampling_params import SamplingParams

MOST = 28
ENDS = frozenset({0, *range(200, 220)})  # more ends than the model has, so that lengths differ


@pytest.fixture(scope="module")
def workload(checkpoint) -> tuple[list[list[int]], list[list[int]]]:
    """200 prompts and transformers' greedy answers."""
    import numpy as np

    random = np.random.default_rng(5)
    lengths = random.choice([1, 2, 7, 31, 32, 33, 50], size=200)
    prompts = [random.integers(3, 300, size=n).tolist() for n in lengths]
    return prompts, tiny.greedy(checkpoint("llama")[0], prompts, MOST, ENDS)


def run(
    engine: Engine, prompts: dict[str, list[int]], params: Callable[[str], SamplingParams]
) -> dict[str, RequestOutput]:
    """All at once; the pool must be free and whole afterwards."""
    for request_id, prompt in prompts.items():
        engine.add_request(request_id, prompt, params(request_id))
    finished = {}
    while engine.has_unfinished_requests():
        finished |= {output.request_id: output for output in engine.step()}
    ledger = engine.scheduler.ledger
    ledger.check_integrity()
    assert ledger.free_blocks == ledger.unbooked_blocks == ledger.num_blocks
    return finished


def greedy_params(_: str) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=MOST, stop_token_ids=sorted(ENDS))


def tokens(outputs: dict[str, RequestOutput]) -> dict[str, list[list[int]]]:
    return {key: [o.token_ids for o in output.outputs] for key, output in outputs.items()}


@pytest.mark.parametrize("kv_tokens", [96, 448, 65536])
@pytest.mark.parametrize("policy", list(POLICIES))
def test_greedy_answers_are_those_of_transformers_under_every_policy(engine_of, workload, policy, kv_tokens):
    prompts, expected = workload
    count = 40 if kv_tokens == 96 else 200
    engine = engine_of(kv_tokens=kv_tokens, policy=policy)
    found = tokens(run(engine, {str(i): p for i, p in enumerate(prompts[:count])}, greedy_params))
    assert [found[str(i)][0] for i in range(count)] == expected[:count]
    if kv_tokens == 448 and policy == "on-demand":
        assert engine.stats.preemptions > 10
    if policy == "worst-case":
        assert engine.stats.preemptions == 0


def test_the_workload_has_answers_of_all_lengths(workload):
    lengths = [len(answer) for answer in workload[1]]
    assert min(lengths) <= 3
    assert sum(n == MOST for n in lengths) > 10
    assert len(set(lengths)) > 15


@settings(max_examples=25)
@given(data=st.data())
def test_nothing_that_decides_when_to_run_changes_a_token(engine_of, workload, tmp_path_factory, data):
    """Policies, orders, wrong forecasts, budgets and pools drawn together; greedy and random answers mixed."""
    prompts, expected = workload
    chosen = data.draw(st.lists(st.integers(0, 199), min_size=1, max_size=40, unique=True))
    lengths = tmp_path_factory.mktemp("lengths") / "lengths.jsonl"
    wrong = data.draw(st.lists(st.sampled_from([1, 5, 28, 10_000]), min_size=len(chosen), max_size=len(chosen)))
    lengths.write_text(
        "".join(json.dumps({"id": str(i), "output_tokens": n}) + "\n" for i, n in zip(chosen, wrong, strict=True))
    )
    seqs = data.draw(st.sampled_from([1, 3, 16, 300]))
    options = {
        "policy": data.draw(st.sampled_from(list(POLICIES))),
        "order": data.draw(st.sampled_from(list(ORDERS))),
        "predictor": data.draw(st.sampled_from(["kaplan-meier", "max-tokens", "oracle"])),
        "lengths": str(lengths),
        "max_num_seqs": seqs,
        "max_num_batched_tokens": max(seqs, data.draw(st.sampled_from([16, 33, 100, 4096]))),
        "risk": data.draw(st.sampled_from([0.0, 2.0])),
    }
    engine = engine_of(kv_tokens=data.draw(st.sampled_from([96, 448, 65536])), **options)
    found = tokens(run(engine, {str(i): prompts[i] for i in chosen}, greedy_params))
    assert found == {str(i): [expected[i]] for i in chosen}


@pytest.mark.parametrize("name", ["llama tied", "llama biases", "mistral", "qwen2", "qwen3"])
def test_other_architectures_through_the_whole_engine(engine_of, checkpoint, workload, name):
    prompts = workload[0][:40]
    expected = tiny.greedy(checkpoint(name)[0], prompts, MOST, ENDS)
    engine = engine_of(name, kv_tokens=224, policy="on-demand")
    found = tokens(run(engine, {str(i): p for i, p in enumerate(prompts)}, greedy_params))
    assert [found[str(i)][0] for i in range(40)] == expected
    assert engine.stats.preemptions > 0


def test_a_prompt_that_fills_the_pool_is_served_however_small_the_steps(engine_of, checkpoint):
    model = checkpoint("llama")[0]
    prompts = [list(range(3, 3 + n)) for n in (95, 94, 64, 1)]
    for budget in (16, 17, 95, 512):
        engine = engine_of(kv_tokens=96, max_num_seqs=4, max_num_batched_tokens=budget)
        for prompt in prompts:
            room = 96 - len(prompt)
            (expected,) = tiny.greedy(model, [prompt], room, frozenset({0}))
            params = SamplingParams(temperature=0, max_tokens=room)
            found = run(engine, {"x": prompt}, lambda _, params=params: params)
            assert found["x"].outputs[0].token_ids == expected


RANDOM: list[dict[str, Any]] = [
    {"temperature": 1.0}, {"temperature": 0.7, "top_k": 20}, {"temperature": 1.5, "top_p": 0.8}, {"n": 3},
    {"min_p": 0.05, "n": 2}, {"repetition_penalty": 1.4, "frequency_penalty": 0.5, "presence_penalty": -0.3},
    {"temperature": 0, "repetition_penalty": 3.0}, {"stop": ["a", "th"]}, {"min_tokens": 5},
]  # fmt: skip


def test_random_answers_are_the_same_alone_and_in_any_company(engine_of, workload):
    ids = [str(i) for i in range(60)]
    prompts = {i: workload[0][int(i)] for i in ids}

    def params(i: str) -> SamplingParams:
        return SamplingParams(seed=1000 + int(i), max_tokens=20, **RANDOM[int(i) % len(RANDOM)])

    engine = engine_of(kv_tokens=448)
    alone = {}
    for i in ids:
        alone |= run(engine, {i: prompts[i]}, params)
    company = [
        ("on-demand", "fcfs", 448, ids),
        ("s3", "longest-first", 448, ids[::-1]),
        ("payback", "gittins", 65536, ids),
    ]
    for policy, order, kv_tokens, arrival in company:
        engine = engine_of(kv_tokens=kv_tokens, policy=policy, order=order)
        together = run(engine, {i: prompts[i] for i in arrival}, params)
        assert {i: [(o.text, o.token_ids) for o in together[i].outputs] for i in ids} == {
            i: [(o.text, o.token_ids) for o in alone[i].outputs] for i in ids
        }
        assert policy != "on-demand" or engine.stats.preemptions > 10
