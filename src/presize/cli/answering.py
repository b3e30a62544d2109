"""What `presize generate` and `presize collect` share: answer a file of rows, write lines, and be able to go on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

from presize.cli.generate_options import GenerateOptions
from presize.cli.outfile import Sink, open_output
from presize.cli.rows import Row, RowError, read_rows
from presize.cli.text import count
from presize.cli.work import Counts, at_least_one, load_engine, open_input, run_rows
from presize.config import EngineOptions
from presize.engine.outputs import RequestOutput

MAX_ERRORS_SHOWN = 5
LinesOf = Callable[[Row, RequestOutput], list[dict[str, Any]]]


def add_files(parser: argparse.ArgumentParser, output_help: str) -> None:
    """The arguments that name the input and the output."""
    parser.add_argument("input", metavar="IN.jsonl", help="the rows; - is standard input")
    group = parser.add_argument_group("Output")
    group.add_argument("--output", metavar="OUT.jsonl", required=True, help=output_help)
    exclusive = group.add_mutually_exclusive_group()
    exclusive.add_argument(
        "--resume", action="store_true", help="go on with OUT.jsonl: skip the rows it answers, try its errors again"
    )
    exclusive.add_argument("--overwrite", action="store_true", help="replace an OUT.jsonl that has rows")


def answer_file(
    args: argparse.Namespace,
    engine_options: EngineOptions,
    options: GenerateOptions,
    lines_of: LinesOf,
    *,
    for_log: bool = False,
) -> int:
    """Answer ``args.input`` into ``args.output``; ``lines_of`` makes the lines of a row. Exit status 1 if a row failed.

    ``for_log``: ``lines_of`` needs the row's prompt, which is let go otherwise once the engine has it, and is also
    given what there is of an answer when the run is stopped.
    """
    with open_input(args.input) as stream:
        sink = open_output(args.output, resume=args.resume, overwrite=args.overwrite, input_path=args.input)
        try:
            rows = read_rows(stream, options.sampling(), model=engine_options.model, chat=options.chat)
            return _answer(engine_options, at_least_one(rows, args.input), sink, args.output, lines_of, for_log)
        finally:
            sink.close()


def _answer(
    engine_options: EngineOptions,
    rows: Iterator[Row | RowError],
    sink: Sink,
    output_path: str,
    lines_of: LinesOf,
    for_log: bool,
) -> int:
    from rich.console import Console

    from presize.cli.progress import Progress
    from presize.cli.summary import json_line, print_table, selected

    skipped = 0

    def unanswered() -> Iterator[Row | RowError]:
        nonlocal skipped
        for row in rows:
            if isinstance(row, Row) and row.request_id in sink.done:
                skipped += 1
            else:
                yield row

    errors: list[RowError] = []

    def on_error(error: RowError) -> None:
        if len(errors) < MAX_ERRORS_SHOWN:
            errors.append(error)
        sink.write(error.as_row())

    console = Console(stderr=True)
    counts = Counts()
    try:
        with Progress(console) as progress:
            engine = load_engine(engine_options, progress.report)
            if engine.forecast_source:
                progress.say(engine.forecast_source)
            sink.begin()

            def on_step(so_far: Counts) -> None:
                nonlocal counts
                counts = so_far
                progress.update(so_far, engine)

            run_rows(
                engine,
                unanswered(),
                lambda row, output: sink.write(*lines_of(row, output)),
                on_error,
                on_step,
                keep_prompts=for_log,
                keep_stopped=for_log,
            )
            if skipped:
                progress.say(f"{count(skipped, 'row')} had an answer in {output_path} already")
    except KeyboardInterrupt:
        if output_path != "-":
            hint = f"{count(counts.done, 'row')} of this run {'is' if counts.done == 1 else 'are'} in {output_path}"
            console.print(
                f"presize: stopped; {hint}; the same command with --resume goes on", markup=False, soft_wrap=True
            )
        raise
    figures = selected(engine.stats.summary(failed=counts.failed))
    print_table(console, {"": figures})
    report_errors(console, errors, counts.failed)
    sys.stdout.write(json_line(figures))
    return 1 if counts.failed else 0


def report_errors(console: Any, errors: list[RowError], failed: int) -> None:
    """Say which rows failed, the first few by name."""
    for error in errors:
        text = f"presize: line {error.line} (id {error.id}): {error.error}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if failed > len(errors):
        console.print(f"presize: {count(failed - len(errors), 'more row')} failed", highlight=False)
