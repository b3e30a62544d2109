"""The requests of a simulation: read from a trace or drawn, then cut, scaled and put in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from presize.core.lengths import FloatArray, IntArray
from presize.errors import ConfigError
from presize.registry import Registry
from presize.simulate.options import TraceOptions
from presize.traces.documents import read_document
from presize.traces.lines import read_lines
from presize.traces.rows import Rows, Shape
from presize.traces.table import read_table

SYNTHETIC = "synthetic"
READERS: dict[str, Callable[[str, str], Rows[Shape]]] = {
    ".csv": read_table, ".jsonl": read_lines, ".json": read_document,
}  # fmt: skip
_LENGTHS, _ARRIVALS, _ROWS = range(3)  # streams of the seed
_SHORTEST_SHARE = 0.5  # of a bimodal draw

Draw = Callable[[int, float, float, np.random.Generator], FloatArray]
LENGTHS: Registry[Draw] = Registry("length distribution")


@dataclass(frozen=True)
class Trace:
    """N requests in the order of their arrival, seconds from the first; lengths in tokens.

    output_tokens: how long an answer is if nothing cuts it off; max_tokens: where it is cut off.
    cut: how many rows were shortened to fit the context.
    """

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    max_tokens: IntArray
    cut: int = 0

    def __len__(self) -> int:
        return len(self.arrival_s)

    def take(self, rows: IntArray | slice) -> Trace:
        """Some of the requests."""
        return replace(
            self, arrival_s=self.arrival_s[rows], prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows], max_tokens=self.max_tokens[rows],
        )  # fmt: skip


@LENGTHS.register("lognormal")
def lognormal(count: int, mean: float, spread: float, random: np.random.Generator) -> FloatArray:
    """exp of a normal variable whose standard deviation is ``spread``."""
    return mean * np.exp(spread * random.standard_normal(count) - spread**2 / 2)


@LENGTHS.register("zipf")
def zipf(count: int, mean: float, spread: float, random: np.random.Generator) -> FloatArray:
    """A tail P(length > x) like x^-(1 + 1 / spread): the heavier, the larger the spread (Lomax; mean as asked)."""
    tail = 1 + 1 / max(spread, 1e-3)
    return mean * (tail - 1) * random.pareto(tail, count)


@LENGTHS.register("bimodal")
def bimodal(count: int, mean: float, spread: float, random: np.random.Generator) -> FloatArray:
    """Short answers and long ones, half each, apart by a factor exp(2 spread), each lognormal with a spread of 0.2."""
    ratio = math.exp(2 * spread)
    short = mean / (_SHORTEST_SHARE + (1 - _SHORTEST_SHARE) * ratio)
    middle = np.where(random.random(count) < _SHORTEST_SHARE, short, short * ratio)
    return middle * np.exp(0.2 * random.standard_normal(count) - 0.02)


def load_trace(path: str, options: TraceOptions, max_positions: int) -> Trace:
    """The requests of a file, or `synthetic` ones, ready to be replayed.

    ConfigError that names file and row for times that go back, lengths below 1, a request beyond ``max_positions``.
    """
    if path == SYNTHETIC:
        return _timed(_synthetic(options, max_positions), options, timed=False)
    rows = _read(path)
    trace = _fitted(rows, path, options, max_positions)
    return _timed(_sized(trace, options), options, timed=rows.timed)


def _read(path: str) -> Rows[Shape]:
    name = path.removesuffix(".gz")
    reader = next((reader for ending, reader in READERS.items() if name.endswith(ending)), None)
    if reader is None:
        raise ConfigError(
            f"trace {path!r} ends in none of {', '.join(READERS)} (.gz may follow), nor is it {SYNTHETIC!r}"
        )
    rows = reader(path, "trace")
    if rows.bad:
        raise ConfigError(f"trace {path}, {rows.bad[0]}")
    if not rows.good:
        raise ConfigError(f"trace {path} has no rows")
    return rows


def _fitted(rows: Rows[Shape], path: str, options: TraceOptions, max_positions: int) -> Trace:
    """As arrays; every row is checked, and cut to the context if that is wanted."""
    shapes, cut, fitted = rows.good, 0, []
    for before, shape in zip([shapes[0], *shapes], shapes, strict=False):
        where = f"trace {path}, {rows.unit} {shape.row}"
        if shape.arrival_s < before.arrival_s:
            raise ConfigError(f"{where}: it arrives {before.arrival_s - shape.arrival_s:g} s before the row above it")
        if rows.timed and shape.arrival_s < 0:
            raise ConfigError(f"{where}: the arrival is {shape.arrival_s:g}; it must not be negative")
        prompt, output = shape.input_len, shape.output_len
        if prompt + min(output, shape.max_tokens or options.max_tokens) > max_positions:
            if not options.truncate:
                raise ConfigError(
                    f"{where}: prompt {prompt} + answer {output} = {prompt + output} tokens; the model's context is "
                    f"{max_positions}; --truncate cuts such rows"
                )
            cut += 1
            output = min(output, max_positions // 2)
            prompt = min(prompt, max_positions - output)
        fitted.append((prompt, output, min(shape.max_tokens or options.max_tokens, max_positions - prompt)))
    prompts, outputs, limits = np.array(fitted, dtype=np.int64).T
    arrivals = np.array([shape.arrival_s for shape in shapes], dtype=np.float64)
    return Trace(arrivals - arrivals[0], prompts, outputs, limits, cut)


def _sized(trace: Trace, options: TraceOptions) -> Trace:
    """The first rows, or, if more are wanted than there are, rows drawn again: as many as asked for."""
    count = options.num_requests or len(trace)
    if count <= len(trace):
        return trace.take(slice(0, count))
    if options.request_rate is None and trace.arrival_s[-1] > 0:
        raise ConfigError(
            f"num_requests is {count:,}, but the trace has {len(trace):,} rows; rows are drawn again only with "
            "--request-rate, which gives them times"
        )
    drawn = np.random.default_rng([options.seed, _ROWS]).integers(len(trace), size=count)
    return replace(trace.take(drawn), arrival_s=np.zeros(count))


def _synthetic(options: TraceOptions, max_positions: int) -> Trace:
    random = np.random.default_rng([options.seed, _LENGTHS])
    count = options.num_requests or 1000
    draw = LENGTHS.get(options.length_distribution)
    output = np.ceil(np.maximum(draw(count, options.output_len, options.length_spread, random), 1)).astype(np.int64)
    prompt = np.ceil(np.maximum(draw(count, options.input_len, options.length_spread, random), 1)).astype(np.int64)
    prompt = np.minimum(prompt, max(max_positions // 2, 1))
    limit = np.minimum(options.max_tokens, max_positions - prompt)
    return Trace(np.zeros(count), prompt, output, limit)


def _timed(trace: Trace, options: TraceOptions, *, timed: bool) -> Trace:
    if options.request_rate is None:
        if not timed and options.time_scale != 1:
            raise ConfigError("time_scale scales the times of a trace; this one has none: give --request-rate")
        return replace(trace, arrival_s=trace.arrival_s * options.time_scale)
    if options.time_scale != 1:
        raise ConfigError("give either --request-rate, which draws arrivals, or --time-scale, which scales the trace's")
    return with_rate(trace, options, options.request_rate)


def with_rate(trace: Trace, options: TraceOptions, rate: float) -> Trace:
    """The same requests at other times, drawn at ``rate`` a second."""
    random = np.random.default_rng([options.seed, _ARRIVALS])
    return replace(trace, arrival_s=arrivals(len(trace), rate, options.burstiness, random))


def arrivals(count: int, rate: float, burstiness: float, random: np.random.Generator) -> FloatArray:
    """``count`` arrivals, the first at 0, at ``rate`` a second: gaps of a Gamma distribution, shape ``burstiness``."""
    gaps = random.gamma(burstiness, 1.0 / (rate * burstiness), max(count - 1, 0))
    return np.concatenate(([0.0], np.cumsum(gaps)))[:count]


def lengths_of(trace: Trace) -> Sequence[int]:
    """Tokens that each answer gets to."""
    lengths: list[int] = np.minimum(trace.output_tokens, trace.max_tokens).tolist()
    return lengths
