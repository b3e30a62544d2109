"""The figures of a run: one JSON object for programs, one table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# name -> (label, unit). These names, in this order, are the JSON object; times are seconds.
FIELDS: dict[str, tuple[str, str]] = {
    "requests": ("requests", ""),
    "failed": ("failed", ""),
    "output_tokens": ("output tokens", ""),
    "seconds": ("time", "s"),
    "tokens_per_second": ("throughput", "tokens/s"),
    "preemptions": ("preemptions", ""),
    "recomputed_tokens": ("recomputed tokens", ""),
    "kv_utilization_mean": ("KV memory used, mean", "%"),
    "batch_mean": ("sequences in a step, mean", ""),
    "latency_mean_s": ("latency, mean", "s"),
    "latency_p99_s": ("latency, p99", "s"),
    "ttft_mean_s": ("time to first token, mean", "s"),
    "itl_p99_s": ("time between tokens, p99", "ms"),
    "longest_stall_s": ("longest stall", "s"),
}
_WIDE = 10_000  # characters


def selected(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Exactly the fields of the JSON object, in their order."""
    return {name: summary[name] for name in FIELDS}


def json_line(value: Mapping[str, Any]) -> str:
    """One line of JSON; a figure that does not exist (NaN) is null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode() + "\n"


def table(summaries: Mapping[str, Mapping[str, Any]], fields: Mapping[str, tuple[str, str]] = FIELDS) -> Table:
    """A column for each summary, a line for each of the fields, which are as `FIELDS`."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.SIMPLE_HEAD, show_header=any(summaries))
    result.add_column("")
    for heading in summaries:
        result.add_column(heading, justify="right")
    result.add_column("")
    for name, (label, unit) in fields.items():
        result.add_row(label, *(cell(summary[name], unit) for summary in summaries.values()), unit)
    return result


def print_table(
    console: Console, summaries: Mapping[str, Mapping[str, Any]], fields: Mapping[str, tuple[str, str]] = FIELDS
) -> None:
    """Print the table; a file or a pipe is as wide as the table needs."""
    if not console.is_terminal:
        console.width = _WIDE
    console.print(table(summaries, fields))


def cell(value: float | None, unit: str) -> str:
    """A figure for people, in ``unit``; a dash if there is none."""
    if value is None or math.isnan(value):
        return "-"
    scaled = value * {"%": 100.0, "ms": 1000.0}.get(unit, 1.0)
    if isinstance(value, int) or (float(value).is_integer() and unit == ""):
        return f"{round(scaled):,}"
    return f"{scaled:,.0f}" if abs(scaled) >= 1000 else f"{scaled:.3g}" if abs(scaled) < 1 else f"{scaled:.1f}"
