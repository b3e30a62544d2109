"""`presize generate`: answer every line of a JSONL file, as fast as the memory allows."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from presize.cli.flags import add_flags, build, gather
from presize.cli.generate_options import GenerateOptions
from presize.cli.outfile import Sink, open_output
from presize.cli.rows import IGNORED_FIELDS, KNOWN_FIELDS, Row, RowError, read_rows
from presize.cli.text import count, paragraphs
from presize.cli.work import Counts, at_least_one, load_engine, open_input, run_rows
from presize.config import EngineOptions
from presize.engine.outputs import CompletionOutput, RequestOutput

OPTIONS = (GenerateOptions, EngineOptions)
MAX_ERRORS_SHOWN = 5

_OPTIONAL_FIELDS = [name for name in KNOWN_FIELDS if name not in ("prompt", "messages")]
_EPILOG = paragraphs(
    "Input: one JSON object a line, with `prompt` (a string, or a list of token ids) or `messages` (a list of role and "
    f"content: the model's chat template is applied). Optional: {', '.join(_OPTIONAL_FIELDS)}. A row's own values go "
    f"before the flags. Accepted and not looked at: {', '.join(IGNORED_FIELDS)}.",
    "Output: one JSON object a line, as answers are finished: id, text, finish_reason, prompt_tokens, output_tokens, "
    "predicted_tokens, preemptions, ttft_s, latency_s (seconds since the row was read), and logprobs and choices where "
    "they were asked for (choices: all answers where n > 1); or id, line, error. The last line on standard output is a "
    "JSON object with the figures of the run.",
    "Exit status: 0 all rows were answered, 1 some or all were not, 2 wrong usage, 130 or 143 stopped by a signal.",
)


def add_parser(subparsers: Any) -> None:
    """Add the verb to the parser of `presize`."""
    parser = subparsers.add_parser(
        "generate",
        usage="presize generate IN.jsonl --output OUT.jsonl [--resume | --overwrite] [flags]",
        description="Answer every line of a JSONL file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="IN.jsonl", help="the rows; - is standard input")
    group = parser.add_argument_group("Output")
    group.add_argument("--output", metavar="OUT.jsonl", required=True, help="the answers; - is standard output")
    exclusive = group.add_mutually_exclusive_group()
    exclusive.add_argument(
        "--resume", action="store_true", help="go on with OUT.jsonl: skip the rows it answers, try its errors again"
    )
    exclusive.add_argument("--overwrite", action="store_true", help="replace an OUT.jsonl that has rows")
    add_flags(parser, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Run the verb; the exit status is 1 if a row failed."""
    values = gather(args, OPTIONS)
    engine_options, options = build(EngineOptions, values), build(GenerateOptions, values)
    with open_input(args.input) as stream:
        sink = open_output(args.output, resume=args.resume, overwrite=args.overwrite, input_path=args.input)
        try:
            rows = read_rows(stream, options.sampling(), model=engine_options.model, chat=options.chat)
            status = _generate(engine_options, at_least_one(rows, args.input), sink, args.output)
        finally:
            sink.close()
    return status


def _generate(engine_options: EngineOptions, rows: Any, sink: Sink, output_path: str) -> int:
    from rich.console import Console

    from presize.cli.progress import Progress
    from presize.cli.summary import json_line, print_table, selected

    skipped = 0

    def unanswered() -> Any:
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
            sink.begin()

            def on_step(so_far: Counts) -> None:
                nonlocal counts
                counts = so_far
                progress.update(so_far, engine)

            run_rows(engine, unanswered(), lambda row, output: sink.write(output_row(row, output)), on_error, on_step)
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


def output_row(row: Row, output: RequestOutput) -> dict[str, Any]:
    """The row of one answered request; with ``n`` > 1 the first answer, and all of them in ``choices``."""
    first = output.outputs[0]
    result: dict[str, Any] = {
        "id": row.id,
        "text": first.text,
        "finish_reason": first.finish_reason,
        "prompt_tokens": len(output.prompt_token_ids),
        "output_tokens": len(first.token_ids),
        "predicted_tokens": output.metrics.predicted_tokens,
        "preemptions": output.metrics.preemptions,
        "ttft_s": round(output.metrics.ttft_s, 6),
        "latency_s": round(output.metrics.latency_s, 6),
    }
    if row.params.logprobs is not None:
        result["logprobs"] = _logprobs(first)
    if row.params.n > 1:
        result["choices"] = [_choice(answer, row.params.logprobs is not None) for answer in output.outputs]
    return result


def _choice(answer: CompletionOutput, with_logprobs: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": answer.index,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "output_tokens": len(answer.token_ids),
    }
    if with_logprobs:
        choice["logprobs"] = _logprobs(answer)
    return choice


def _logprobs(answer: CompletionOutput) -> list[dict[str, Any]]:
    """For each token its id, the log of its probability, and the alternatives by their ids."""
    return [
        {"id": token, "logprob": by_id.get(token), "top": {str(other): value for other, value in by_id.items()}}
        for token, by_id in zip(answer.token_ids, answer.logprobs or [], strict=False)
    ]
