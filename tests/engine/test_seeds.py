"""Seeds, several answers to one prompt, and reported log-probabilities."""

from __future__ import annotations

import pytest
import tiny

from presize.engine.llm import LLM
from presize.engine.sampling_params import SamplingParams


@pytest.fixture
def llm(llm_of) -> LLM:
    return llm_of(kv_tokens=4096)


def answers(llm: LLM, prompts: list[list[int]], **params: object) -> list[list[list[int]]]:
    given = SamplingParams(**{"max_tokens": 12, "ignore_eos": True, **params})
    return [[o.token_ids for o in r.outputs] for r in llm.generate(prompts, given, use_tqdm=False)]


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(llm):
    def first(seed: int) -> tuple[int, ...]:
        return tuple(answers(llm, [[7, 8, 9]], seed=seed)[0][0])

    seeds = [0, 1, 2, 3, 2**31, 2**32, 2**32 + 1, 2**62, 2**63 - 2]
    found = [first(seed) for seed in seeds]
    assert found == [first(seed) for seed in seeds]
    assert len(set(found)) == len(seeds)


def test_the_largest_seed_is_a_seed_of_its_own(llm):
    assert answers(llm, [[7, 8, 9]], seed=2**63 - 1) != answers(llm, [[7, 8, 9]], seed=0)


def test_without_a_seed_answers_differ_and_a_run_can_be_repeated(llm_of):
    prompts = [[7, 8, 9]] * 20
    found = answers(llm_of(kv_tokens=4096), prompts)
    assert len({tuple(ids) for (ids,) in found}) == 20
    assert answers(llm_of(kv_tokens=4096), prompts) == found


def test_several_answers_are_those_of_the_seeds_that_follow(llm):
    (together,) = answers(llm, [[7, 8, 9]], seed=40, n=5)
    assert together == [answers(llm, [[7, 8, 9]], seed=40 + i)[0][0] for i in range(5)]
    assert len({tuple(ids) for ids in together}) == 5
    outputs = llm.generate([7, 8, 9], SamplingParams(n=5, seed=40), use_tqdm=False)[0].outputs
    assert [o.index for o in outputs] == list(range(5))


def test_several_greedy_answers_are_the_same(llm):
    (together,) = answers(llm, [[7, 8, 9]], temperature=0, n=3)
    assert together[0] == together[1] == together[2]


@pytest.mark.parametrize("params", [{"temperature": 0}, {"temperature": 1.0}, {"temperature": 0.4, "top_k": 3}])
def test_logprobs_are_the_log_softmax_of_transformers_whatever_is_drawn(llm, checkpoint, random_prompts, params):
    model = checkpoint("llama")[0]
    prompts = random_prompts(6)
    given = SamplingParams(max_tokens=10, ignore_eos=True, logprobs=4, seed=3, **params)
    for prompt, result in zip(prompts, llm.generate(prompts, given, use_tqdm=False), strict=True):
        answer = result.outputs[0]
        exact = tiny.logits_of(model, prompt + answer.token_ids)[len(prompt) - 1 : -1].double().log_softmax(dim=-1)
        assert len(answer.logprobs) == len(answer.token_ids) == 10
        for token, reported, row in zip(answer.token_ids, answer.logprobs, exact, strict=True):
            assert set(reported) == {token, *row.topk(4).indices.tolist()}
            assert reported == pytest.approx({key: float(row[key]) for key in reported}, abs=2e-4)
        drawn = sum(float(row[token]) for token, row in zip(answer.token_ids, exact, strict=True))
        assert answer.cumulative_logprob == pytest.approx(drawn, abs=1e-3)


def test_logprobs_are_absent_unless_asked_for(llm):
    answer = llm.generate([7, 8], SamplingParams(), use_tqdm=False)[0].outputs[0]
    assert answer.logprobs is None
    assert answer.cumulative_logprob is None
    chosen = llm.generate([7, 8], SamplingParams(logprobs=0), use_tqdm=False)[0].outputs[0]
    assert [set(step) for step in chosen.logprobs] == [{token} for token in chosen.token_ids]
