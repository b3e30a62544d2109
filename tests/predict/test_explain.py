"""What each word of a prompt does to the forecast, with predictors whose weights are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from explaining import FRAMED, attentive, bytes_reader, features, linear, word_reader

from presize.core.lengths import GRID, MAX_LENGTH, LengthDistribution
from presize.errors import ConfigError
from presize.predict import explain as module
from presize.predict.base import Query
from presize.predict.calibration import Calibration
from presize.predict.explain import MAX_WORDS, Reader, explain, shape, typical, without, words_of
from presize.predict.learned import Learned


@pytest.mark.parametrize("tokens", [1, 2, 31, 33, 500, 77_777])
def test_the_geometric_mean_of_a_known_length_is_that_length(tokens: int) -> None:
    assert typical(LengthDistribution.exactly(tokens)) == pytest.approx(tokens, rel=1e-9)


@pytest.mark.parametrize(("scale", "limit"), [(3.0, 1000), (40.0, 1000), (900.0, 333)])
def test_the_geometric_mean_is_the_mean_of_the_log(scale: float, limit: int) -> None:
    curve = LengthDistribution.from_survival(np.exp(-GRID / scale), limit)
    counts = np.arange(1, limit + 1)
    chances = curve.at(counts - 1) - curve.at(counts)
    assert chances.sum() == pytest.approx(1.0)
    assert typical(curve) == pytest.approx(np.exp(chances @ np.log(counts)), rel=2e-3)


def test_the_word_with_the_big_weight_has_the_big_effect_and_the_right_sign() -> None:
    found = explain(linear(), word_reader, "Write a long story please")
    effect = {word.text: word.effect or 0.0 for word in found.words}
    assert list(effect) == ["Write", "a", "long", "story", "please"]
    assert max(effect, key=lambda word: abs(effect[word])) == "long"
    assert effect["long"] > 5
    assert all(word.attention is None for word in found.words)
    found = explain(linear(), word_reader, "Write a long story briefly")
    effect = {word.text: word.effect or 0.0 for word in found.words}
    assert max(effect, key=lambda word: abs(effect[word])) == "briefly"
    assert effect["briefly"] < -5 < 5 < effect["long"]


def test_an_effect_is_the_difference_to_the_prompt_without_the_word_asked_in_one_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor, sizes = linear(), []
    curves = predictor.model.curves
    monkeypatch.setattr(predictor.model, "curves", lambda p, s: sizes.append(len(p)) or curves(p, s), raising=False)
    words = ["Write", "a", "long", "story"]
    found = explain(predictor, word_reader, " ".join(words), 300, 0.5)
    assert len(sizes) == 1

    def length(kept: list[str]) -> float:
        return typical(predictor.predict([Query("", word_reader.encode(" ".join(kept)), 300, 0.5)])[0])

    for i, word in enumerate(found.words):
        assert word.effect == pytest.approx(length(words) - length(words[:i] + words[i + 1 :]), abs=1e-9)


def test_the_batches_of_a_long_prompt_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(["Write a long story briefly"] * 6)
    expected = explain(linear(), word_reader, text)
    predictor = linear()
    asked: list[int] = []
    predict = predictor.predict
    monkeypatch.setattr(
        predictor, "predict", lambda q: asked.append(sum(len(x.prompt_token_ids) for x in q)) or predict(q)
    )
    monkeypatch.setattr(module, "_BATCH_TOKENS", 100)
    assert explain(predictor, word_reader, text).words == expected.words
    assert max(asked) <= 100
    monkeypatch.setattr(module, "_BATCH_TOKENS", 1)  # each prompt alone is more than that
    assert explain(predictor, word_reader, text).words == expected.words


def test_the_side_inputs_are_those_of_the_log_or_those_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = linear()
    asked: list[tuple[int, float]] = []
    predict = predictor.predict
    monkeypatch.setattr(
        predictor, "predict", lambda q: asked.extend((x.max_tokens, x.temperature) for x in q) or predict(q)
    )
    assert explain(predictor, word_reader, "long story").forecast.limit == 400
    assert set(asked) == {(400, 0.25)}
    asked.clear()
    assert explain(predictor, word_reader, "long story", 9, 0.0).forecast.limit == 9
    assert set(asked) == {(9, 0.0)}


@pytest.mark.parametrize("text", ["", " ", "\n\t \u3000\n"])
def test_a_prompt_without_words_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="prompt is empty"):
        explain(linear(), word_reader, text)


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="no tokens"):
        explain(linear(), Reader(lambda text: [], lambda ids: ""), "word")


def test_of_many_words_both_ends_are_explained() -> None:
    words = [f"w{i}" for i in range(MAX_WORDS + 51)]
    found = explain(Learned(attentive(), features(*FRAMED), Calibration()), bytes_reader(), " ".join(words))
    half = MAX_WORDS // 2
    assert [word.text for word in found.words] == words[:half] + words[-half:]
    assert found.left_out == 51
    assert 0.1 < sum(word.attention or 0.0 for word in found.words) < 1.0  # the others have the rest
    assert explain(linear(), word_reader, "long " * MAX_WORDS).left_out == 0


def test_a_megabyte_is_explained_as_if_it_had_been_read_whole() -> None:
    words = [f"word{i}" for i in range(105_000)]
    text = " ".join(words)
    assert len(text) > 1_000_000
    plain = bytes_reader()
    read = 0

    def encode(part: str) -> Sequence[int]:
        nonlocal read
        read += len(part)
        return plain.encode(part)

    predictor = Learned(attentive(), features(*FRAMED), Calibration())
    found = explain(predictor, Reader(encode, plain.decode), text)
    assert read < 8 * len(text)
    assert [word.text for word in found.words] == words[:100] + words[-100:]
    assert found.left_out == len(words) - 200

    def whole(part: str) -> LengthDistribution:
        return predictor.predict([Query("", np.frombuffer(bytes(plain.encode(part)), np.uint8), 400, 0.25)])[0]

    assert np.allclose(found.forecast.survival, whole(text).survival, rtol=1e-5)
    for i in (0, 57, -1):
        difference = typical(whole(text)) - typical(whole(without(text, words_of(text), i % len(words))))
        assert found.words[i].effect == pytest.approx(difference, abs=1e-3)


@pytest.mark.parametrize("text", ["a" * 10**6, "🙂" * 250_000, " " * 10**6 + "x", ("a" * 300_000 + "\n") * 3])
def test_a_megabyte_of_few_words(text: str) -> None:
    found = explain(Learned(attentive(), features(*FRAMED), Calibration()), bytes_reader(), text)
    assert 1 <= len(found.words) <= 3
    assert len(found.words) + found.left_out == len(text.split())
    assert max(len(word.text) for word in found.words) <= max(len(word) for word in text.split())


@pytest.mark.parametrize(
    ("text", "results"),
    [
        ("a b c", ["b c", "a c", "a b"]),
        ("a  b\n\nc d\n", ["b\n\nc d\n", "a\n\nc d\n", "a  b\n\nd\n", "a  b\n\nc\n"]),
        (" a\nb\n\tc", [" b\n\tc", " a\n\tc", " a\nb"]),
        ("  a  ", ["  "]),
    ],
)
def test_a_word_goes_with_the_lesser_white_space(text: str, results: list[str]) -> None:
    words = words_of(text)
    assert [without(text, words, i) for i in range(len(words))] == results


@pytest.mark.parametrize("limit", [1, 2, 100, MAX_LENGTH])
@pytest.mark.parametrize("scale", [0.2, 5.0, 3000.0])
def test_the_shape_of_a_curve_is_its_probabilities(scale: float, limit: int) -> None:
    curve = LengthDistribution.from_survival(np.exp(-GRID / scale), limit)
    low, high, shares = shape(curve, 40)
    assert 1 <= low <= high <= limit
    assert 1 <= len(shares) <= 40
    assert (shares >= 0).all()
    assert shares.sum() <= 1 + 1e-9
    if limit == MAX_LENGTH:
        assert shares.sum() > 0.98 - 1e-9
