"""`presize dynamics watch`: the log of a probe, or a training script that is run with one."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from presize.config import WatchOptions
from presize.errors import ConfigError

if TYPE_CHECKING:
    from presize.theory.scan_snap.probe_log import Row

SCRIPT = ".py"
HEADINGS = ("layer", "entropy", "evenness", "sparsity", "on frequent", "on distinct", "scanning ended")


def watched(source: Path, options: WatchOptions) -> list[Row]:
    """The rows of a log; a script is run first, and writes one."""
    from presize.theory.scan_snap.probe_log import read_log

    if source.suffix != SCRIPT:
        for name in ("script_args", "log", "every"):
            if getattr(options, name) is not None:
                raise ConfigError(f"{name} is for a script, whose name ends in {SCRIPT}; {source} is a log")
        return read_log(source)
    from presize.theory.scan_snap.script import run_watched

    try:
        arguments = shlex.split(options.script_args or "")
    except ValueError as error:
        raise ConfigError(f"script_args is {options.script_args!r}: {error}") from error
    log = Path(options.log) if options.log is not None else source.with_suffix(".attention.jsonl")
    run_watched(source, arguments, log, options.every or 10)
    return read_log(log)


def summary(rows: Sequence[Row], plot: Path | None) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """Figures for the JSON line, and a line a layer for the table."""
    from presize.theory.scan_snap.probe_log import MEASURES, scanning_ended

    names = list(dict.fromkeys(name for row in rows for name in row.layers))
    steps = [row.step for row in rows]
    ended = {name: scanning_ended(steps, [row.mean(name, "evenness") for row in rows]) for name in names}
    if plot is not None:
        from presize.cli import dynamics_plots

        dynamics_plots.save_watch(plot, rows, ended)
    lines = []
    for name in names:
        cells = [_from_to(rows, name, measure) for measure in MEASURES]
        lines.append((name, *cells, "not yet" if ended[name] is None else f"{ended[name]:,}"))
    figures = {
        "steps": [steps[0], steps[-1]],
        "looks": len(rows),
        "layers": {
            name: {
                **{measure: [rows[0].mean(name, measure), rows[-1].mean(name, measure)] for measure in MEASURES},
                "scanning_ended": ended[name],
            }
            for name in names
        },
    }
    return figures, lines


def _from_to(rows: Sequence[Row], name: str, measure: str) -> str:
    first, last = (rows[i].mean(name, measure) for i in (0, -1))
    return "-" if math.isnan(first) and math.isnan(last) else f"{first:.3f} to {last:.3f}"
