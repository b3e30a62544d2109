"""One retraining: fair scores, a fair comparison, and an end when nobody waits for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from online_parts import PLAIN, header, lengths, linear, make_base, queries
from small import attention

from presize.core.lengths import GRID, LengthDistribution
from presize.predict.base import Query
from presize.predict.online.home import NOT_BETTER, ORPHAN, Home
from presize.predict.online.reservoir import Answer, as_seen
from presize.predict.online.retrain import beats, coverage, log_crps, main, retrain, told
from presize.predict.store import Header, load, save


def answers(count: int, median: float, seed: int = 0, tenant: str = "") -> list[Answer]:
    pairs = zip(queries(count, seed, tenant), lengths(count, median, seed), strict=True)
    return [Answer.of(query, PLAIN, length, False) for query, length in pairs]


def prepared(directory: Path, base: Path, rows: list[Answer]) -> Home:
    home = Home(directory, base)
    for row in rows:
        home.reservoir.add(row)
    home.save(answers=True)
    return home


def curves_of(median: float, count: int, spread: float = 0.5) -> Any:
    return linear(median, spread).curves([np.array([1])] * count, np.zeros((count, 4), dtype=np.float32))


# --- scores ---------------------------------------------------------------------------------------------------------


def test_the_score_is_the_crps_of_the_log() -> None:
    """Against the sum over the points, written out."""
    rows = [Answer(np.array([1], dtype=np.int32), 300, 0.0, False, 0, length, cut)
            for length, cut in [(40, False), (300, False), (120, True), (1, False)]]  # fmt: skip
    curves = curves_of(100, 4)
    for row, curve, score in zip(rows, curves, log_crps(curves, as_seen(rows, PLAIN)), strict=True):
        end = row.output_tokens if row.censored else row.max_tokens
        expected = sum(
            (1 - curve[k] - (row.output_tokens <= GRID[k])) ** 2 * (np.log1p(GRID[k + 1]) - np.log1p(GRID[k]))
            for k in range(GRID.size - 1) if GRID[k] < end
        )  # fmt: skip
        assert score == pytest.approx(expected)


@pytest.mark.parametrize("cut", [10_000, 100])
@pytest.mark.parametrize("wrong", [(70, 0.5), (140, 0.5), (100, 0.3), (100, 0.9)])
def test_the_truth_scores_best_also_where_answers_are_cut_off(cut: int, wrong: tuple[float, float]) -> None:
    drawn = lengths(4000, 100.0)
    rows = [Answer(np.array([1], dtype=np.int32), cut, 0.0, False, 0, min(n, cut), n > cut) for n in drawn]
    seen = as_seen(rows, PLAIN)
    truth, other = log_crps(curves_of(100, 4000), seen), log_crps(curves_of(wrong[0], 4000, wrong[1]), seen)
    assert truth.mean() < other.mean()
    assert beats(truth, other, [bytes([i % 256, i // 256]) for i in range(4000)])
    assert not beats(other, truth, [bytes([i % 256, i // 256]) for i in range(4000)])


@given(st.floats(0, 5), st.integers(2, 60), st.integers(1, 5))
def test_nothing_beats_itself_and_many_answers_to_a_prompt_count_once(score: float, count: int, draws: int) -> None:
    scores = np.full(count, score)
    assert not beats(scores, scores, [bytes([i]) for i in range(count)])
    rng = np.random.default_rng(count)
    gains = rng.normal(0.3, 1.0, count)
    once = beats(-gains, np.zeros(count), [bytes([i]) for i in range(count)])
    prompts = [bytes([i]) for i in range(count) for _ in range(draws)]
    assert beats(-np.repeat(gains, draws), np.zeros(count * draws), prompts) == once


def test_coverage_is_that_of_the_central_90_percent() -> None:
    seen = as_seen(answers(3000, 100.0), PLAIN)
    assert coverage(curves_of(100, 3000), seen) == pytest.approx(0.9, abs=0.015)
    assert coverage(curves_of(300, 3000), seen) < 0.5


def test_prompts_of_all_lengths_are_asked_about_and_stay_in_order() -> None:
    rng = np.random.default_rng(0)
    rows = [Answer(rng.integers(0, 9, size).astype(np.int32), 50, 0.0, False, 0, 5, False)
            for size in [1, 700, 3, 65, *rng.integers(1, 90, 100).tolist()]]  # fmt: skip
    seen, model = as_seen(rows, PLAIN), attention()
    one_by_one = np.concatenate([model.curves([p], seen.sides[i : i + 1]) for i, p in enumerate(seen.prompts)])
    assert told(model, seen) == pytest.approx(one_by_one, abs=1e-5)


# --- the whole ------------------------------------------------------------------------------------------------------


def test_the_newest_decide(tmp_path: Path) -> None:
    """3,000 old answers say one thing, the newest 1,000 another."""
    base = make_base(tmp_path / "base")
    home = prepared(tmp_path / "on", base, [*answers(3000, 100.0), *answers(1000, 150.0, 1)])
    assert retrain(tmp_path / "on", "candidate-a", lambda: None) == 0
    found, model = load(tmp_path / "on" / "candidate-a")
    curve = LengthDistribution.from_survival(found.calibration.apply(curves_of(100, 1))[0])
    assert curve.quantile(0.5) == pytest.approx(150, rel=0.1)
    assert found.training["online_weights"] == "the base's"
    assert model.arrays()["intercept"] == pytest.approx(np.log(100.0))
    home.close()


def test_too_little_to_compare_on_is_not_better(tmp_path: Path) -> None:
    home = prepared(tmp_path / "on", make_base(tmp_path / "base"), answers(60, 300.0))
    assert retrain(tmp_path / "on", "candidate-a", lambda: None) == NOT_BETTER
    home.close()


def test_one_tenant_among_several_is_a_quarter_of_what_decides(tmp_path: Path) -> None:
    """A flood of 800 answers at the bound, from one; the others' few stay as they were forecast."""
    rows = [*answers(400, 100.0, 1, "a"), *answers(400, 100.0, 2, "b"), *answers(400, 100.0, 3, "c"),
            *answers(800, 300.0, 4, "loud")]  # fmt: skip
    home = prepared(tmp_path / "on", make_base(tmp_path / "base"), rows)
    status = retrain(tmp_path / "on", "candidate-a", lambda: None)
    if status == 0:
        calibration = load(tmp_path / "on" / "candidate-a")[0].calibration
        curve = LengthDistribution.from_survival(calibration.apply(curves_of(100, 1))[0])
        assert curve.quantile(0.25) == pytest.approx(LengthDistribution(curves_of(100, 1)[0]).quantile(1 / 3), rel=0.1)
    home.close()


