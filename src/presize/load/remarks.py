"""What a reader of the figures must know of how they came about. Sentences, most of the time none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from presize.load.report import failures_of
from presize.load.runner import Run

_LATE_MS = 20.0
_ROUGHLY = 0.05  # a made-up prompt may be off by this share


def remarks(run: Run, figures: Mapping[str, Any], *, ignore_eos: bool) -> list[str]:
    """In the order of their weight."""
    return [*_failures(run), *_tokens(figures), *_lengths(run, ignore_eos), *_lateness(figures)]


def _failures(run: Run) -> Iterator[str]:
    """Each kind once, with the first message of it."""
    failures = failures_of(run)
    for kind in dict.fromkeys(failure.kind for failure in failures):
        alike = [failure.message for failure in failures if failure.kind == kind]
        yield f"{len(alike):,} x {kind}: {alike[0]}"


def _tokens(figures: Mapping[str, Any]) -> Iterator[str]:
    tokens, frames = figures["total_output_tokens"], figures["output_frames"]
    if without := figures["requests_without_usage"]:
        yield f"answers whose tokens the server did not count: {without:,}; their frames are counted instead"
    if tokens > frames + figures["completed"]:  # the token that ends an answer has no text, and so no frame
        yield (
            f"{tokens:,} tokens came in {frames:,} frames with text: ITL is the time between two such frames, TPOT "
            "that for a token"
        )


def _lengths(run: Run, ignore_eos: bool) -> Iterator[str]:
    whole = [(s, o) for s, o in zip(run.samples, run.outcomes, strict=True) if o.failure is None]
    counted = [(s.asked_tokens, o.input_tokens) for s, o in whole if s.asked_tokens and o.input_tokens]
    asked, given = sum(a for a, _ in counted), sum(g for _, g in counted)
    if abs(given - asked) > _ROUGHLY * asked + len(counted):  # short ones can not be exact
        yield f"the prompts were to have {asked:,} tokens in all, and had {given:,} by the server's count"
    if ignore_eos:
        short = sum(o.output_tokens is not None and o.output_tokens < s.output_len for s, o in whole)
        if short:
            yield f"answers that are shorter than was asked for: {short:,}; the server does not heed ignore_eos"


def _lateness(figures: Mapping[str, Any]) -> Iterator[str]:
    late_ms = figures.get("p99_client_queue_time_ms")
    if late_ms is not None and late_ms > _LATE_MS and figures["max_concurrency"] is None:
        yield (
            f"this machine sent its requests late, p99 {late_ms:,.0f} ms: the load was less sharp than asked for; "
            "give the load generator more of a processor"
        )
