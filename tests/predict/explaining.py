"""Predictors whose weights are known and readers of which every token is known, to be explained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from presize.core.lengths import GRID
from presize.predict.attention import PLACES, Attention
from presize.predict.calibration import Calibration
from presize.predict.explain import Reader
from presize.predict.features import Features
from presize.predict.learned import Learned
from presize.predict.linear import RESIDUALS, Linear

FRAMED = (b"<user>\n", b"\n<answer>")  # a template around the prompt, in bytes
LOG = (2.0, float(np.log(400.0)), 0.25, 0.0)  # means of the side inputs


def bytes_reader(frame: tuple[bytes, bytes] = FRAMED) -> Reader:
    """A token a byte, so that most characters are several tokens and no token alone is one of them."""
    return Reader(
        lambda text: list(frame[0] + text.encode() + frame[1]),
        lambda ids: bytes(ids).decode(errors="replace"),
    )


def features(prefix: bytes = b"", suffix: bytes = b"") -> Features:
    return Features(tuple(prefix), tuple(suffix), LOG, (0.0,) * 4)


WORDS = ["Write", "a", "long", "story", "briefly", "please"]
WEIGHTS = {"long": 1.0, "story": 0.3, "briefly": -1.2, "Write": 0.01, "a": 0.0, "please": 0.0}
word_reader = Reader(
    lambda text: [WORDS.index(word) for word in text.split()], lambda ids: " ".join(WORDS[i] for i in ids)
)


def linear() -> Learned:
    """A weight for each of WORDS; log length is e +- 0.5 around what is expected."""
    spread = np.clip(0.5 - RESIDUALS, 0.0, 1.0)
    model = Linear({
        "keys": np.arange(len(WORDS)), "rarity": np.ones(len(WORDS)), "weights": np.array([WEIGHTS[w] for w in WORDS]),
        "side": np.zeros(4), "intercept": np.array([4.0]), "centres": np.array([0.0, 9.0]),
        "residuals": np.stack([spread, spread]),
    })  # fmt: skip
    return Learned(model, features(), Calibration())


def attentive(seed: int = 0) -> Attention:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "tokens": (257, 4), "pairs": (16, 4), "places": (2, PLACES, 4), "project": (4, 12), "output": (4, 4),
        "queries": (2, 4), "hidden": (12, 5), "hidden_bias": (5,), "decode": (5, 50), "decode_bias": (50,),
    }  # fmt: skip
    weights = {name: rng.normal(0, 0.7, size) for name, size in shapes.items()}
    return Attention({"vocabulary": np.arange(256), **weights})


class Spot(Attention):
    """Attends to one token alone."""

    def __init__(self, token: int) -> None:
        self._token = token

    def curves(self, prompts: Sequence[Any], sides: Any) -> Any:
        return np.ones((len(prompts), GRID.size))

    def attention(self, prompt: Any) -> Any:
        return (np.arange(len(prompt)) == self._token).astype(np.float64)
