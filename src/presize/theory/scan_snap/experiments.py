"""The paper's synthetic experiments by name, with the settings of its official code."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from presize.errors import ConfigError
from presize.theory.scan_snap.data import Classes, FloatArray, official
from presize.theory.scan_snap.dynamics import Settings, State, descend

Report = Callable[[str, int, int], None]

MOMENTUM, BATCH_SIZE, STEPS, LENGTH = 0.9, 128, 100, 128
PANELS = ((1, 2), (3, 6), (5, 10), (10, 20))  # of Fig. 6: queries, classes (two next tokens to each query)
RATES = (0.5, 1.0, 2.0, 3.0)  # eta_Z
RATIOS = (1.0, 2.0, 5.0, 10.0)  # eta_Y / eta_Z
SEEDS = 10


@dataclass(frozen=True, slots=True)
class Trace:
    """One run, seen at R steps: loss (R,), and of the attention of each class (R, K, C) what is derived below."""

    classes: Classes
    steps: tuple[int, ...]
    loss: FloatArray
    attention: FloatArray
    growth: FloatArray  # (R, K) chi = exp(2 (z(t) - z(0))) of the dominant distinct token of each class

    @property
    def entropy(self) -> FloatArray:
        """(R,) nats; see `distinct_entropy`."""
        return distinct_entropy(self.classes, self.attention)

    @property
    def common_mass(self) -> FloatArray:
        """(R,) attention on common tokens, mean over classes."""
        return np.asarray(self.attention[..., self.classes.owners > 1].sum(axis=-1).mean(axis=-1))


def distinct_entropy(classes: Classes, attention: FloatArray) -> FloatArray:
    """(...,) nats, of attention (..., K, C): over a class's distinct tokens, made to add up to 1; mean over classes.

    Fig. 6's measure, of c_n in the limit of long sequences. At Z = 0 the official classes have 2.151.
    """
    own = np.where(classes.distinct, attention, 0.0)
    own = own / own.sum(axis=-1, keepdims=True)
    return np.asarray(-(own * np.log(np.where(own > 0, own, 1.0))).sum(axis=-1).mean(axis=-1))


def trace(
    classes: Classes, settings: Settings, start: State, steps: int, seed: int = 0, every: int = 1,
    report: Report = lambda stage, done, total: None,
) -> Trace:  # fmt: skip
    """Watch the first run of ``start`` every so many steps, and at the end."""
    if every < 1:
        raise ConfigError(f"every is {every}; it must be at least 1")
    dominant, before = classes.dominant, start.scores[0].copy()
    seen, losses, attention, growth = [], [], [], []
    for step, state, loss in descend(classes, settings, start, steps, seed):
        report("training", step, steps)
        if step % every and step != steps:
            continue
        seen.append(step)
        losses.append(float(loss[0]))
        attention.append(classes.attention(state.scores[0]))
        growth.append(np.exp(2 * (state.scores[0] - before)[classes.query, dominant]))
    return Trace(classes, tuple(seen), np.array(losses), np.array(attention), np.array(growth))


def syn_small(
    *, eta_z: float = 1.0, ratio: float = 1.0, optimizer: str = "sgd", steps: int = STEPS, seed: int = 2,
    every: int = 1, report: Report = lambda stage, done, total: None,
) -> Trace:  # fmt: skip
    """Two classes, each with its own query; M = 34; all from zero. With Adam the rates are usually 0.1 to 1."""
    classes = official(2, 1)
    settings = _settings([eta_z], [ratio], optimizer)
    return trace(classes, settings, State.zero(classes), steps, seed, every, report)


def _settings(eta_z: Sequence[float], ratios: Sequence[float], optimizer: str = "sgd") -> Settings:
    return Settings(
        eta_y=tuple(z * ratio for z, ratio in zip(eta_z, ratios, strict=True)),
        eta_z=tuple(eta_z),
        optimizer="adam" if optimizer == "adam" else "sgd",
        momentum=MOMENTUM if optimizer == "sgd" else 0.0,
        batch_size=BATCH_SIZE,
        length=LENGTH,
    )


@dataclass(frozen=True, slots=True)
class Cell:
    """Final entropy of attention on distinct tokens: mean over seeds, and its standard error (0 for one seed)."""

    queries: int
    classes: int
    eta_z: float
    ratio: float
    entropy: float
    error: float


def syn_medium(
    panels: Sequence[tuple[int, int]] = PANELS, rates: Sequence[float] = RATES, ratios: Sequence[float] = RATIOS,
    seeds: int = SEEDS, report: Report = lambda stage, done, total: None,
) -> list[Cell]:  # fmt: skip
    """Fig. 6: the grid of panels, eta_Z and ratios. Cells of one seed share their start and their data.

    They are stacked, so that a step of all of them is a few matrix products.
    """
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; it must be at least 1")
    pairs = [(z, ratio) for z in rates for ratio in ratios]
    settings = _settings([z for z, _ in pairs], [ratio for _, ratio in pairs])
    cells = []
    for number, (queries, count) in enumerate(panels):
        if count % queries:
            raise ConfigError(f"{count} classes can not be dealt out to {queries} queries")
        classes = official(queries, count // queries)
        found = np.empty((seeds, len(pairs)))
        for seed in range(1, seeds + 1):
            report("training", number * seeds + seed - 1, len(panels) * seeds)
            start = State.uniform(classes, len(pairs), np.random.default_rng([seed, count]))
            deque(descend(classes, settings, start, STEPS, seed), maxlen=0)  # changes ``start`` in place
            found[seed - 1] = distinct_entropy(classes, classes.attention(start.scores))
        errors = found.std(axis=0, ddof=1) / seeds**0.5 if seeds > 1 else np.zeros(len(pairs))
        cells += [
            Cell(queries, count, z, ratio, float(mean), float(error))
            for (z, ratio), mean, error in zip(pairs, found.mean(axis=0), errors, strict=True)
        ]
    return cells
