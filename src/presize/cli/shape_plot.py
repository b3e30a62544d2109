"""The picture of `presize shape --save-plot`: the plane of depth and width, the law's line, the candidates on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from presize.cli.picture_file import check_picture, new_figure, save_figure
from presize.simulate.shapes import Candidate
from presize.theory.depth_width.law import (
    FITTED_DEPTHS,
    INTERCEPT,
    INTERCEPT_ERROR,
    SLOPE,
    SLOPE_ERROR,
)

_BLUE, _ORANGE, _GREY = "#2b6cb0", "#dd6b20", "#6b7280"
_DOTS = 100


def save_plane(path: Path, found: Sequence[Candidate], own: tuple[int, int] | None) -> None:
    """Candidates (the frontier filled), and depth and width of the network that was judged, if one was."""
    from matplotlib.ticker import FuncFormatter

    check_picture(path)
    figure = new_figure((7.5, 5.2))
    panel = figure.subplots()
    depths = [c.shape.depth for c in found] + ([own[0]] if own else [])
    widths = [c.shape.width for c in found] + ([own[1]] if own else [])
    reach = np.linspace(1.0, max(60.0, 1.15 * max(depths)), 300)
    line = INTERCEPT + SLOPE * reach
    error = np.hypot(INTERCEPT_ERROR, SLOPE_ERROR * reach)
    low, high = 0.6 * min(*widths, 200), 1.6 * max(*widths, 2000)
    panel.fill_between(reach, np.exp(line), high, color=_BLUE, alpha=0.08, linewidth=0)
    panel.fill_between(reach, low, np.exp(line), color=_ORANGE, alpha=0.08, linewidth=0)
    panel.fill_between(reach, np.exp(line - error), np.exp(line + error), color="black", alpha=0.2, linewidth=0)
    panel.plot(reach, np.exp(line), color="black", linewidth=1.2, label="the law, one standard deviation shaded")
    panel.axvspan(*FITTED_DEPTHS, ymax=0.02, color=_GREY, linewidth=0, label="depths that it was fitted to")
    size = np.mean([c.shape.law_parameters for c in found])
    panel.plot(reach, np.sqrt(size / 12 / reach), color=_GREY, linewidth=1, linestyle="--",
               label=f"{size:.3g} parameters")  # fmt: skip
    for candidate in found:
        face = _BLUE if candidate.frontier else "none"
        panel.scatter(candidate.shape.depth, candidate.shape.width, s=42, facecolors=face, edgecolors=_BLUE, zorder=3)
    panel.scatter([], [], s=42, color=_BLUE, label="candidates; filled: on the frontier")
    if own is not None:
        panel.scatter(*own, s=150, marker="*", color=_ORANGE, zorder=4, label="the network judged")
    panel.text(0.03, 0.95, "too shallow: depth is worth more", transform=panel.transAxes, color=_BLUE, fontsize=9)
    panel.text(
        0.97, 0.95, "too deep: width is worth as much", ha="right", transform=panel.transAxes, color=_ORANGE, fontsize=9
    )
    panel.set(yscale="log", xlim=(0, reach[-1]), ylim=(low, high), xlabel="layers", ylabel="width")
    for formatter in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
        formatter(FuncFormatter(_plain))
    panel.set_title("Depth and width", fontsize=11)
    panel.legend(loc="lower right", fontsize=8, framealpha=0.9, edgecolor="none")
    panel.spines[["top", "right"]].set_visible(False)
    save_figure(path, figure, _DOTS)


def _plain(value: float, _: int) -> str:
    """1, 2 and 5 times a power of ten only; others would crowd the axis."""
    lead = value / 10 ** np.floor(np.log10(value) + 1e-9)
    return f"{value:,.0f}" if round(lead, 3) in (1, 2, 5) else ""
