"""The figures of `presize bench serve` for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from presize.cli.summary import cell

if TYPE_CHECKING:
    from rich.console import Console

# name -> (label, unit); a line is left out if its figure is null
_COUNTS = {
    "completed": ("completed", ""),
    "failed": ("failed", ""),
    "rejected": ("of these rejected (429)", ""),
    "unfinished": ("unfinished", ""),
    "retries": ("sent again", ""),
    "duration": ("time", "s"),
    "offered_request_rate": ("request rate, offered", "requests/s"),
    "request_throughput": ("request throughput", "requests/s"),
    "request_goodput": ("goodput", "requests/s"),
    "slo_attainment": ("within all objectives", "%"),
    "total_input_tokens": ("input tokens", ""),
    "total_output_tokens": ("output tokens", ""),
    "output_throughput": ("output throughput", "tokens/s"),
    "total_token_throughput": ("input + output throughput", "tokens/s"),
    "max_concurrent_requests": ("at the same time, most", "requests"),
}
_QUIET = {"rejected", "unfinished", "retries"}  # shown only if there were any
_LATENCIES = {
    "ttft": "TTFT, to the first token",
    "tpot": "TPOT, per token after it",
    "itl": "ITL, between frames",
    "e2el": "E2EL, whole answer",
    "client_queue_time": "waited at the client",
}
_COLUMNS = {"mean": "mean", "median": "p50", "p90": "p90", "p99": "p99"}
_WIDE = 10_000  # characters


def print_figures(console: Console, figures: Mapping[str, Any]) -> None:
    """Two tables: counts and rates, then latencies."""
    from rich import box
    from rich.table import Table

    if not console.is_terminal:
        console.width = _WIDE
    counts = Table(box=box.SIMPLE_HEAD, show_header=False)
    for name, (label, unit) in _COUNTS.items():
        value = figures[name]
        if value is not None and (value or name not in _QUIET):
            counts.add_row(label, cell(value, unit), unit)
    counts.columns[1].justify = "right"
    console.print(counts)
    latencies = Table(box=box.SIMPLE_HEAD)
    latencies.add_column("")
    for heading in _COLUMNS.values():
        latencies.add_column(heading, justify="right")
    latencies.add_column("")
    for name, label in _LATENCIES.items():
        if f"mean_{name}_ms" in figures:
            latencies.add_row(label, *(cell(figures[f"{column}_{name}_ms"], "") for column in _COLUMNS), "ms")
    console.print(latencies)
