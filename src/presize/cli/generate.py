"""`presize generate`: answer every line of a JSONL file, as fast as the memory allows."""

from __future__ import annotations

import argparse
from typing import Any

from presize.cli.answering import add_files, answer_file
from presize.cli.flags import add_flags, build, gather
from presize.cli.generate_options import GenerateOptions
from presize.cli.rows import IGNORED_FIELDS, KNOWN_FIELDS, Row
from presize.cli.text import paragraphs
from presize.cli.work import engine_options
from presize.config import EngineOptions
from presize.engine.outputs import CompletionOutput, RequestOutput

OPTIONS = (GenerateOptions, EngineOptions)

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
    add_files(parser, "the answers; - is standard output")
    add_flags(parser, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Run the verb; the exit status is 1 if a row failed."""
    values = gather(args, OPTIONS)
    engine, options = engine_options(values), build(GenerateOptions, values)
    return answer_file(args, engine, options, lambda row, output: [output_row(row, output)])


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
