"""`presize collect`: the log that `presize learn` reads, of how long a model's answers really are."""

from __future__ import annotations

import argparse
from typing import Any

from presize.cli.answering import add_files, answer_file
from presize.cli.flags import add_flags, build, gather
from presize.cli.generate_options import GenerateOptions
from presize.cli.outfile import ABORTED
from presize.cli.rows import Row
from presize.cli.text import paragraphs
from presize.cli.work import engine_options
from presize.config import EngineOptions
from presize.engine.outputs import RequestOutput
from presize.errors import ConfigError

OPTIONS = (GenerateOptions, EngineOptions)

_EPILOG = paragraphs(
    "Input: the rows of `presize generate`; see there. The answers' texts are not kept.",
    "Output: a line for each answer: id, sample (from 0) of samples, prompt or messages, prompt_tokens, output_tokens, "
    "finish_reason, censored (true where the answer was cut off and its own end was not seen), temperature, "
    "max_tokens; or id, line, error. The last line on standard output is a JSON object with the figures of the run.",
    "Stopping: Ctrl-C writes down how long the answers under way have become, censored, with finish_reason abort: "
    "without them, which are the longer ones, a log would be biased. --resume answers them anew.",
)


def add_parser(subparsers: Any) -> None:
    """Add the verb to the parser of `presize`."""
    parser = subparsers.add_parser(
        "collect",
        usage="presize collect IN.jsonl --output LOG.jsonl [--samples N] [--resume | --overwrite] [flags]",
        description="Answer every line of a JSONL file, and keep how long the answers are.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_files(parser, "the log; - is standard output")
    parser.add_argument(
        "--samples",
        metavar="N",
        default=argparse.SUPPRESS,
        help="answers drawn for each prompt, the same as --n; needs a --temperature above 0",
    )
    add_flags(parser, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Run the verb; the exit status is 1 if a row failed."""
    values = gather(args, OPTIONS, aliases={"samples": "n"})
    engine, options = engine_options(values), build(GenerateOptions, values)
    if options.n > 1 and options.temperature == 0:
        raise ConfigError(f"{options.n} samples at temperature 0 are {options.n} times the same; set --temperature")
    return answer_file(args, engine, options, log_lines, for_log=True)


def log_lines(row: Row, output: RequestOutput) -> list[dict[str, Any]]:
    """One line for each answer of a row."""
    question = {"messages": row.messages} if row.messages is not None else {"prompt": row.prompt}
    settings = {"temperature": row.params.temperature, "max_tokens": row.params.max_tokens}
    return [
        {
            "id": row.id,
            "sample": answer.index,
            "samples": row.params.n,
            **question,
            "prompt_tokens": len(output.prompt_token_ids),
            "output_tokens": len(answer.token_ids),
            "finish_reason": answer.finish_reason,
            "censored": answer.finish_reason != "stop",
            **settings,
        }
        for answer in output.outputs
        if answer.token_ids or answer.finish_reason != ABORTED  # a stopped one of no tokens says nothing
    ]
