"""`learn`: from a log to a predictor that can be stored, its held-out figures with it."""

from __future__ import annotations

import datetime
import time

from presize.errors import ConfigError, require
from presize.predict.calibration import Calibration, levels_of
from presize.predict.features import Features
from presize.predict.hazard import cells_up_to
from presize.predict.learned import Learned
from presize.predict.log import Log, ServedTokenizer
from presize.predict.metrics import evaluate
from presize.predict.model import Progress, StateModel
from presize.predict.store import Header
from presize.predict.train.task import TRAINERS, Answers, Recipe, Task

LEAST_ENDED = 50  # answers that were not cut off
LEAST_HELD_OUT = 5  # prompts; of fewer the figures say nothing, and neither does the epoch that is best on them


def learn(log: Log, tokenizer: ServedTokenizer, model: str, recipe: Recipe, report: Progress) -> tuple[Header, Learned]:
    """A calibrated predictor of ``recipe.kind``; ConfigError if the log is too small for one."""
    from presize.predict.train import attention, encoder, hidden, linear  # noqa: F401  they register their trainers

    trainer = TRAINERS.get(recipe.kind)
    require("scipy", "learn", "learning")
    check(log, recipe)
    started = time.monotonic()
    known, held_out = log.split(recipe.held_out, recipe.seed)
    if held_out.prompts < LEAST_HELD_OUT:
        raise ConfigError(
            f"prompts that are held out: {held_out.prompts} of {log.prompts}, at a share of {recipe.held_out:g}; at "
            f"least {LEAST_HELD_OUT} are needed: collect more prompts, or hold out a larger share"
        )
    check(known, recipe)
    features = Features.of(log.queries)
    task = Task(
        answers=Answers.of(known, features),
        held_out=Answers.of(held_out, features),
        cells=cells_up_to(int(log.lengths.max())),
        features=features,
        tokenizer=tokenizer,
        recipe=recipe,
        report=report,
    )
    net = trainer(task)
    plain = Learned(net, features, Calibration())
    levels = levels_of(plain.predict(held_out.queries), held_out.lengths, held_out.censored)
    predictor = Learned(net, features, Calibration.fit(levels, held_out.censored))
    seconds = time.monotonic() - started
    metrics = evaluate(predictor.predict(held_out.queries), held_out.lengths, held_out.censored)
    header = Header(
        kind=recipe.kind,
        model=model,
        tokenizer=tokenizer.fingerprint(),
        features=features,
        calibration=predictor.calibration,
        training={
            "rows": len(log),
            "held_out_rows": len(held_out),
            "censored_rows": int(log.censored.sum()),
            "longest_tokens": int(log.lengths.max()),
            "seed": recipe.seed,
            "seconds": round(seconds, 1),
            "date": datetime.date.today().isoformat(),
        },
        metrics=metrics,
    )
    return header, predictor


def check(log: Log, recipe: Recipe) -> None:
    """ConfigError if the log is too small, or the recipe asks for what can not be."""
    ended = int((~log.censored).sum())
    if ended < LEAST_ENDED:
        raise ConfigError(
            f"answers of the log that came to their own end: {ended}; at least {LEAST_ENDED} are needed beside those "
            "held out"
        )
    if recipe.teacher is None and recipe.prompts:
        raise ConfigError("prompts without answers need a teacher; name one with --teacher")
    if recipe.teacher is not None and recipe.kind != "attention":
        raise ConfigError(f"a teacher is of use to a predictor of kind attention only, not to {recipe.kind}")
    if recipe.teacher is not None and isinstance(recipe.teacher.model, StateModel):
        raise ConfigError("the teacher reads hidden states, which made-up prompts have none of; name an encoder")
