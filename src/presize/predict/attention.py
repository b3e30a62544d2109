"""One self-attention layer over a prompt's tokens, queries that pool them, and a decoder that gives the hazards.

Vaswani et al. 2017 for the layer, cut to blocks: a token attends to the 64 tokens of its block and to the blocks
beside it, so that the time grows with the prompt and not with its square. Beside a token's own embedding stands one
of the pair that it makes with the token before it (hashed, as in fastText, Joulin et al. 2016). Learned by
`presize.predict.train.attention`; numpy alone here. N prompts, B blocks of C tokens, d width, M queries, K cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from presize.core.lengths import GRID, FloatArray, IntArray
from presize.errors import ModelError
from presize.predict.features import SIDES, Float32
from presize.predict.hazard import sigmoid, survival_of
from presize.predict.model import MODELS, Arrays, LengthModel, checked
from presize.predict.packing import BLOCK, Packed, pack, pair_rows, vocabulary_rows

HEADS = 2
PLACES = 16  # distances from either end of the prompt that have an embedding of their own
_TOGETHER = 4096  # tokens that are computed at once, which bounds the memory and stays in the cache
SOFT_CAP = 10.0  # scores of the pooling queries stay within +-this


@MODELS.register("attention")
class Attention(LengthModel):
    """Weights as `presize.predict.train.attention.AttentionNet` names them, and ``vocabulary``."""

    def __init__(self, arrays: Arrays) -> None:
        self._w, sizes = checked(arrays, _SHAPES)
        vocabulary = arrays.get("vocabulary", np.zeros(0))
        if vocabulary.shape != (sizes["V"] - 1,) or vocabulary.dtype.kind != "i" or (np.diff(vocabulary) <= 0).any():
            raise ModelError(f"the predictor's vocabulary must be {sizes['V'] - 1} token ids that rise")
        if (
            min(sizes["V"] - 1, sizes["P"], sizes["d"]) < 1
            or sizes["K"] >= GRID.size
            or sizes["P"] & (sizes["P"] - 1)
            or sizes["d"] % HEADS
            or sizes["E"] != 3 * sizes["d"]
            or sizes["I"] != sizes["M"] * sizes["d"] + len(SIDES)
        ):
            raise ModelError("the sizes of the predictor's weights do not fit together")
        self._vocabulary = vocabulary.astype(np.int64)

    @classmethod
    def restored(cls, arrays: Arrays, directory: Path) -> Attention:
        return cls(arrays)

    def arrays(self) -> Arrays:
        tables = {name: self._w[name].astype(np.float16) if name in _HALF else self._w[name] for name in _SHAPES}
        return {"vocabulary": self._vocabulary.astype(np.int32), **tables}

    def curves(self, prompts: Sequence[IntArray], sides: Float32) -> FloatArray:
        return survival_of(sigmoid(self.logits(prompts, sides)))

    def logits(self, prompts: Sequence[IntArray], sides: Float32) -> Float32:
        """(N, K) hazard logits."""
        found = np.empty((len(prompts), self._w["decode"].shape[1]), dtype=np.float32)
        for rows in _together(np.array([len(prompt) for prompt in prompts])):
            found[rows] = self._decode(self._run([prompts[i] for i in rows])[0], sides[rows])
        return found

    def attention(self, prompt: IntArray) -> FloatArray:
        """(n,) share of the pooling that each token gets, mean over the queries; sums to 1."""
        _, weights, packed = self._run([prompt])
        return np.asarray(weights.mean(axis=1)[packed.real], dtype=np.float64)

    def _run(self, prompts: Sequence[IntArray]) -> tuple[Float32, Float32, Packed]:
        """(N, M d) pooled, (B, M, C) pooling weights, packing."""
        w = self._w
        packed = pack([len(prompt) for prompt in prompts])
        joined = np.concatenate(prompts)
        near = np.minimum(packed.place, PLACES - 1)
        x = w["tokens"][vocabulary_rows(self._vocabulary, joined)]
        x += w["pairs"][pair_rows(joined, packed.place, len(w["pairs"]))]
        x += w["places"][0][near[0]]
        x += w["places"][1][near[1]]
        x_blocks = x[packed.rows]
        x_blocks[~packed.real] = 0.0
        x_blocks += self._attend(x_blocks, packed)
        return *self._pool(x_blocks, packed), packed

    def _attend(self, x: Float32, packed: Packed) -> Float32:
        """(B, C, d): each token's mix of what it attends to."""
        count, width, size = x.shape
        per_head = size // HEADS
        qkv = (x.reshape(-1, size) @ self._w["project"]).reshape(count, width, 3, HEADS, per_head)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # (B, H, C, d / H) each
        seen = packed.real
        if packed.context.shape[1] > 1:
            k, v = (_beside(part, packed.context) for part in (k, v))
            seen = np.concatenate([seen, np.zeros((1, width), dtype=bool)])[packed.context].reshape(count, -1)
        scores = q @ k.transpose(0, 1, 3, 2)
        scores *= np.float32(per_head**-0.5)
        scores += np.where(seen, np.float32(0.0), np.float32(-1e9))[:, None, None, :]
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        mixed = scores @ v
        mixed /= scores.sum(axis=-1, keepdims=True)
        return np.asarray(mixed.transpose(0, 2, 1, 3).reshape(-1, size) @ self._w["output"]).reshape(count, width, size)

    def _pool(self, x: Float32, packed: Packed) -> tuple[Float32, Float32]:
        """(N, M d) pooled, (B, M, C) weights that sum to 1 over a prompt's blocks."""
        weights = self._w["queries"] @ x.transpose(0, 2, 1)
        weights = np.exp(np.float32(SOFT_CAP) * np.tanh(weights / np.float32(SOFT_CAP)), dtype=np.float32)
        weights *= packed.real[:, None, :]
        mass = np.add.reduceat(weights.sum(axis=2), packed.first)
        pooled = np.asarray(np.add.reduceat(weights @ x, packed.first) / mass[..., None], dtype=np.float32)
        owner = np.searchsorted(packed.first, np.arange(len(x)), side="right") - 1
        weights /= mass[owner][..., None]
        return pooled.reshape(len(packed.first), -1), weights

    def _decode(self, pooled: Float32, sides: Float32) -> Float32:
        inner = np.concatenate([pooled, sides], axis=1) @ self._w["hidden"] + self._w["hidden_bias"]
        return np.asarray(np.maximum(inner, 0.0) @ self._w["decode"] + self._w["decode_bias"])


