"""`presize learn`: a length predictor from a log of answers."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from presize.cli.flags import add_flags, build, gather
from presize.cli.forecasts import print_figures, read_answers, read_states, served_tokenizer
from presize.cli.text import paragraphs
from presize.config import LearnOptions
from presize.errors import ConfigError

if TYPE_CHECKING:
    from presize.cli.progress import Progress
    from presize.predict.learned import Learned
    from presize.predict.store import Header

OPTIONS = (LearnOptions,)

_EPILOG = paragraphs(
    "LOG.jsonl has a line for each answer, as `presize collect` writes them: prompt or messages, output_tokens, "
    "censored (true: the answer was cut off, so it is only known to be longer), and, if known, temperature and "
    "max_tokens.",
    "Which predictor: linear learns in seconds and takes 0.1 ms a prompt; attention takes twice that, and is better if "
    "a teacher helps; encoder is the most accurate, takes minutes to learn and some ms a prompt, and needs the "
    "extra `encoder`; hidden reads what the served model makes of a prompt: to learn it, that model "
    "reads the log's prompts, and in use it refines the forecasts of what runs, "
    "while what waits is forecast as with auto; s3 is the ten-bucket classifier "
    "of the S^3 paper, to compare with.",
    "A good predictor in two steps: presize learn LOG.jsonl --predictor encoder --output teacher; "
    "presize learn LOG.jsonl --predictor attention --teacher teacher --output predictor. "
    "Use it: presize generate ... --predictor ./predictor. The last line on standard output is a JSON object with the "
    "figures on the held-out prompts.",
)


def add_parser(subparsers: Any) -> None:
    """Add the verb to the parser of `presize`."""
    parser = subparsers.add_parser(
        "learn",
        usage="presize learn LOG.jsonl --output DIR [--predictor NAME] [--teacher DIR] [flags]",
        description="Learn to forecast answer lengths from a log of what a model really answered.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("log", metavar="LOG.jsonl", help="the answers to learn from")
    group = parser.add_argument_group("Output")
    group.add_argument("--output", metavar="DIR", required=True, help="directory for the predictor")
    group.add_argument("--overwrite", action="store_true", help="replace a predictor that is there")
    add_flags(parser, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from rich.console import Console

    from presize.cli.progress import Progress
    from presize.cli.summary import json_line
    from presize.predict.store import HEADER, check_target, save

    options = build(LearnOptions, gather(args, OPTIONS))
    output = Path(args.output)
    check_target(output)
    if (output / HEADER).exists() and not args.overwrite:
        raise ConfigError(f"{output} holds a predictor already; add --overwrite to replace it")
    console = Console(stderr=True)
    with Progress(console) as progress:
        header, predictor = _learn(options, args.log, progress)
    save(output, header, predictor.model)
    print_figures(console, header.metrics)
    sys.stdout.write(json_line({**header.metrics, "train_seconds": header.training["seconds"]}))
    return 0


def _learn(options: LearnOptions, log: str, progress: Progress) -> tuple[Header, Learned]:
    from presize.predict.learned import Learned
    from presize.predict.log import read_prompts
    from presize.predict.model import MODELS, StateModel
    from presize.predict.train.learn import check, learn
    from presize.predict.train.task import Recipe

    report = progress.report
    tokenizer = served_tokenizer(options.model, report)
    answers = read_answers(log, tokenizer, progress)
    recipe = Recipe(
        kind=options.predictor,
        seed=options.seed,
        held_out=options.held_out,
        teacher=Learned.load(Path(options.teacher), tokenizer.fingerprint()) if options.teacher else None,
        prompts=read_prompts(Path(options.prompts), tokenizer) if options.prompts else (),
        variants=options.variants,
    )
    if issubclass(MODELS.get(options.predictor), StateModel):
        check(answers, recipe)  # before the long work
        answers = read_states(answers, options.model, report)
    header, predictor = learn(answers, tokenizer, options.model, recipe, report)
    return replace(header, licence=options.licence), predictor
