"""Hidden states of prompts come out as transformers has them, and what a predictor makes of them takes effect once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from numpy.typing import NDArray

from presize.config import SchedulerOptions
from presize.core.lengths import GRID, LengthDistribution
from presize.engine.engine import Engine
from presize.engine.outputs import RequestOutput
from presize.engine.sampling_params import SamplingParams
from presize.errors import ConfigError, ModelError
from presize.predict import Predictor, Query
from presize.predict.calibration import Calibration
from presize.predict.features import Features
from presize.predict.guard import Guarded
from presize.predict.hidden import Hidden
from presize.predict.learned import Learned
from presize.predict.store import Header, save

MOST = 12
FIRST, REFINED = 40, 7  # tokens, as a test's predictor says


class Scripted(Predictor):
    """Says FIRST, and REFINED once it is told a state; ``refined`` keeps (id, state, preemptions before)."""

    needs_states = True

    def __init__(self, engine: Engine | None = None, fails: bool = False) -> None:
        self._engine, self._fails = engine, fails
        self.refined: list[tuple[str, NDArray[np.float32], int]] = []

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        return [LengthDistribution.exactly(FIRST) for _ in queries]

    def refine(self, queries: Sequence[Query], states: NDArray[np.float32]) -> list[LengthDistribution]:
        if self._fails:
            raise OSError("no probe")
        assert states.dtype == np.float32
        assert len(states) == len(queries)
        for query, state in zip(queries, states, strict=True):
            times = 0
            if self._engine is not None:
                times = max(s.request.preemptions for s in self._engine._sequences.values() if s.query is query)
            self.refined.append((query.request_id, state, times))
        return [LengthDistribution.exactly(REFINED) for _ in queries]


def run(engine: Engine, prompts: Sequence[list[int]], n: int = 1, most: int = MOST) -> dict[str, RequestOutput]:
    params = SamplingParams(temperature=0 if n == 1 else 1.0, n=n, max_tokens=most, ignore_eos=True)
    for i, prompt in enumerate(prompts):
        engine.add_request(str(i), prompt, params)
    finished: dict[str, RequestOutput] = {}
    while engine.has_unfinished_requests():
        finished |= {output.request_id: output for output in engine.step()}
    return finished


@torch.inference_mode()
def states_by_transformers(model: Any, prompts: Sequence[list[int]]) -> NDArray[np.float32]:
    return np.stack([model.model(torch.tensor([ids])).last_hidden_state[0, -1].numpy() for ids in prompts])


@pytest.mark.parametrize("budget", [16, 33, 512], ids="budget {}".format)
@pytest.mark.parametrize("name", ["llama", "qwen3", "llama tied"])
def test_states_are_those_of_transformers_in_chunks_and_batches(engine_of, checkpoint, random_prompts, name, budget):
    prompts = random_prompts(40)
    engine = engine_of(name, max_num_seqs=16, max_num_batched_tokens=budget)
    predictor = engine.predictor = Scripted()
    run(engine, prompts)
    assert sorted(int(request_id) for request_id, *_ in predictor.refined) == list(range(40))
    found = {int(request_id): state for request_id, state, _ in predictor.refined}
    expected = states_by_transformers(checkpoint(name)[0], prompts)
    np.testing.assert_allclose(np.stack([found[i] for i in range(40)]), expected, atol=2e-4, rtol=1e-4)


def test_states_are_the_same_after_a_preemption_and_are_told_once(engine_of, checkpoint, random_prompts):
    # 4 blocks: when the first one's 65th token needs a third block, the second has not been prefilled to its end
    prompts = [random_prompts(1, (n,))[0] for n in (63, 60)] + random_prompts(19, (60, 1))
    engine = engine_of(kv_tokens=128, policy="on-demand", max_num_batched_tokens=16, max_num_seqs=12)
    predictor = engine.predictor = Scripted(engine)
    run(engine, prompts, most=40)
    assert any(times for *_, times in predictor.refined), "none was preempted before its first token"
    assert engine.stats.preemptions > sum(times for *_, times in predictor.refined), "and none after"
    assert sorted(int(request_id) for request_id, *_ in predictor.refined) == list(range(21))
    found = {int(request_id): state for request_id, state, _ in predictor.refined}
    expected = states_by_transformers(checkpoint("llama")[0], prompts)
    np.testing.assert_allclose(np.stack([found[i] for i in range(21)]), expected, atol=2e-4, rtol=1e-4)


def test_every_answer_of_a_prompt_is_told(engine_of, random_prompts):
    engine = engine_of()
    predictor = engine.predictor = Scripted()
    run(engine, random_prompts(2), n=3)
    assert sorted(request_id for request_id, *_ in predictor.refined) == ["0", "0", "0", "1", "1", "1"]


def test_the_forecast_is_replaced_when_the_first_token_is_out_and_stays(engine_of, random_prompts):
    engine = engine_of()
    engine.predictor = Scripted()
    engine.add_request("x", random_prompts(1, (60,))[0], SamplingParams(max_tokens=100, ignore_eos=True))
    (sequence,) = engine._sequences.values()
    request = sequence.request
    assert request.forecast.quantile(0.5) == FIRST
    engine.step()
    assert request.output_tokens == 1
    refined = request.forecast
    assert refined.quantile(0.5) == REFINED
    assert request.overrun_at == REFINED + 1
    engine.step()
    assert request.forecast is refined
    output = engine.abort("x")
    assert output is not None
    assert output.metrics.predicted_tokens == FIRST


@pytest.mark.parametrize("policy", ["payback", "s3"])
def test_greedy_answers_are_the_same_with_states(engine_of, checkpoint, random_prompts, policy):
    prompts = random_prompts(40)
    expected = tiny.greedy(checkpoint("llama")[0], prompts, MOST, frozenset())
    engine = engine_of(kv_tokens=224, policy=policy, max_num_batched_tokens=50, max_num_seqs=50)
    engine.predictor = Scripted()
    found = run(engine, prompts)
    assert [found[str(i)].outputs[0].token_ids for i in range(40)] == expected


@pytest.mark.parametrize("wrong", ["raises", "short"])
def test_one_that_fails_is_counted_and_harmless(engine_of, checkpoint, random_prompts, wrong, monkeypatch):
    prompts = random_prompts(10)
    engine = engine_of()
    inner = Scripted(fails=wrong == "raises")
    if wrong == "short":
        monkeypatch.setattr(inner, "refine", lambda queries, states: [])
    guarded = engine.predictor = Guarded(inner, SchedulerOptions())
    engine.add_request("x", prompts[0], SamplingParams(max_tokens=100, ignore_eos=True))
    (sequence,) = engine._sequences.values()
    first = sequence.request.forecast
    engine.step()
    assert sequence.request.forecast is first
    assert (guarded.failures, guarded.late) == (1, 0)
    engine.abort("x")
    found = run(engine, prompts)
    expected = tiny.greedy(checkpoint("llama")[0], prompts, MOST, frozenset())
    assert [found[str(i)].outputs[0].token_ids for i in range(10)] == expected
    assert guarded.failures > 1


def test_states_are_not_gathered_for_a_predictor_that_needs_none(engine_of, random_prompts, monkeypatch):
    engine = engine_of()
    plain, seen = engine.runner.run, []

    def spy(work: Any, **options: Any) -> Any:
        sampled = plain(work, **options)
        seen.append(sampled.first_states)
        return sampled

    monkeypatch.setattr(engine.runner, "run", spy)
    run(engine, random_prompts(3))
    assert set(seen) == {None}


def probe(size: int, cells: int = 50) -> Hidden:
    rng = np.random.default_rng(0)
    shapes = {"mean": (size,), "scale": (size,), "hidden": (size + 4, 8), "hidden_bias": (8,), "decode": (8, cells)}
    return Hidden({**{name: rng.normal(0, 0.4, s) for name, s in shapes.items()}, "decode_bias": np.full(cells, -3.0)})


@pytest.fixture
def stored(tmp_path: Path, checkpoint: Callable[..., tuple[Any, Path]]) -> Callable[[int, str], Path]:
    """``stored(size, model)``: directory of a probe that reads states of ``size`` numbers."""

    def get(size: int, model: str) -> Path:
        plain = Features((), (), (0.0,) * 4, (1.0,) * 4)
        header = Header(
            kind="hidden", model=model, tokenizer=fingerprint, features=plain, calibration=Calibration(), licence="CC0"
        )
        save(tmp_path / "probe", header, probe(size))
        return tmp_path / "probe"

    from presize.engine.tokenizer import Tokenizer

    fingerprint = Tokenizer(checkpoint("llama")[1]).fingerprint()
    return get


def test_a_probe_from_its_directory_refines_what_runs(engine_of, checkpoint, random_prompts, stored):
    model, directory = checkpoint("llama")
    engine = engine_of(predictor=str(stored(64, str(directory))))
    assert engine.forecast_source == ""
    (prompt,) = random_prompts(1, (60,))
    engine.add_request("x", prompt, SamplingParams(max_tokens=400, ignore_eos=True))
    (sequence,) = engine._sequences.values()
    history = sequence.request.forecast.at(GRID)
    engine.step()
    (state,) = states_by_transformers(model, [prompt])
    (expected,) = Learned.load(stored(64, "m")).predict([Query("x", prompt, 400, 1.0, state=state)])
    found = sequence.request.forecast
    np.testing.assert_allclose(found.at(GRID), expected.at(GRID), atol=1e-4)
    assert np.abs(found.at(GRID) - history).max() > 0.1
    assert isinstance(engine.predictor, Guarded)
    assert engine.predictor.failures == 0
    engine.abort("x")


def test_a_probe_for_wider_states_is_refused_and_one_of_another_name_is_noted(engine_of, stored):
    with pytest.raises(ModelError, match=r"reads the states of big, 96 numbers; those of \S+ have 64"):
        engine_of(predictor=str(stored(96, "big")))
    engine = engine_of(predictor=str(stored(64, "another")))
    assert "states of another" in engine.forecast_source


def test_a_probe_can_not_learn_online(engine_of, stored, tmp_path):
    with pytest.raises(ConfigError, match="reads prompts"):
        engine_of(predictor=str(stored(64, "m")), learn_online=str(tmp_path / "online"))
