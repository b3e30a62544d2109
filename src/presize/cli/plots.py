"""The picture of `presize evaluate --save-plot`: forecasts against answers, and how far they can be relied on."""

from __future__ import annotations

import importlib.util
import io
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from presize.core.lengths import FloatArray, IntArray, LengthDistribution
from presize.errors import ConfigError
from presize.predict.calibration import levels_of

SUFFIXES = ("png", "svg", "pdf")
LEVELS: FloatArray = np.linspace(0.05, 0.95, 19)
_MANY = 1500  # answers from which on points would hide each other: they are counted in hexagons
_BAND = 1.645  # standard deviations that hold 90 %
_BLUE, _ORANGE, _GREY = "#2b6cb0", "#dd6b20", "#6b7280"
_SHADES = ("#cfe0f3", _BLUE, "#0b2545")
_SIZE, _DOTS = (11.0, 5.2), 150  # inches, dots an inch


def check_plot(path: Path) -> None:
    """ConfigError, before the long work, if a picture can not be made at ``path``."""
    if path.suffix.lower().removeprefix(".") not in SUFFIXES:
        raise ConfigError(f"save_plot is {str(path)!r}; its name must end in .{', .'.join(SUFFIXES[:-1])} or .pdf")
    if path.is_dir():
        raise ConfigError(f"save_plot is {str(path)!r}, which is a directory; name a file")
    if not path.parent.is_dir():
        raise ConfigError(f"save_plot is {str(path)!r}; there is no directory {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"save_plot is {str(path)!r}; the directory {str(path.parent)!r} can not be written to")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("save_plot needs matplotlib: install the extra `learn` of presize")


def save_forecasts(path: Path, curves: Sequence[LengthDistribution], lengths: IntArray, censored: Any) -> None:
    """Two panels of N forecasts and N answers: predicted median against true length, and reliability.

    ``censored``: true where an answer was cut off. Written whole or not at all; ConfigError as for `check_plot`.
    """
    check_plot(path)
    save_figure(path, _figure(curves, np.asarray(lengths, dtype=np.int64), np.asarray(censored, dtype=bool)))


def save_figure(path: Path, figure: Any) -> None:
    """Write a picture whole or not at all; ConfigError if that fails."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.lower().removeprefix("."), dpi=_DOTS)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.getbuffer())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise ConfigError(f"save_plot is {str(path)!r}, which can not be written: {error.strerror or error}") from error


def observed_shares(levels: FloatArray, censored: Any, at: FloatArray) -> FloatArray:
    """Share of the answers that fall below each quantile ``at``, from (N,) values of F(L).

    Kaplan and Meier's estimate, for an answer that was cut off gives a lower bound of its F(L). As
    `presize.predict.calibration` does it, but without a prior that the forecast is right; NaN beyond the last answer
    that was seen to end, if there are longer ones.
    """
    order = np.lexsort((censored, levels))
    at_risk = len(order) - np.arange(len(order))
    survival = np.cumprod(np.where(np.asarray(censored, dtype=bool)[order], 1.0, 1.0 - 1.0 / at_risk))
    seen = np.searchsorted(levels[order], at, side="right")
    shares = 1.0 - np.concatenate([[1.0], survival])[seen]
    return np.where((seen == len(order)) & (shares < 1.0), np.nan, shares)


def _figure(curves: Sequence[LengthDistribution], lengths: IntArray, censored: Any) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    median = np.array([curve.quantile(0.5) for curve in curves], dtype=np.float64)
    _draw_medians(left, median, lengths, censored)
    _draw_reliability(right, levels_of(curves, lengths, censored), censored)
    for panel in (left, right):
        panel.set_axisbelow(True)
        panel.set_aspect("equal", adjustable="box")
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_medians(panel: Any, median: FloatArray, lengths: IntArray, censored: Any) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low = 0.8 * max(min(float(median.min()), float(lengths.min())), 1.0)
    high = max(1.25 * max(float(median.max()), float(lengths.max())), 12.5 * low)
    plain = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
    panel.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    ended = ~censored
    if int(ended.sum()) >= _MANY:
        extent = (np.log10(low), np.log10(high)) * 2
        cells = panel.hexbin(
            lengths[ended], median[ended], xscale="log", yscale="log", extent=extent, gridsize=45, mincnt=1,
            bins="log", linewidths=0.1, cmap=LinearSegmentedColormap.from_list("counts", _SHADES),
        )  # fmt: skip
        panel.figure.colorbar(cells, ax=panel, label="answers in a hexagon", shrink=0.7, pad=0.02, format=plain)
    else:
        size = float(np.clip(4000.0 / max(len(lengths), 1), 6.0, 30.0))
        panel.scatter(
            lengths[ended], median[ended], s=size, color=_BLUE, alpha=0.45, linewidths=0, rasterized=True,
            label=f"came to its end ({int(ended.sum()):,})",
        )  # fmt: skip
    if censored.any():
        panel.scatter(
            lengths[censored], median[censored], s=26, marker=">", facecolors="none", edgecolors=_ORANGE, alpha=0.7,
            linewidths=0.9, rasterized=True, label=f"cut off there: longer ({int(censored.sum()):,})",
        )  # fmt: skip
    panel.plot([low, high], [low, high], color="black", linewidth=1.0, linestyle="--", label="median = length")
    panel.grid(which="major", color="#e5e7eb", linewidth=0.7)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 2000 * low else (1.0,)))
        axis.set_major_formatter(plain)
        axis.set_minor_formatter(NullFormatter())
    panel.set(xlabel="true length (tokens)", ylabel="predicted median (tokens)")
    panel.set_title("Predicted median against true length", fontsize=11)
    panel.legend(loc="upper left", fontsize=8, framealpha=0.9, edgecolor="none")


def _draw_reliability(panel: Any, levels: FloatArray, censored: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    shares = observed_shares(levels, censored, LEVELS)
    even = np.linspace(0.0, 1.0, 101)
    spread = _BAND * np.sqrt(even * (1.0 - even) / len(levels))
    panel.fill_between(
        even, even - spread, even + spread, color=_GREY, alpha=0.2, linewidth=0,
        label=f"chance alone, 90 % ({len(levels):,} answers)",
    )  # fmt: skip
    panel.plot([0, 1], [0, 1], color=_GREY, linewidth=1.0, linestyle="--", label="as often as forecast")
    panel.plot(LEVELS, shares, color=_BLUE, marker="o", markersize=4.5, linewidth=1.4, label="observed")
    ticks = np.linspace(0.0, 1.0, 6)
    panel.set(xlim=(0, 1), ylim=(0, 1), xticks=ticks, yticks=ticks)
    panel.grid(color="#e5e7eb", linewidth=0.7)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    panel.set(xlabel="forecast quantile (%)", ylabel="answers below it (%)")
    panel.set_title("Reliability: how often answers fall below a quantile", fontsize=11)
    panel.legend(loc="upper left", fontsize=8, framealpha=0.9, edgecolor="none")
