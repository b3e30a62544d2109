"""`presize evaluate`: a learned predictor against a log of answers."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from presize.cli.flags import add_flags, build, gather
from presize.cli.forecasts import load_predictor, print_figures, read_answers, read_states
from presize.cli.text import paragraphs
from presize.config import EvaluateOptions
from presize.errors import require

if TYPE_CHECKING:
    from presize.core.lengths import LengthDistribution
    from presize.predict import Query
    from presize.predict.learned import Learned

OPTIONS = (EvaluateOptions,)
BATCH = 32
_SINGLE = 200  # prompts that are asked about one by one, for the time of one alone

_EPILOG = paragraphs(
    "LOG.jsonl: as for `presize learn`. Figures on the log that a predictor was learned from flatter it: keep some "
    "prompts apart. An answer that was cut off counts with the length it had. For a predictor of the kind hidden the "
    "model reads the log's prompts first, which is in none of the times: while serving it does so anyway.",
    "The last line on standard output is a JSON object with the figures of the table.",
)


def add_parser(subparsers: Any) -> None:
    """Add the verb to the parser of `presize`."""
    parser = subparsers.add_parser(
        "evaluate",
        usage="presize evaluate DIR LOG.jsonl [--save-plot FILE] [flags]",
        description="Compare a learned predictor's forecasts with answers that a model really gave.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIR", help="a predictor of `presize learn`; auto: the default model's")
    parser.add_argument("log", metavar="LOG.jsonl", help="the answers to compare with")
    add_flags(parser, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from rich.console import Console

    from presize.cli.progress import Progress
    from presize.cli.summary import json_line
    from presize.predict.metrics import evaluate
    from presize.predict.model import StateModel

    options = build(EvaluateOptions, gather(args, OPTIONS))
    require("scipy", "learn", "evaluating")  # before the long work, as the picture's place
    if options.save_plot is not None:
        from presize.cli.picture_file import check_picture

        check_picture(Path(options.save_plot))
    console = Console(stderr=True)
    with Progress(console) as progress:
        header, tokenizer, predictor = load_predictor(args.directory, options.model, progress.report)
        log = read_answers(args.log, tokenizer, progress)
        if isinstance(predictor.model, StateModel):
            log = read_states(log, options.model or header.model, progress.report)
        curves, seconds = forecasts(predictor, log.queries, progress.report)
        single = seconds_alone(predictor, log.queries[:_SINGLE])
        figures = {
            **evaluate(curves, log.lengths, log.censored),
            "us_per_prompt": 1e6 * seconds,
            "us_single": 1e6 * single,
            "train_seconds": _seconds(header.training.get("seconds")),
        }
        if options.save_plot is not None:
            from presize.cli.plots import save_forecasts

            save_forecasts(Path(options.save_plot), curves, log.lengths, log.censored)
    print_figures(console, figures)
    sys.stdout.write(json_line(figures))
    return 0


def _seconds(value: Any) -> float | None:
    """Of a header, which anybody may have written."""
    return float(value) if isinstance(value, int | float) else None


def forecasts(predictor: Learned, queries: Sequence[Query], report: Any) -> tuple[list[LengthDistribution], float]:
    """A curve a query, and the median over the batches of the seconds a prompt."""
    curves: list[LengthDistribution] = []
    seconds = []
    predictor.predict(queries[:BATCH])  # what is done once only
    for start in range(0, len(queries), BATCH):
        batch = queries[start : start + BATCH]
        began = time.perf_counter()
        curves += predictor.predict(batch)
        seconds.append((time.perf_counter() - began) / len(batch))
        report("forecasting", len(curves), len(queries))
    return curves, sorted(seconds)[len(seconds) // 2]


def seconds_alone(predictor: Learned, queries: Sequence[Query]) -> float:
    """Median seconds of a prompt that is asked about alone."""
    seconds = []
    for query in queries:
        began = time.perf_counter()
        predictor.predict([query])
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[len(seconds) // 2]
