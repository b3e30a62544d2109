"""What `AttentionProbe` writes, read again: one JSON object a line, and when scanning ended."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from presize.errors import ConfigError

# nats; entropy over that of even attention on as many keys; share of keys dropped; share of attention on tokens
MEASURES = ("entropy", "evenness", "sparsity", "frequent", "distinct")
_MAX_LINES, _MAX_LINE = 1_000_000, 2**22
_SETTLED = 0.1  # of all its fall: what evenness may still lose while training goes on for as long again
_LEAST_FALL = 0.01  # of evenness; less is no snapping
_SMOOTHED = 10  # looks that are averaged, so that one batch does not decide

Layers = Mapping[str, Mapping[str, Sequence[float] | None]]


@dataclass(frozen=True, slots=True)
class Row:
    """A step: of each layer, a figure a head of each of `MEASURES`, None where nothing is known of the tokens."""

    step: int
    layers: Layers

    def mean(self, layer: str, measure: str) -> float:
        """Over heads; NaN if there is none."""
        values = self.layers.get(layer, {}).get(measure)
        return sum(values) / len(values) if values else math.nan

    def line(self) -> str:
        """As it is stored."""
        return json.dumps({"step": self.step, "layers": self.layers}) + "\n"


def read_log(path: Path) -> list[Row]:
    """The rows in order of their steps; ConfigError, one sentence with the line's number, for what is no such log."""
    rows = []
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_MAX_LINE):
                number += 1
                if number > _MAX_LINES:
                    raise ConfigError(f"{path} has more than {_MAX_LINES:,} lines, the most that are read")
                if line.strip():
                    rows.append(_row(line, f"{path} line {number}"))
    except OSError as error:
        raise ConfigError(f"{path} can not be read: {error.strerror or error}") from error
    if not rows:
        raise ConfigError(f"{path} has no rows; it must be a log that presize's AttentionProbe wrote")
    return sorted(rows, key=lambda row: row.step)


def _row(line: bytes, where: str) -> Row:
    try:
        value = json.loads(line)
        step, layers = value["step"], value["layers"]
        good = isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**53 and isinstance(layers, dict)
        good = good and bool(layers) and all(_is_layer(layer) for layer in layers.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        raise ConfigError(f"{where} is not of an AttentionProbe: an object with `step` and, a layer, lists of figures")
    return Row(step, layers)


def _is_layer(layer: Any) -> bool:
    def figures(values: Any) -> bool:
        if values is None:
            return True
        return (
            isinstance(values, list)
            and 0 < len(values) <= 65_536
            and all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
        )

    return isinstance(layer.get("evenness"), list) and all(figures(layer.get(measure)) for measure in MEASURES)


def scanning_ended(steps: Sequence[int], evenness: Sequence[float]) -> int | None:
    """The step from which on attention hardly moved: None while it still does, or if it never did.

    It is the first step t such that between t and 2t evenness fell by less than a tenth of its whole fall up to 2t. In
    the theory growth is a power of t before the snapping time and follows ln t after it. Each value is the mean of the
    last ten looks (fewer at first), and a fall counts that is three times the noise of one look.
    """
    known = [(step, value) for step, value in zip(steps, evenness, strict=True) if math.isfinite(value)]
    if len(known) < 2:
        return None
    values = [value for _, value in known]
    jumps = [(after - before) ** 2 / 2 for before, after in pairwise(values)]
    noise = math.sqrt(sum(jumps) / len(jumps))
    smooth = []
    for place, (step, _) in enumerate(known):
        recent = values[max(place + 1 - min(_SMOOTHED, 1 + place // 4), 0) : place + 1]
        smooth.append((step, sum(recent) / len(recent)))
    for place, (step, value) in enumerate(smooth):
        later = next((other for other in smooth[place + 1 :] if other[0] >= 2 * step), None)
        if place == 0 or later is None:
            continue
        fall = smooth[0][1] - later[1]
        if fall >= max(_LEAST_FALL, 3 * noise) and value - later[1] <= _SETTLED * fall:
            return step
    return None
