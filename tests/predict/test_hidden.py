"""The probe on hidden states: the same numbers in numpy and torch, learned from states alone, stored and refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small
import torch

from presize.config import SchedulerOptions
from presize.core.lengths import GRID, LengthDistribution
from presize.errors import ConfigError, ModelError
from presize.predict import KaplanMeier, Predictor, Query
from presize.predict.calibration import Calibration
from presize.predict.features import Features
from presize.predict.guard import Guarded
from presize.predict.hazard import base_hazards, observed, survival_of
from presize.predict.hidden import LIMIT, Hidden, Refining
from presize.predict.learned import Learned
from presize.predict.log import Log, Observation
from presize.predict.metrics import evaluate
from presize.predict.model import Arrays
from presize.predict.store import load, save
from presize.predict.train.hidden import HiddenNet
from presize.predict.train.learn import learn
from presize.predict.train.task import Recipe

D, K = 6, 50
PLAIN = Features((), (), (0.0,) * 4, (1.0,) * 4)


class NoTokenizer:
    """The probe reads no tokens."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        raise AssertionError

    encode_chat = decode = content = encode

    def fingerprint(self) -> str:
        return "abc"


def arrays() -> Arrays:
    rng = np.random.default_rng(0)
    shapes = {"mean": (D,), "scale": (D,), "hidden": (D + 4, 5), "hidden_bias": (5,), "decode": (5, K)}
    found: Arrays = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    return {**found, "decode_bias": np.full(K, -3.0, dtype=np.float32)}


