"""From the options to requests and their times."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from presize.errors import ConfigError
from presize.load import arrivals
from presize.load.conversations import custom, sharegpt
from presize.load.options import LoadOptions
from presize.load.rows import Sample
from presize.load.synthetic import Ruler, made_up, random_shapes
from presize.load.traces import trace
from presize.traces.rows import Rows, Shape

OUTPUT_LEN = 512  # tokens, as that of `presize generate`: most answers end by themselves before
RANDOM_OUTPUT_LEN = 128
_COMPLAINTS = 3  # bad rows that are told one by one
_ARRIVALS, _ORDER, _LENGTHS, _PROMPTS = range(4)  # streams of the seed: one option does not change what others draw


@dataclass(frozen=True, slots=True)
class Work:
    """What will be sent, and when.

    samples: makes the requests; measured: whether that takes a Ruler of the server, and not any; ignore_eos: whether
    answers are to go on to their limit; notes: what a person should know.
    """

    samples: Callable[[Ruler], Sequence[Sample]]
    times: arrivals.Times
    measured: bool
    ignore_eos: bool
    notes: Sequence[str]


def work_of(options: LoadOptions) -> Work:
    """Read or draw. ConfigError if there is no usable row."""
    return _of_shapes(options) if options.dataset in ("trace", "random") else _of_prompts(options)


def _of_prompts(options: LoadOptions) -> Work:
    path, limit = options.dataset_path or "", options.output_len or OUTPUT_LEN
    if options.dataset == "sharegpt":
        rows = sharegpt(path, limit)
    else:
        rows = custom(path, options.endpoint, limit, fixed=options.output_len is not None)
    _check(rows, options)
    order = np.arange(len(rows.good))
    if options.shuffle:
        _stream(options, _ORDER).shuffle(order)
    chosen = [rows.good[i] for i in order[: options.num_prompts]]
    return Work(
        samples=lambda ruler: chosen,
        times=_drawn(options, len(chosen)),
        measured=False,
        ignore_eos=bool(options.ignore_eos),
        notes=_notes(rows, options),
    )


def _of_shapes(options: LoadOptions) -> Work:
    if options.dataset == "trace":
        rows = trace(options.dataset_path or "", options.max_total_len)
    else:
        spread, output_len = options.random_range_ratio, options.output_len or RANDOM_OUTPUT_LEN
        random = _stream(options, _LENGTHS)
        rows = Rows(good=random_shapes(options.num_prompts, options.input_len, output_len, spread, random))
    _check(rows, options)
    shapes = rows.good[: options.num_prompts]
    fixed = options.output_len if options.dataset == "trace" else None
    if options.dataset == "trace" and math.isinf(options.request_rate):
        times = arrivals.replayed([shape.arrival_s for shape in shapes], options.time_scale)
    else:
        times = _drawn(options, len(shapes))
    return Work(
        samples=lambda ruler: made_up(shapes, fixed, ruler, _stream(options, _PROMPTS)),
        times=times,
        measured=True,
        ignore_eos=options.ignore_eos is not False,
        notes=_notes(rows, options),
    )


def _drawn(options: LoadOptions, count: int) -> arrivals.Times:
    return arrivals.drawn(count, options.request_rate, options.burstiness, _stream(options, _ARRIVALS))


def _check(rows: Rows[Any], options: LoadOptions) -> None:
    if rows.good:
        return
    text = f"dataset_path {options.dataset_path} has no usable row"
    if rows.left_out:
        text += f"; {rows.left_out:,} have more tokens than max_total_len, {options.max_total_len}"
    raise ConfigError(f"{text}; {rows.bad[0]}" if rows.bad else text)


def _notes(rows: Rows[Sample] | Rows[Shape], options: LoadOptions) -> list[str]:
    good, bad, left_out = len(rows.good), len(rows.bad), rows.left_out
    notes = list(rows.bad[:_COMPLAINTS])
    if bad:
        notes.append(f"{bad:,} of {good + bad + left_out:,} rows can not be used")
    if left_out:
        notes.append(f"rows left out, with more tokens than max_total_len, {options.max_total_len}: {left_out:,}")
    if good < options.num_prompts:
        notes.append(f"num_prompts is {options.num_prompts:,}; usable rows, each of which is sent once: {good:,}")
    return notes


def _stream(options: LoadOptions, number: int) -> np.random.Generator:
    return np.random.default_rng([options.seed, number])