@pytest.fixture
def attentive(tmp_path: Path) -> Path:
    """An attention predictor that knows nothing of prompts: lengths of about 100."""
    plain = attention().arrays()
    curve = curves_of(100, 1)[0]
    hazards = np.clip(1 - curve[1:51] / curve[:50], 1e-4, 1 - 1e-4)
    model = type(attention())(
        {**plain, "vocabulary": plain["vocabulary"], "decode": np.zeros((5, 50)),
         "decode_bias": np.log(hazards / (1 - hazards))}
    )  # fmt: skip
    content = header()
    save(tmp_path / "base", Header(kind="attention", model="m", tokenizer="here", features=PLAIN,
                                   calibration=content.calibration), model)  # fmt: skip
    return tmp_path / "base"


def two_kinds(count: int) -> list[Answer]:
    """Prompts of token 1 are answered in about 60 tokens, those of token 2 in about 160; all differ."""
    rng = np.random.default_rng(0)
    rows = []
    for number, length in enumerate(rng.lognormal(0.0, 0.2, count).tolist()):
        kind = number % 2
        prompt = [1 + kind] * 3 + rng.integers(3, 7, 5).tolist()
        rows.append(Answer.of(Query("", prompt, 5000), PLAIN, round(length * (160 if kind else 60)), False))
    return rows


def test_the_attention_net_is_trained_on_from_where_it_is(
    tmp_path: Path, attentive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presize.predict.online.retrain._EPOCHS", 10)
    monkeypatch.setattr("presize.predict.online.retrain._RATE", 1e-2)
    home = prepared(tmp_path / "on", attentive, two_kinds(900))
    calls: list[int] = []
    assert retrain(tmp_path / "on", "candidate-a", lambda: calls.append(1)) == 0
    assert len(calls) > 50, "whether the parent is still there is asked at every step"
    found, model = load(tmp_path / "on" / "candidate-a")
    assert found.training["online_weights"] == "trained on"
    short, long = (
        LengthDistribution.from_survival(curve).quantile(0.5)
        for curve in found.calibration.apply(told(model, as_seen(two_kinds(2), PLAIN)))
    )
    assert short < 90 < 120 < long
    home.take_over(tmp_path / "on" / "candidate-a")
    monkeypatch.setattr("presize.predict.online.retrain._EPOCHS", 1)
    again = retrain(tmp_path / "on", "candidate-b", lambda: None)
    if again == 0:
        assert load(tmp_path / "on" / "candidate-b")[0].training["online_weights"] == "trained on"
    home.close()


def run(directory: Path, name: str, parent: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "presize.predict.online.retrain", str(directory), name, str(parent)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_as_a_process_it_is_humble_and_says_the_scores(tmp_path: Path) -> None:
    home = prepared(tmp_path / "on", make_base(tmp_path / "base"), answers(400, 150.0))
    done = run(tmp_path / "on", "candidate-a", os.getpid())
    assert (done.returncode, done.stdout) == (0, "")
    scores = json.loads(done.stderr)
    assert scores.keys() == {"before", "the base's"}
    assert 0.0 < scores["the base's"] < scores["before"] < 1.0
    home.close()


def test_an_orphan_ends_and_writes_nothing(tmp_path: Path) -> None:
    home = prepared(tmp_path / "on", make_base(tmp_path / "base"), answers(400, 150.0))
    done = run(tmp_path / "on", "candidate-a", 1)
    assert (done.returncode, done.stderr) == (ORPHAN, "")
    assert not list((tmp_path / "on").glob("*candidate*"))
    home.close()


def test_it_is_the_last_in_the_queue_for_the_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "nice", asked.append)
    monkeypatch.setattr("presize.predict.online.retrain.retrain", lambda *_: 7)
    assert main([str(tmp_path), "candidate-a", "1"]) == 7
    assert asked == [19]
