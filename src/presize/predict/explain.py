"""Why a forecast is what it is: what each word of the prompt does to it, and how much the model attends to it.

What a word does is measured by occlusion: the predictor is asked again for the prompt without the word. Compared is
the geometric mean of the length, not the median: medians are whole numbers and stick at max_tokens, so they tie where
the curves differ. n tokens, W words.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from presize.core.lengths import GRID, MAX_LENGTH, FloatArray, IntArray, LengthDistribution
from presize.errors import ConfigError
from presize.predict.attention import Attention
from presize.predict.base import Query
from presize.predict.features import MAX_READ, Features
from presize.predict.learned import Learned

MAX_WORDS = 200  # that are explained; of a longer prompt those at both ends
_ENDS = (3 * 2**12, 2**16)  # characters kept at each end of a prompt that is too long to be read whole
_BATCH_TOKENS = 2**16  # tokens asked about in one call, which bounds the memory; nearly every prompt needs one call
_LONGEST_PIECE = 32  # tokens that are decoded together while the end is no whole character yet
_PARTIAL = "\ufffd"  # what decoders put for a part of a character

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Word:
    """before: white space in front of it. attention: share of what the prompt's words get, None if the model has none.
    effect: tokens by which the word makes the geometric mean length longer (or shorter, if negative); None if without
    it nothing is left to ask about.
    """

    text: str
    before: str
    attention: float | None
    effect: float | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """left_out: words between the first and the last half of ``words`` that were not looked at."""

    forecast: LengthDistribution
    words: tuple[Word, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class Reader:
    """Text of a prompt to tokens, with what the model puts around it; and tokens to text, special ones left out."""

    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]


def explain(
    predictor: Learned, reader: Reader, text: str, max_tokens: int | None = None, temperature: float | None = None
) -> Explanation:
    """``max_tokens``, ``temperature``: by default those of the log that ``predictor`` was learned from, on average.

    ConfigError if the prompt has no words, or no tokens.
    """
    spans = words_of(text)
    if not spans:
        raise ConfigError("the prompt is empty; give at least one word")
    typical_max, typical_temperature = predictor.features.mean[1:3]
    limit = round(np.exp(np.clip(typical_max, 0.0, np.log(MAX_LENGTH)))) if max_tokens is None else max_tokens
    heat = max(typical_temperature, 0.0) if temperature is None else temperature

    def asked(ids: Sequence[int]) -> Query:
        return Query("", ids, limit, heat)

    whole = asked(reader.encode(text))
    if not len(whole.prompt_token_ids):
        raise ConfigError("the prompt makes no tokens; give at least one word that the model knows")
    short, query = text, whole
    if len(whole.prompt_token_ids) > MAX_READ:
        short, query = _shortened(text, spans, whole, predictor.features, lambda t: asked(reader.encode(t)))
    places = words_of(short)
    chosen = [*range(len(places))]
    if len(places) > MAX_WORDS:
        chosen = [*chosen[: MAX_WORDS // 2], *chosen[-MAX_WORDS // 2 :]]
    rest = [reader.encode(without(short, places, i)) if len(places) > 1 else [] for i in chosen]
    left = [asked(ids) for ids in rest if len(ids)]
    forecast, *curves = _forecasts(predictor, [whole, query, *left])
    base, *others = (typical(curve) for curve in curves)
    lengths = iter(others)
    effects = [base - next(lengths) if len(ids) else None for ids in rest]
    shares = _attention(predictor, reader, query, [short[a:b] for a, b in places])
    words = tuple(
        Word(
            short[slice(*places[i])],
            short[places[i - 1][1] if i else 0 : places[i][0]],
            None if shares is None else float(shares[i]),
            effect,
        )
        for i, effect in zip(chosen, effects, strict=True)
    )
    return Explanation(forecast, words, max(len(spans) - len(words), 0))


def words_of(text: str) -> list[Span]:
    """(start, end) of what white space separates."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def without(text: str, words: Sequence[Span], i: int) -> str:
    """``text`` without word ``i`` and the lesser of the white spaces around it, so that lines and paragraphs stay."""
    start, end = words[i]
    before = words[i - 1][1] if i else 0
    after = words[i + 1][0] if i + 1 < len(words) else len(text)
    gaps = text[before:start], text[end:after]
    kept = gaps[0] if i == 0 else gaps[1] if i + 1 == len(words) else max(gaps, key=lambda g: (g.count("\n"), len(g)))
    return text[:before] + kept + text[after:]


def typical(curve: LengthDistribution) -> float:
    """Geometric mean of the length, which is the mean over all quantiles on a log scale; tokens.

    E[log L] is the sum of S(t) log((t + 1) / t) over t >= 1, taken cell by cell; exact where cells are one token wide.
    """
    steps = np.append(GRID[1 : np.searchsorted(GRID, curve.limit)], curve.limit)
    height = LengthDistribution(curve.survival).at(steps)  # just before the cut-off, too
    high, low = height[:-1], height[1:]
    mean = 0.5 * (high + low + (high - low) / np.diff(steps))
    return float(np.exp(mean @ np.diff(np.log(steps))))


