"""Ridge regression on log lengths of which some were cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from presize.core.lengths import FloatArray, IntArray
from presize.predict.linear import RESIDUALS, Linear, grams, weighted
from presize.predict.train.task import TRAINERS, Answers, Task

_LEAST_PROMPTS = 2  # in which a gram must occur
_MAX_GRAMS = 200_000
_ROUNDS = 4  # of Buckley and James's iteration
_GROUPS, _LEAST_GROUP = 5, 40
_DAMPING = 1.0
_PRIOR = 0.5  # answers that outlive all


def train_linear(task: Task) -> Linear:
    """A cut-off length stands for what is expected of a longer one, given the fit so far (Buckley and James 1979)."""
    from scipy.sparse import csr_matrix, hstack
    from scipy.sparse.linalg import lsqr

    answers = task.answers
    keys, rarity = _vocabulary(answers.prompts)
    rows = [weighted(prompt, keys, rarity) for prompt in answers.prompts]
    starts = np.concatenate([[0], np.cumsum([len(places) for places, _ in rows])])
    grams_of = csr_matrix(
        (np.concatenate([v for _, v in rows]), np.concatenate([p for p, _ in rows]), starts), (len(rows), len(keys))
    )
    design = hstack([grams_of, csr_matrix(answers.sides.astype(np.float64))]).tocsr()
    logs = np.log(answers.lengths)
    target = logs
    for turn in range(_ROUNDS):
        intercept = float(target.mean())
        weights = lsqr(design, target - intercept, damp=_DAMPING**0.5)[0]
        task.report("fitting", turn + 1, _ROUNDS)
        if not np.any(answers.censored):
            break
        expected = design @ weights + intercept
        target = np.where(answers.censored, expected + _mean_beyond(logs - expected, answers.censored), logs)
    arrays = {
        "keys": keys,
        "rarity": rarity,
        "weights": weights[: len(keys)],
        "side": weights[len(keys) :],
        "intercept": np.array([intercept]),
        "centres": np.arange(2.0),
        "residuals": np.zeros((2, RESIDUALS.size)),
    }
    return Linear({**arrays, **_spread(Linear(arrays), task.held_out)})


TRAINERS.register("linear")(train_linear)  # no decorator, which would hide what it returns


def _vocabulary(prompts: Sequence[IntArray]) -> tuple[IntArray, FloatArray]:
    """Grams of at least two prompts, the most frequent ones if they are many, and their idf."""
    every = np.concatenate([grams(prompt)[0] for prompt in prompts])
    keys, counts = np.unique(every, return_counts=True)
    kept = np.flatnonzero(counts >= min(_LEAST_PROMPTS, len(prompts)))
    kept = np.sort(kept[np.argsort(-counts[kept], kind="stable")[:_MAX_GRAMS]])
    return keys[kept], np.log((1.0 + len(prompts)) / (1.0 + counts[kept])) + 1.0


def _spread(model: Linear, held_out: Answers) -> dict[str, Any]:
    """The residuals of answers that were not fitted, in groups by what was expected of them."""
    expected = model.expected(held_out.prompts, held_out.sides)
    order = np.argsort(expected, kind="stable")
    groups = np.array_split(order, int(np.clip(len(order) // _LEAST_GROUP, 1, _GROUPS)))
    residuals = np.log(held_out.lengths) - expected
    curves = [_survival(residuals[group], held_out.censored[group]) for group in groups]
    centres = [float(expected[group].mean()) for group in groups]
    if len(groups) == 1:
        centres, curves = [centres[0], centres[0] + 1.0], curves * 2
    return {"centres": np.maximum.accumulate(centres) + 1e-6 * np.arange(len(centres)), "residuals": np.stack(curves)}


def _kaplan_meier(values: FloatArray, censored: Any) -> tuple[FloatArray, FloatArray]:
    """Sorted values, and the survival just after each."""
    order = np.lexsort((censored, values))
    at_risk = len(values) - np.arange(len(values)) + _PRIOR
    return values[order], np.cumprod(1.0 - np.where(censored[order], 0.0, 1.0) / at_risk)


def _survival(residuals: FloatArray, censored: Any) -> FloatArray:
    """(161,) survival of the residuals."""
    values, survival = _kaplan_meier(residuals, censored)
    return np.asarray(np.interp(RESIDUALS, values, survival, left=1.0))


def _mean_beyond(residuals: FloatArray, censored: Any) -> FloatArray:
    """(N,): E[residual | it is larger than this one]."""
    values, survival = _kaplan_meier(residuals, censored)
    before = np.concatenate([[1.0], survival[:-1]])
    mass = before - survival
    mass[-1] += survival[-1]  # the longest one counts as ended
    later = np.cumsum((mass * values)[::-1])[::-1]
    beyond = np.searchsorted(values, residuals, side="right")
    total = np.cumsum(mass[::-1])[::-1]
    last = len(values) - 1
    found = later[np.minimum(beyond, last)] / np.maximum(total[np.minimum(beyond, last)], 1e-12)
    return np.asarray(np.where(beyond > last, residuals, np.maximum(found, residuals)))