def states(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(2.0, 3.0, (count, D)).astype(np.float32)


def make_log(count: int, seed: int = 0, cut_at: int = 10**6) -> Log:
    """The first number of a state decides the length; prompts say nothing."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        state = rng.normal(0.0, 4.0, D).astype(np.float32)
        length = int(np.clip(np.exp(4.0 + 0.3 * state[0] + 0.2 * rng.normal()), 1, 2000))
        query = Query(str(i), rng.integers(0, 9, 6), 2000, state=state)
        rows.append(Observation(query, min(length, cut_at), length > cut_at))
    return Log(rows)


def learned(log: Log, seed: int = 0) -> tuple[dict[str, float], Learned]:
    header, predictor = learn(log, NoTokenizer(), "m", Recipe(kind="hidden", seed=seed), lambda *_: None)
    return dict(header.metrics), predictor


def test_numpy_computes_what_torch_computes() -> None:
    torch.manual_seed(0)
    seen = states(40)
    seen[:, 3] = 7.0  # one that says nothing
    net = HiddenNet(seen, np.linspace(-5, -2, K), hidden=8)
    with torch.no_grad():
        net.decode.normal_(0, 0.3)
        net.hidden_bias.normal_()
    net.eval()
    asked = np.concatenate([states(5, 2), 1000 * states(5, 3)])
    sides = np.random.default_rng(4).normal(size=(10, 4)).astype(np.float32)
    expected = net(torch.from_numpy(asked), torch.from_numpy(sides)).detach().numpy()
    np.testing.assert_allclose(net.stored().logits(asked, sides), expected, atol=1e-4, rtol=1e-4)
    again = net.stored().logits(np.where(np.arange(D) == 3, 99.0, asked).astype(np.float32), sides)
    np.testing.assert_array_equal(again, net.stored().logits(asked, sides))


def test_logits_by_hand() -> None:
    w = arrays()
    state, side = states(1)[0], np.array([1.0, -1.0, 0.5, 0.0], dtype=np.float32)
    read = [min(max((state[d] - w["mean"][d]) * w["scale"][d], -LIMIT), LIMIT) for d in range(D)]
    inner = [max(sum(x * w["hidden"][i, j] for i, x in enumerate([*read, *side])) + w["hidden_bias"][j], 0)
             for j in range(5)]  # fmt: skip
    expected = [sum(inner[j] * w["decode"][j, k] for j in range(5)) + w["decode_bias"][k] for k in range(K)]
    np.testing.assert_allclose(Hidden(w).logits(state[None], side[None])[0], expected, atol=1e-5)


def test_before_training_the_curve_is_that_of_all_answers() -> None:
    lengths, censored = np.array([3, 9, 40, 200, 77]), np.zeros(5, dtype=bool)
    hazards = base_hazards(*observed(lengths, censored, K))
    net = HiddenNet(states(5), np.log(hazards / (1 - hazards)))
    found = net.stored().curves(states(3), np.zeros((3, 4), dtype=np.float32))
    np.testing.assert_allclose(found, np.tile(survival_of(hazards[None]), (3, 1)), atol=1e-5)


def test_it_learns_from_states_what_prompts_do_not_tell() -> None:
    metrics, predictor = learned(make_log(600))
    test = make_log(300, seed=1)
    found = evaluate(predictor.predict(test.queries), test.lengths, test.censored)
    assert found["kendall_tau"] > 0.7
    assert found["log_r2"] > 0.6
    assert 0.8 < found["coverage_90"] <= 1.0
    assert metrics["kendall_tau"] > 0.6


def test_it_learns_from_answers_that_were_cut_off() -> None:
    _, predictor = learned(make_log(600, cut_at=80))
    test = make_log(300, seed=1)
    found = evaluate(predictor.predict(test.queries), test.lengths, test.censored)
    assert found["kendall_tau"] > 0.6


def test_the_same_seed_learns_the_same() -> None:
    log = make_log(150)
    one, two = (learned(log)[1].survival(log.queries) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_stored_and_loaded_it_says_the_same(tmp_path: Path) -> None:
    save(tmp_path / "probe", small.header("hidden"), Hidden(arrays()))
    header, model = load(tmp_path / "probe", "abc")
    assert header.kind == "hidden"
    sides = np.zeros((4, 4), dtype=np.float32)
    assert isinstance(model, Hidden)
    assert model.size == D
    np.testing.assert_array_equal(model.curves(states(4), sides), Hidden(arrays()).curves(states(4), sides))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mean": np.zeros(D + 1)}, "must be"),
        ({"hidden": np.zeros((D + 3, 5))}, "do not fit together"),
        ({"decode": np.zeros((5, 0)), "decode_bias": np.zeros(0)}, "do not fit together"),
        ({"decode": np.zeros((5, GRID.size)), "decode_bias": np.zeros(GRID.size)}, "do not fit together"),
        ({"scale": np.full(D, np.nan)}, "not finite"),
        ({"decode_bias": np.zeros((K, 1))}, "dimensions"),
    ],
)
def test_damaged_weights_are_refused(change: Arrays, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        Hidden({**arrays(), **change})
    with pytest.raises(ModelError, match="no decode_bias"):
        Hidden({name: array for name, array in arrays().items() if name != "decode_bias"})


def test_states_of_another_width_are_refused() -> None:
    with pytest.raises(ModelError, match="states of 6 numbers; the model's have 7"):
        Hidden(arrays()).logits(np.zeros((2, 7), dtype=np.float32), np.zeros((2, 4), dtype=np.float32))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e30])
def test_whatever_the_state_the_curve_is_one(value: float) -> None:
    probe = Learned(Hidden(arrays()), PLAIN, Calibration())
    (curve,) = probe.predict([Query("a", [1], 300, state=np.full(D, value, dtype=np.float32))])
    assert curve.survival[0] == 1.0
    assert (np.diff(curve.survival) <= 0).all()
    assert 1 <= curve.quantile(0.5) <= 300


def test_without_states_it_says_what_is_wrong() -> None:
    probe = Learned(Hidden(arrays()), PLAIN, Calibration())
    with pytest.raises(ConfigError, match="known only once the model has run"):
        probe.predict([Query("a", [1], 300, state=states(1)[0]), Query("b", [1], 300)])
    log = make_log(100)
    with pytest.raises(ConfigError, match="known only once the model has run"):
        learned(Log([replace(row, query=replace(row.query, state=None)) for row in log.rows]))


def test_it_is_no_teacher() -> None:
    teacher = Learned(Hidden(arrays()), PLAIN, Calibration())
    with pytest.raises(ConfigError, match="the teacher reads hidden states"):
        learn(make_log(100), NoTokenizer(), "m", Recipe(teacher=teacher), lambda *_: None)


def test_what_waits_is_forecast_by_the_first_and_what_runs_by_the_probe() -> None:
    options = SchedulerOptions()
    first, probe = KaplanMeier(options), Learned(Hidden(arrays()), PLAIN, Calibration())
    predictor = Guarded(Refining(first, probe), options)
    assert predictor.needs_states
    queries = [Query("a", [1, 2], 300), Query("b", [1], 20)]
    before = [curve.quantile(0.5) for curve in first.predict(queries)]
    assert [curve.quantile(0.5) for curve in predictor.predict(queries)] == before
    refined = predictor.refine(queries, states(2))
    expected = probe.predict([replace(q, state=s) for q, s in zip(queries, states(2), strict=True)])
    assert refined is not None
    for found, curve in zip(refined, expected, strict=True):
        np.testing.assert_array_equal(found.survival, curve.survival)
        assert found.limit == curve.limit
    assert [curve.limit for curve in refined] == [300, 20]
    for _ in range(50):
        predictor.observe(queries[0], 3, censored=False)
    predictor.refresh(np.zeros(0, dtype=np.int64))
    assert first.predict(queries)[0].quantile(0.5) <= 3, "the first learns from what ended"


def test_a_predictor_that_needs_no_states_refines_nothing() -> None:
    class Plain(Predictor):
        def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
            return [LengthDistribution.exactly(5) for _ in queries]

    guarded = Guarded(Plain(SchedulerOptions()), SchedulerOptions())
    assert not guarded.needs_states
    assert guarded.refine([Query("a", [1], 5)], states(1)) is None
    assert (guarded.failures, guarded.late) == (0, 0)


def test_a_refine_that_fails_is_counted_and_says_nothing() -> None:
    probe = Learned(Hidden(arrays()), PLAIN, Calibration())
    guarded = Guarded(Refining(KaplanMeier(SchedulerOptions()), probe), SchedulerOptions())
    assert guarded.refine([Query("a", [1], 5)], np.zeros((1, D + 1), dtype=np.float32)) is None
    assert guarded.failures == 1
    assert guarded.refine([Query("a", [1], 5)], states(1)) is not None
