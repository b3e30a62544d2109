"""JSON lines with the lengths of requests: Mooncake's traces, and what `presize` itself writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from presize.errors import shown
from presize.traces.rows import BadRow, Rows, Shape, object_of, opened

# name in the file -> unit in seconds. Mooncake: FAST 2025, github.com/kvcache-ai/Mooncake, milliseconds
_ARRIVALS = {"timestamp": 1e-3, "arrival_s": 1.0}
_INPUTS = ("input_length", "prompt_tokens")
_OUTPUTS = ("output_length", "output_tokens")


def read_lines(path: str, name: str = "dataset_path") -> Rows[Shape]:
    """Rows of Mooncake (timestamp, input_length, output_length), or of `presize generate` and `presize collect`
    (prompt_tokens, output_tokens, no time: all are there at the start); rows of theirs that are errors are left out.

    ConfigError, which calls the file ``name``, if it can not be read.
    """
    rows: Rows[Shape] = Rows()
    with opened(path, name) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = object_of(line, "`input_length` and `output_length`, or `prompt_tokens` and `output_tokens`")
                if "error" in row:
                    rows.left_out += 1
                    continue
                arrival_s = _arrival(row)
                rows.timed = rows.timed or arrival_s is not None
                rows.good.append(
                    Shape(
                        _tokens(row, _INPUTS), _tokens(row, _OUTPUTS), arrival_s or 0.0,
                        _tokens(row, ("max_tokens",)) if row.get("max_tokens") is not None else None, number,
                    )
                )  # fmt: skip
            except BadRow as reason:
                rows.bad.append(f"line {number}: {reason}")
    return rows


def _arrival(row: Mapping[str, Any]) -> float | None:
    for name, unit in _ARRIVALS.items():
        value = row.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise BadRow(f"{name} is {shown(value)}; it must be a number")
            return float(value) * unit
    return None


def _tokens(row: Mapping[str, Any], names: tuple[str, ...]) -> int:
    name = next((name for name in names if name in row), None)
    if name is None:
        raise BadRow(f"it has no {' or '.join(names)}")
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadRow(f"{name} is {shown(value)}; it must be a whole number, at least 1")
    return value
