"""A small predictor to go on learning from, and traffic for it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from presize.config import SchedulerOptions
from presize.predict.base import Query
from presize.predict.calibration import Calibration
from presize.predict.features import Features
from presize.predict.linear import RESIDUALS, Linear
from presize.predict.online import Online
from presize.predict.store import Header, save

PLAIN = Features((), (), (0.0,) * 4, (0.0,) * 4)
SPREAD = 0.5  # of the log of a length


def linear(median: float, spread: float = SPREAD) -> Linear:
    """Lengths are lognormal, whatever the prompt."""
    survival = np.array([0.5 * math.erfc(x / spread / math.sqrt(2.0)) for x in RESIDUALS])
    return Linear({
        "keys": np.array([1], dtype=np.int64), "rarity": np.ones(1), "weights": np.zeros(1), "side": np.zeros(4),
        "intercept": np.array([np.log(median)]), "centres": np.array([0.0, 1.0]),
        "residuals": np.stack([survival, survival]),
    })  # fmt: skip


def header(calibration: Calibration | None = None) -> Header:
    return Header(
        kind="linear", model="m", tokenizer="here", features=PLAIN, calibration=calibration or Calibration()
    )  # fmt: skip


def make_base(directory: Path, median: float = 100.0) -> Path:
    save(directory, header(), linear(median))
    return directory


def queries(count: int, seed: int = 0, tenant: str = "") -> list[Query]:
    """Of differing prompts."""
    prompts = np.random.default_rng(seed).integers(0, 1000, (count, 6)).tolist()
    return [Query(f"{seed}-{i}", prompt, 10_000, tenant=tenant) for i, prompt in enumerate(prompts)]


def lengths(count: int, median: float, seed: int = 0) -> list[int]:
    return [max(round(x), 1) for x in np.random.default_rng(seed).lognormal(np.log(median), SPREAD, count).tolist()]


def serve(online: Online, count: int, median: float, seed: int = 0, tenant: str = "") -> None:
    """One request after another: forecast, answered, learned from."""
    for query, length in zip(queries(count, seed, tenant), lengths(count, median, seed), strict=True):
        online.predict([query])
        online.observe(query, length, censored=False)


def opened(directory: Path, base: Path, **changes: Any) -> Online:
    """Without a thread: nothing is done until `learner.turn`."""
    return Online(directory, base, SchedulerOptions(), background=False, **changes)


def finish(online: Online) -> None:
    """Wait for the retraining that runs, and look after it."""
    assert online.learner.retraining is not None
    online.learner.retraining.process.wait(120)
    online.learner.turn()
