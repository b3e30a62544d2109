"""The picture of `presize optim report --save-plot`: heat maps of second moments, and errors by rank."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from presize.cli.picture_file import new_figure, save_figure

_PANEL = 3.4  # inches
_LINES = {"own": ("#6b7280", "--", "own basis"), "shared": ("#2b6cb0", "-", "shared basis")}
_LEVELS = {"diagonal": "#dd6b20", "shampoo": "#7c3aed", "kfac": "#0f766e"}
_RANKED = re.compile(r"(own|shared) basis by row, rank (\d+)")


def save_report(path: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """A column for each layer: its heat map, and the errors against the whole matrix and its diagonal blocks."""
    figure = new_figure((_PANEL * len(found), 3 * _PANEL))
    panels = figure.subplots(3, len(found), squeeze=False)
    for row, (top, middle, bottom) in zip(found, panels.T, strict=True):
        _draw_heat(top, row)
        _draw_errors(middle, row, "full", "error against the whole matrix")
        _draw_errors(bottom, row, "blocks", "error against its diagonal blocks")
    panels[1, 0].legend(fontsize=7, framealpha=0.9, edgecolor="none")
    save_figure(path, figure)


def _draw_heat(panel: Any, row: Mapping[str, Any]) -> None:
    from matplotlib.colors import LogNorm

    heat = np.maximum(np.asarray(row["heat"]), 1e-6)
    panel.imshow(heat, norm=LogNorm(1e-6, 1.0), cmap="magma", interpolation="nearest", rasterized=True)
    panel.set(xticks=[], yticks=[])
    panel.set_title(f"{row['type']}\n{row['name']}", fontsize=8)
    panel.set_xlabel(f"{row['rows']} outputs x {row['columns']} inputs, squared", fontsize=7)


def _draw_errors(panel: Any, row: Mapping[str, Any], reference: str, title: str) -> None:
    from matplotlib.ticker import ScalarFormatter

    errors = row["errors"]
    ranked: dict[str, list[tuple[int, float]]] = {"own": [], "shared": []}
    for method, values in errors.items():
        if match := _RANKED.fullmatch(method):
            ranked[match[1]].append((int(match[2]), values[reference]))
    for kind, points in ranked.items():
        colour, style, label = _LINES[kind]
        panel.plot(
            *zip(*sorted(points), strict=True), color=colour, linestyle=style, marker="o", markersize=3, label=label
        )
    for method, colour in _LEVELS.items():
        if reference in errors[method]:
            panel.axhline(errors[method][reference], color=colour, linewidth=1.0, label=method)
    panel.set_ylim(0.0, 1.05)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.set_xlabel("rank", fontsize=7)
    panel.set_title(title, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(color="#e5e7eb", linewidth=0.7)
    panel.spines[["top", "right"]].set_visible(False)
