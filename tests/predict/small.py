"""Small predictors with random weights, and what is asked of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from presize.predict.attention import PLACES, Attention
from presize.predict.base import Query
from presize.predict.calibration import Calibration
from presize.predict.features import Features
from presize.predict.learned import Learned
from presize.predict.linear import RESIDUALS, Linear
from presize.predict.store import Header

QUERIES = [Query("a", [1, 9, 2, 3, 7], 300, 0.5), Query("b", [5], 40), Query("c", list(range(90)), 9, 1.0, True)]


def attention() -> Attention:
    rng = np.random.default_rng(0)
    shapes = {
        "tokens": (8, 4), "pairs": (16, 4), "places": (2, PLACES, 4), "project": (4, 12), "output": (4, 4),
        "queries": (2, 4), "hidden": (12, 5), "hidden_bias": (5,), "decode": (5, 50), "decode_bias": (50,),
    }  # fmt: skip
    return Attention(
        {"vocabulary": np.arange(7), **{name: rng.normal(0, 0.5, shape) for name, shape in shapes.items()}}
    )


def linear(intercept: float = 4.0) -> Linear:
    rng = np.random.default_rng(1)
    return Linear({
        "keys": np.arange(1, 8), "rarity": np.ones(7), "weights": rng.normal(size=7), "side": rng.normal(size=4),
        "intercept": np.array([intercept]), "centres": np.array([1.0, 6.0]),
        "residuals": np.linspace(1.0, [0.0, 0.1], RESIDUALS.size, axis=1),
    })  # fmt: skip


def header(kind: str = "linear") -> Header:
    features = Features((1,), (7,), (2.0, 3.0, 0.5, 0.1), (1.0, 0.5, 2.0, 0.0))
    calibration = Calibration(tuple((np.linspace(0, 1, 41) ** 1.5).tolist()))
    return Header(kind=kind, model="some model", tokenizer="abc", features=features, calibration=calibration,
                  training={"rows": 7}, metrics={"mae": np.float64(1.5)}, licence="CC0-1.0")  # fmt: skip


def curves_of(directory: Path) -> np.ndarray:
    return Learned.load(directory, "abc").survival(QUERIES)
