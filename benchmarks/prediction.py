"""Every predictor on the same answers: five folds of Vicuna-7B's real lengths, or a log with others to compare on.

The attention predictor is learned from the fold's own encoder, so that no test prompt was seen by either. With --log
there are no folds: what `learn` holds out of it is measured on, and every log of --test. What was learned is kept in
--work, so the command goes on where it was stopped.

python benchmarks/prediction.py --save
python benchmarks/prediction.py --draws 4 --entries linear,encoder,attention --save
python benchmarks/prediction.py --log answers.jsonl --test unseen.jsonl --save
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from corpus import VICUNA_TEMPERATURES, vicuna_rows
from filing import report, rounded

from presize.cli.evaluate import forecasts, seconds_alone
from presize.config import DEFAULT_MODEL, SchedulerOptions
from presize.engine.hub import resolve
from presize.engine.states import with_states
from presize.engine.tokenizer import Tokenizer
from presize.predict import PREDICTORS
from presize.predict.learned import Learned
from presize.predict.log import Log, read_log
from presize.predict.metrics import evaluate, kendall_tau
from presize.predict.store import read_header, save
from presize.predict.train.learn import learn
from presize.predict.train.task import Recipe

ENTRIES = ("kaplan-meier", "ewma", "linear", "encoder", "attention", "attention-alone", "s3")
FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", default=",".join(ENTRIES), help="comma-separated (default: all)")
    parser.add_argument("--log", type=Path, help="log to learn from (default: Vicuna's lengths from the shared data)")
    parser.add_argument("--test", type=Path, action="append", help="with --log: another log to measure on")
    parser.add_argument("--folds", default=",".join(map(str, range(FOLDS))), help="which of the five (default: all)")
    parser.add_argument(
        "--draws", type=int, default=1, choices=range(1, len(VICUNA_TEMPERATURES) + 1),
        help="without --log: how many of Vicuna's answers to a prompt are learned from; measured is on the first "
        "(default: 1)",
    )  # fmt: skip
    parser.add_argument("--held-out", type=float, default=0.05, help="share that `learn` holds out (default: 0.05)")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work" / "prediction")
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(resolve(DEFAULT_MODEL))
    log_path = options.log or vicuna_log(options.work, options.draws)
    log = observed(log_path, tokenizer, options)
    rows: dict[str, dict[str, list[dict[str, float]]]] = {}
    for part, train, tests in parts(log, options, tokenizer):
        for entry in options.entries.split(","):
            for name, figures in measured(entry, part, train, tests, tokenizer, options).items():
                rows.setdefault(name, {}).setdefault(entry, []).append(figures)
                print(name, part, entry, json.dumps(rounded(figures)), file=sys.stderr, flush=True)
    results = {
        name: {entry: mean_of(figures) for entry, figures in by_entry.items()} for name, by_entry in rows.items()
    }
    name = "prediction-own" if options.log else "prediction" if options.draws == 1 else "prediction-draws"
    record = {"log": log_path.name, "rows": len(log), "draws": options.draws, "parts": results}
    report(name, record, save=options.save)


def observed(path: Path, tokenizer: Tokenizer, options: Any) -> Log:
    """The log; for `hidden`, with what the default model makes of its prompts, which only its own answers go with."""
    log = read_log(path, tokenizer)
    if "hidden" not in options.entries.split(","):
        return log
    if options.log is None:
        raise SystemExit("hidden reads the states of the model that gave the answers; name its log with --log")
    return with_states(log, DEFAULT_MODEL, progress)


def parts(log: Log, options: Any, tokenizer: Tokenizer) -> Iterator[tuple[str, Log, dict[str, Log]]]:
    """(name, what is learned from, what is measured on)."""
    if options.log is not None:
        held_out = log.split(options.held_out)[1]  # what `learn` holds out, too
        yield (
            "all",
            log,
            {"held out": held_out, **{path.stem: observed(path, tokenizer, options) for path in options.test or ()}},
        )
        return
    prompts = len(log) // options.draws  # the log has the first answers to all of them, then the second, ...
    order = np.random.default_rng(0).permutation(prompts)
    for fold in map(int, options.folds.split(",")):
        test = set(order[fold::FOLDS].tolist())
        known = Log([row for i, row in enumerate(log.rows) if i % prompts not in test])
        name = f"fold{fold}" if options.draws == 1 else f"fold{fold}-draws{options.draws}"
        yield name, known, {"held out": Log([row for i, row in enumerate(log.rows) if i in test])}


def measured(
    entry: str, part: str, train: Log, tests: dict[str, Log], tokenizer: Tokenizer, options: Any
) -> dict[str, dict[str, float]]:
    """Figures on each test log."""
    predictor, seconds = predictor_of(entry, part, train, tokenizer, options)
    found = {}
    for name, log in tests.items():
        curves, each = forecasts(predictor, log.queries, lambda *_: None)
        found[name] = {
            **evaluate(curves, log.lengths, log.censored),
            "us_per_prompt": 1e6 * each,
            "us_single": 1e6 * seconds_alone(predictor, log.queries[:200]),
            "train_seconds": seconds,
        }
    return found


def predictor_of(entry: str, part: str, train: Log, tokenizer: Tokenizer, options: Any) -> tuple[Any, float]:
    """A predictor that knows ``train``, and the seconds that it took."""
    started = time.perf_counter()
    if entry in PREDICTORS:
        history = PREDICTORS.get(entry)(SchedulerOptions())
        for row in train.split(options.held_out)[0].rows:
            history.observe(row.query, row.output_tokens, censored=row.censored)
        history.refresh(np.zeros(0, dtype=np.int64))
        return history, time.perf_counter() - started
    target = options.work / f"{part}-{entry}"
    if target.exists():
        return Learned.load(target), read_header(target).training["seconds"]
    teacher = Learned.load(options.work / f"{part}-encoder") if entry == "attention" else None
    recipe = Recipe(kind=entry.removesuffix("-alone"), held_out=options.held_out, teacher=teacher)
    header, predictor = learn(train, tokenizer, DEFAULT_MODEL, recipe, progress)
    save(target, header, predictor.model)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target.name}: {size:,} bytes", file=sys.stderr)
    return Learned.load(target), header.training["seconds"]


def progress(stage: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{stage} {done:,}/{total:,}   ", end="", file=sys.stderr)


def mean_of(figures: list[dict[str, float]]) -> dict[str, Any]:
    """Mean over the folds; n is the sum, and the rank agreement of each fold is kept beside."""
    found: dict[str, Any] = {name: float(np.mean([f[name] for f in figures])) for name in figures[0]}
    return {
        **found,
        "n": sum(int(f["n"]) for f in figures),
        "tau_by_fold": [round(f["kendall_tau"], 4) for f in figures],
    }


def vicuna_log(work: Path, draws: int) -> Path:
    """The log; and, for the ceiling, how well two draws of the model agree in rank."""
    path = work / ("vicuna.jsonl" if draws == 1 else f"vicuna-draws{draws}.jsonl")
    rows = [row for temperature in VICUNA_TEMPERATURES[:draws] for row in vicuna_rows(temperature)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, other = (np.array([row["output_tokens"] for row in vicuna_rows(t)]) for t in ("0.0", "0.7"))
    print(f"two draws of the model: kendall_tau {kendall_tau(first, other):.3f}", file=sys.stderr)
    return path


if __name__ == "__main__":
    main()