_SHAPES: dict[str, tuple[int | str, ...]] = {
    "tokens": ("V", "d"),
    "pairs": ("P", "d"),
    "places": (2, PLACES, "d"),
    "project": ("d", "E"),
    "output": ("d", "d"),
    "queries": ("M", "d"),
    "hidden": ("I", "h"),
    "hidden_bias": ("h",),
    "decode": ("h", "K"),
    "decode_bias": ("K",),
}
_HALF = ("tokens", "pairs", "hidden", "decode")  # nearly all of the bytes: stored in half precision


def _together(sizes: IntArray) -> list[IntArray]:
    """Row numbers in parts of similar sizes; prompts of one block, which attend to no other, are apart."""
    order = np.argsort(sizes, kind="stable")
    part = np.cumsum(sizes[order]) // _TOGETHER + (sizes[order] > BLOCK)
    return [rows for rows in np.split(order, np.flatnonzero(np.diff(part)) + 1) if rows.size]


def _beside(part: Float32, context: IntArray) -> Float32:
    """(B, H, W C, d / H): the keys or values of the blocks that each block attends to."""
    count, heads, width, per_head = part.shape
    empty = np.zeros((1, heads, width, per_head), dtype=np.float32)
    around = np.concatenate([part, empty])[context]  # (B, W, H, C, d / H)
    return around.transpose(0, 2, 1, 3, 4).reshape(count, heads, -1, per_head)
