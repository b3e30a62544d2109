"""One retraining of a predictor that learns online: python -m presize.predict.online.retrain DIR NAME PARENT

Reads DIR (see `online.home`) and writes DIR/NAME, a predictor, if it beats the current one on the newest
answers held out; ends with NOT_BETTER if not, and with ORPHAN once the process PARENT has gone. Of the prompts one
fold in five is held out to compare on. For every kind the current weights are calibrated again on the newest answers
of the others; for `attention` the net is also trained on, on three of them, and calibrated on the fourth.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from presize.core.lengths import GRID, FloatArray, IntArray, LengthDistribution
from presize.predict.attention import Attention
from presize.predict.calibration import Calibration, levels_of
from presize.predict.hazard import observed
from presize.predict.model import AnyModel, LengthModel
from presize.predict.online.bound import bounded
from presize.predict.online.drift import miss
from presize.predict.online.home import BASE, CURRENT, NOT_BETTER, ORPHAN, RESERVOIR
from presize.predict.online.reservoir import FOLDS, Reservoir, as_seen, newest
from presize.predict.store import load, save
from presize.predict.train.task import Answers, Recipe, Task

RECENT = 1_000  # answers, the newest, that are compared and calibrated on
LEAST_COMPARED = 20  # prompts
_COMPARED, _ASIDE = 0, 1  # folds
_WEIGHTS_KEY, _BASES, _TRAINED = "online_weights", "the base's", "trained on"  # in the header: how they came about
_EPOCHS, _RATE, _DECAY, _DROPOUT = 3, 5e-4, 0.05, 0.3
_BATCH = 64  # prompts
_WEIGHTS: FloatArray = np.diff(np.log1p(GRID))
_NICE = 19


@dataclass(frozen=True, slots=True)
class Candidate:
    """scores: (N,) `log_crps` of the answers compared on, coverage of their central 90 %."""

    weights: str
    model: AnyModel
    calibration: Calibration
    scores: FloatArray
    coverage: float


def main(arguments: Sequence[str]) -> int:
    """Exit status."""
    directory, name, parent = arguments
    if hasattr(os, "nice"):
        os.nice(_NICE)

    def alive() -> None:
        if os.getppid() != int(parent):
            sys.exit(ORPHAN)  # nobody would take the result over

    return retrain(Path(directory), name, alive)


def retrain(directory: Path, name: str, alive: Callable[[], None]) -> int:
    """Exit status; ``alive`` is called now and then, and may end the process."""
    base_header, base = load(directory / BASE)
    header, model = load(directory / CURRENT) if (directory / CURRENT).exists() else (base_header, base)
    rows = Reservoir.read(directory / RESERVOIR).answers()
    recent = newest(rows, RECENT)
    compared = [row for row in recent if row.fold == _COMPARED]
    prompts = [row.tokens.tobytes() for row in compared]
    if len(set(prompts)) < LEAST_COMPARED:
        return NOT_BETTER
    answers = as_seen(compared, header.features)
    base_told = told(base, answers)
    anchor = base_header.calibration.apply(base_told)

    def candidate(weights: str, model: AnyModel, raw: FloatArray, calibration: Calibration) -> Candidate:
        curves = bounded(calibration.apply(raw), anchor)
        return Candidate(weights, model, calibration, log_crps(curves, answers), coverage(curves, answers))

    def calibrated(weights: str, model: AnyModel, raw: FloatArray) -> Candidate:
        # not on answers that the weights were fitted to: there they look surer than they may be
        folds = {_ASIDE} if weights == _TRAINED else set(range(FOLDS)) - {_COMPARED}
        seen = as_seen([row for row in recent if row.fold in folds], header.features)
        curves = [LengthDistribution.from_survival(curve) for curve in told(model, seen)]
        levels = levels_of(curves, seen.lengths, seen.censored)
        return candidate(weights, model, raw, Calibration.fit(levels, seen.censored))

    weights = str(header.training.get(_WEIGHTS_KEY, _BASES))
    now_told = base_told if model is base else told(model, answers)
    before = candidate(weights, model, now_told, header.calibration)
    found = [calibrated(weights, model, now_told)]
    if isinstance(model, Attention):
        part = as_seen([row for row in rows if row.fold not in (_COMPARED, _ASIDE)], header.features)
        aside = as_seen([row for row in recent if row.fold == _ASIDE], header.features)
        if part.prompts and aside.prompts:
            trained = trained_on(model, part, aside, alive)
            found.append(calibrated(_TRAINED, trained, told(trained, answers)))
    best = min(found, key=lambda each: float(each.scores.mean()))
    alive()
    scores = {each.weights: float(each.scores.mean()) for each in found}
    print(json.dumps({"before": float(before.scores.mean()), **scores}), file=sys.stderr)
    if not beats(best.scores, before.scores, prompts):
        return NOT_BETTER
    figures = {
        "n": len(compared),
        "log_crps": float(best.scores.mean()),
        "log_crps_before": float(before.scores.mean()),
        "coverage_90": best.coverage,
        "coverage_90_before": before.coverage,
    }
    training = {**header.training, "online_answers": len(rows), _WEIGHTS_KEY: best.weights}
    new = replace(header, calibration=best.calibration, training=training, metrics=figures)
    save(directory / name, new, best.model)
    return 0


def told(model: AnyModel, answers: Answers) -> FloatArray:
    """(N, G) what the model says, not calibrated; a few prompts of similar length at once."""
    assert isinstance(model, LengthModel)
    curves = np.empty((len(answers.prompts), GRID.size))
    order = np.argsort([len(prompt) for prompt in answers.prompts], kind="stable")
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        curves[rows] = model.curves([answers.prompts[i] for i in rows], answers.sides[rows])
    return curves


def log_crps(curves: FloatArray, answers: Answers) -> FloatArray:
    """(N,) continuous ranked probability scores of log(1 + length); less is better.

    Up to where the answer was cut off, or would have been: what lies beyond was not seen. No answer weighs more than
    the log of its own length, however wrong its forecast.
    """
    lengths = answers.lengths[:, None]
    ends = np.array([query.max_tokens for query in answers.queries])[:, None]
    seen = GRID[:-1] < np.where(answers.censored[:, None], np.minimum(lengths, ends), ends)
    wrong = (1.0 - curves[:, :-1]) - (lengths <= GRID[:-1])
    return np.asarray((wrong**2 * seen) @ _WEIGHTS)


def beats(new: FloatArray, old: FloatArray, prompts: Sequence[bytes]) -> bool:
    """Whether the mean gain exceeds its standard error; the answers to one prompt count as one."""
    _, owner = np.unique(np.array(prompts, dtype=object), return_inverse=True)
    gains = np.bincount(owner, old - new) / np.bincount(owner)
    return bool(gains.mean() > gains.std() / np.sqrt(len(gains)))


def coverage(curves: FloatArray, answers: Answers) -> float:
    """Share of the answers within their central 90 %; see `online.drift.miss`."""
    rows = zip(curves, answers.lengths.tolist(), answers.censored.tolist(), strict=True)
    return 1.0 - float(np.mean([miss(curve, length, cut) for curve, length, cut in rows]))


def trained_on(model: Attention, part: Answers, aside: Answers, alive: Callable[[], None]) -> Attention:
    """Some epochs on ``part`` from these weights on; the best of them by the loss on ``aside``."""
    import torch

    from presize.predict.train.attention import AttentionNet
    from presize.predict.train.loop import Schedule, Targets, fit, hazard_loss, loss_of

    torch.set_num_threads(1)
    torch.manual_seed(0)
    arrays = model.arrays()
    cells = arrays["decode_bias"].size
    net = AttentionNet(
        arrays["vocabulary"], np.zeros(cells), dropout=_DROPOUT, width=arrays["tokens"].shape[1],
        pairs=len(arrays["pairs"]), queries=len(arrays["queries"]), hidden=arrays["hidden"].shape[1],
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(torch.from_numpy(arrays[name].astype(np.float32)))
    targets = Targets.of(*observed(part.lengths, part.censored, cells))
    aside_loss = hazard_loss(aside, cells)

    def inputs(rows: IntArray) -> tuple[Any, ...]:
        return *net.inputs([part.prompts[i] for i in rows]), torch.from_numpy(part.sides[rows])

    def validate() -> float:
        logits = net.stored().logits(aside.prompts, aside.sides)
        return float(aside_loss(torch.from_numpy(logits), torch.arange(len(logits))))

    task = Task(
        answers=part, held_out=aside, cells=cells, features=cast(Any, None), tokenizer=cast(Any, None),
        recipe=Recipe(), report=lambda *_: alive(),
    )  # fmt: skip
    sizes = np.array([len(prompt) for prompt in part.prompts])
    optimizer = torch.optim.AdamW(net.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = Schedule(epochs=_EPOCHS, batch_size=_BATCH, patience=1)
    fit(net, inputs, sizes, lambda logits, rows: loss_of(logits, targets[rows]), validate, optimizer, schedule, task)
    return net.stored()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
