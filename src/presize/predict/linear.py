"""Words and word pairs, weighted by rarity, and one weight each for the log of the length.

The cheapest learned predictor: tf-idf of tokens and token pairs, ridge regression on log length; the spread is that
of the residuals, by how long the answer is expected to be. Learned by `presize.predict.train.linear`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from presize.core.lengths import GRID, FloatArray, IntArray
from presize.errors import ModelError
from presize.predict.features import Float32
from presize.predict.model import MODELS, Arrays, LengthModel, checked

RESIDUALS: FloatArray = np.linspace(-4.0, 4.0, 161)  # log of length minus log of what was expected
_LOG_GRID: FloatArray = np.log(np.maximum(GRID, 0.5))
_PAIR = 1 << 31


def grams(tokens: IntArray) -> tuple[IntArray, FloatArray]:
    """Keys of the tokens and pairs that are there, and 1 + log of how often."""
    pairs = (tokens[:-1] + 1) * _PAIR + tokens[1:]
    keys, counts = np.unique(np.concatenate([tokens, pairs]), return_counts=True)
    return keys, 1.0 + np.log(counts)


def lookup(keys: IntArray, known: IntArray) -> tuple[IntArray, IntArray]:
    """(positions in ``keys``, their places in the sorted ``known``) of those that are in both."""
    if not len(known):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    hits = np.flatnonzero(known[places] == keys)
    return hits, places[hits]


def weighted(tokens: IntArray, known: IntArray, rarity: FloatArray) -> tuple[IntArray, FloatArray]:
    """(places, values) of the tf-idf vector of one prompt, of length 1 (or empty)."""
    keys, counts = grams(tokens)
    hits, places = lookup(keys, known)
    values = counts[hits] * rarity[places]
    return places, values / max(float(np.sqrt(values @ values)), 1e-12)


@MODELS.register("linear")
class Linear(LengthModel):
    """weights (F,) of the grams ``keys`` (F,), rarity (F,) their idf; side (4,), intercept (1,); centres (Q,) expected
    log lengths, for which residuals (Q, 161) holds the survival of RESIDUALS.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._w, sizes = checked(arrays, _SHAPES)
        keys = arrays.get("keys", np.zeros(0))
        if keys.shape != (sizes["F"],) or keys.dtype != np.int64 or (np.diff(keys) <= 0).any():
            raise ModelError(f"the predictor's keys must be {sizes['F']} 64-bit numbers that rise")
        self._keys = keys
        if sizes["Q"] < 2 or (np.diff(self._w["centres"]) <= 0).any():
            raise ModelError("the predictor's centres must be at least two numbers that rise")

    @classmethod
    def restored(cls, arrays: Arrays, directory: Path) -> Linear:
        return cls(arrays)

    def arrays(self) -> Arrays:
        return {"keys": self._keys, **self._w}

    def expected(self, prompts: Sequence[IntArray], sides: Float32) -> FloatArray:
        """(N,) expected log length."""
        w = self._w
        found = sides.astype(np.float64) @ w["side"] + w["intercept"][0]
        for i, prompt in enumerate(prompts):
            places, values = weighted(prompt, self._keys, w["rarity"])
            found[i] += values @ w["weights"][places]
        return np.asarray(found)

    def curves(self, prompts: Sequence[IntArray], sides: Float32) -> FloatArray:
        expected = self.expected(prompts, sides)
        centres, residuals = self._w["centres"], self._w["residuals"]
        low = np.clip(np.searchsorted(centres, expected) - 1, 0, len(centres) - 2)
        part = np.clip((expected - centres[low]) / (centres[low + 1] - centres[low]), 0.0, 1.0)[:, None]
        spread = residuals[low] * (1.0 - part) + residuals[low + 1] * part  # (N, 161)
        distance = _LOG_GRID - expected[:, None]
        curves = np.stack([np.interp(d, RESIDUALS, s, left=1.0) for d, s in zip(distance, spread, strict=True)])
        beyond = distance > RESIDUALS[-1]
        curves *= np.exp(RESIDUALS[-1] - np.where(beyond, distance, RESIDUALS[-1]))
        curves[:, 0] = 1.0  # no answer is shorter than a token
        return curves


_SHAPES: dict[str, tuple[int | str, ...]] = {
    "rarity": ("F",),
    "weights": ("F",),
    "side": (4,),
    "intercept": (1,),
    "centres": ("Q",),
    "residuals": ("Q", RESIDUALS.size),
}
