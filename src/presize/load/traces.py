"""A trace as `presize bench serve` sends it: rows that can not be used are passed over."""

from __future__ import annotations

from presize.traces.rows import Rows, Shape
from presize.traces.table import read_table


def trace(path: str, max_total_len: int | None) -> Rows[Shape]:
    """The requests in the order of their times; ``left_out`` counts those of more tokens than ``max_total_len``.

    ConfigError if the file is not text or lacks a column.
    """
    rows = read_table(path)
    if max_total_len is not None:
        wanted = [shape for shape in rows.good if shape.input_len + shape.output_len <= max_total_len]
        rows.left_out = len(rows.good) - len(wanted)
        rows.good = wanted
    rows.good.sort(key=lambda shape: shape.arrival_s)
    return rows