def shape(curve: LengthDistribution, most: int) -> tuple[int, int, FloatArray]:
    """(low, high, probabilities) in at most ``most`` equal steps of the log, from the 1 % to the 99 % quantile.

    What is cut off at the limit is not in it. Steps are at least as wide as the grid's, or there would be gaps.
    """
    low, high = curve.quantile(0.01), curve.quantile(0.99)
    start, end = low - 0.5, high + 0.5  # a length n stands for all from n - 1/2 to n + 1/2
    bins = int(np.clip(np.log(end / start) / np.log(1.1), 1, most))
    height = np.interp(np.geomspace(start, end, bins + 1) - 0.5, GRID, curve.survival)
    return low, high, height[:-1] - height[1:]


def _forecasts(predictor: Learned, queries: Sequence[Query]) -> list[LengthDistribution]:
    """In as few calls as `_BATCH_TOKENS` allows."""
    curves: list[LengthDistribution] = []
    sizes = np.cumsum([min(len(query.prompt_token_ids), MAX_READ) for query in queries])
    while (start := len(curves)) < len(queries):
        before = sizes[start - 1] if start else 0
        end = max(int(np.searchsorted(sizes, before + _BATCH_TOKENS, side="right")), start + 1)
        curves += predictor.predict(queries[start:end])
    return curves


def _shortened(
    text: str, words: Sequence[Span], whole: Query, features: Features, ask: Callable[[str], Query]
) -> tuple[str, Query]:
    """Both ends of a prompt, of which the predictor reads the same tokens, so that a megabyte is not read W times."""
    short, query = text, whole
    for size in _ENDS:
        if len(text) <= 2 * size:
            return text, whole
        last = bisect_right(words, size, key=lambda span: span[1])  # words that end in the first part
        first = bisect_left(words, len(text) - size, key=lambda span: span[0])
        head = words[last - 1][1] if last else size  # not within a word, if that can be helped
        tail = words[first][0] if first < len(words) else len(text) - size
        one = not last and first == len(words) == 1
        short = text[:head] + ("" if one else "\n") + text[tail:]
        query = ask(short)
        if np.array_equal(features.tokens(query), features.tokens(whole)):
            break
    return short, query


def _attention(predictor: Learned, reader: Reader, query: Query, words: Sequence[str]) -> FloatArray | None:
    """(W,) shares that sum to 1; None if the model has no attention, or none of it is on the words.

    Tokens and words meet in the characters that are no white space: decoding may change only the others.
    """
    if not isinstance(predictor.model, Attention):
        return None
    read = predictor.features.tokens(query)
    ids = np.asarray(query.prompt_token_ids, dtype=np.int64)
    weights = _placed(predictor.model.attention(read), read, ids, predictor.features)
    extents = _extents(ids, reader.decode)
    probes = [_visible(reader.decode(reader.encode(text))) for text in "01"]  # they differ in the prompt alone
    head = _shared(*probes)
    total = max(end for _, end in extents)
    tail = total - _shared(*(probe[::-1] for probe in probes))
    shares = np.zeros(total + 1)
    for (start, end), weight in zip(extents, weights, strict=True):
        if end > start:
            shares[start:end] += weight / (end - start)
        elif head < start < tail:  # white space goes with what follows; around the prompt it is the template's
            shares[start] += weight
    sizes = np.cumsum([0] + [len(word) for word in words])
    edges = head + sizes * (max(tail - head, 0) / sizes[-1])  # the factor is 1 but for tokenizers that normalise
    found = np.diff(np.interp(edges, np.arange(total + 2), np.concatenate([[0.0], np.cumsum(shares)])))
    return np.asarray(found / found.sum()) if found.sum() > 0 else None


def _extents(ids: IntArray, decode: Callable[[Sequence[int]], str]) -> list[Span]:
    """(start, end) of each token, in characters that are no white space; tokens that share a character overlap."""
    found: list[Span] = []
    piece: list[int] = []
    done = reached = 0  # whole characters before the piece, and so far
    for token in ids.tolist():
        piece.append(token)
        text = decode(piece)
        whole = text.rstrip(_PARTIAL)
        start, reached = reached, max(done + len(_visible(whole)), reached)
        partial = len(whole) < len(text)
        found.append((start, reached + partial))
        if len(piece) == _LONGEST_PIECE and partial:  # the prompt itself holds such characters
            partial, reached = False, done + len(_visible(text))
        if not partial:
            done, piece = reached, []
    return found


def _placed(values: FloatArray, read: IntArray, ids: IntArray, features: Features) -> FloatArray:
    """(len(ids),) values of the tokens that were read, 0 for the others: a frame, or the middle of a long prompt."""
    prefix, suffix = features.prefix, features.suffix  # left out if they are there, as `Features.tokens` does
    start = len(prefix) if len(ids) > len(prefix) and tuple(ids[: len(prefix)]) == prefix else 0
    end = len(ids) - len(suffix)
    if end <= start or tuple(ids[end:]) != suffix:
        end = len(ids)
    half = len(read) // 2
    placed = np.zeros(len(ids))
    placed[start : start + half] = values[:half]
    placed[end - len(read) + half : end] = values[half:]
    return placed


def _shared(first: str, second: str) -> int:
    """Characters with which both begin."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _visible(text: str) -> str:
    return "".join(text.split())
