"""The picture of `presize simulate --save-plot`: throughput against latency, and memory over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from presize.cli.picture_file import new_figure, save_figure

if TYPE_CHECKING:
    from presize.simulate.cluster import Result

_SIZE = (11.0, 4.8)  # inches
_MOST_LINES = 6  # of memory over time: more of them hide each other
_GREY = "#6b7280"


def save_simulation(path: Path, found: Mapping[str, tuple[str, Result]], kv_tokens: int) -> None:
    """``found``: by name, the plan that it belongs to and its result. Points of one plan are joined by a line."""
    figure = new_figure(_SIZE)
    left, right = figure.subplots(1, 2)
    _draw_latency(left, found)
    _draw_memory(right, found, kv_tokens)
    for panel in (left, right):
        panel.grid(color="#e5e7eb", linewidth=0.7)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    save_figure(path, figure)


def _draw_latency(panel: Any, found: Mapping[str, tuple[str, Result]]) -> None:
    plans: dict[str, list[Result]] = {}
    for plan, result in found.values():
        plans.setdefault(plan, []).append(result)
    for number, (plan, results) in enumerate(plans.items()):
        x = [result.figures["tokens_per_second"] for result in results]
        for column, style, label in (("latency_mean_s", "-", plan), ("latency_p99_s", ":", None)):
            y = [result.figures[column] for result in results]
            panel.plot(x, y, style, color=f"C{number}", marker="o", markersize=5, linewidth=1.4, label=label)
    panel.plot([], [], "-", color=_GREY, marker="o", markersize=4, label="mean")
    panel.plot([], [], ":", color=_GREY, marker="o", markersize=4, label="99 % of the requests")
    panel.set(xlabel="throughput (tokens/s)", ylabel="latency (s)", yscale="log")
    panel.set_title("Throughput against latency", fontsize=11)
    panel.legend(fontsize=8, edgecolor="none")


def _draw_memory(panel: Any, found: Mapping[str, tuple[str, Result]], kv_tokens: int) -> None:
    last = {plan: (name, result) for name, (plan, result) in found.items()}  # at the highest rate, if there are several
    for name, result in list(last.values())[:_MOST_LINES]:
        points = result.series[0]
        thin = points[:: max(len(points) // 1000, 1)]
        panel.plot(thin[:, 0], 100 * thin[:, 1] / kv_tokens, linewidth=1.0, alpha=0.85, label=name)
    panel.set(xlabel="time (s)", ylabel="KV memory held (%)", ylim=(0, 105))
    one = "of the first engine" if any(len(result.series) > 1 for _, result in found.values()) else "over time"
    panel.set_title(f"KV memory {one}", fontsize=11)
    panel.legend(fontsize=8, edgecolor="none", loc="lower right")
