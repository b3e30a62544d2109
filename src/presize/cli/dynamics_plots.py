"""The pictures and animations of `presize dynamics`."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from presize.cli.picture_file import new_figure, save_figure, write

if TYPE_CHECKING:
    from presize.theory.scan_snap.experiments import Cell, Trace
    from presize.theory.scan_snap.probe_log import Row
    from presize.theory.scan_snap.wikitext import WikiTrace

_BLUE, _ORANGE, _GREY = "#2b6cb0", "#dd6b20", "#6b7280"
_DOTS = 90  # an inch
_MEANT = {"evenness": "entropy / that of even attention", "sparsity": "keys with under a tenth of an even share"}
_MAPS, _FRAMES, _FRAME_MS = 4, 60, 120


def save_small(path: Path, found: Trace) -> None:
    """Loss; attention of the first class, a row a token, over iterations; entropy and the common tokens' share."""
    figure = new_figure((11.0, 3.6))
    left, middle, right = figure.subplots(1, 3)
    left.plot(found.steps, found.loss, color=_BLUE)
    left.set(yscale="log", xlabel="iteration", ylabel="loss (nats)", title="Loss")
    attention, labels = _of_class(found, 0)
    image = middle.imshow(attention.T, aspect="auto", origin="lower", interpolation="nearest", cmap="magma",
                          extent=(found.steps[0], found.steps[-1], -0.5, len(labels) - 0.5))  # fmt: skip
    common = int((found.classes.owners > 1).sum())
    middle.axhline(common - 0.5, color="white", linewidth=0.8)
    middle.set(xlabel="iteration", yticks=[common / 2, common + 5], title="Attention of a class on its tokens")
    middle.set_yticklabels(["common", "distinct, rare\nto frequent"], rotation=90, va="center")
    figure.colorbar(image, ax=middle)
    right.plot(found.steps, found.entropy, color=_BLUE, label="entropy on distinct tokens (nats)")
    right.plot(found.steps, found.common_mass, color=_ORANGE, label="attention on common tokens")
    right.set(xlabel="iteration", ylim=(0, None), title="Scan, then snap")
    right.legend(fontsize=8, frameon=False)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    save_figure(path, figure, _DOTS)


def _of_class(found: Trace, number: int) -> tuple[Any, list[str]]:
    """(R, n) attention of a class on the tokens that it has, common ones first."""
    own = np.flatnonzero(found.classes.probabilities[number])
    return found.attention[:, number, own], [
        "common" if found.classes.owners[token] > 1 else "distinct" for token in own
    ]


def save_attention_gif(path: Path, found: Trace) -> None:
    """Bars of attention on the tokens of each of the first two classes, a frame a few iterations."""
    figure = new_figure((6.4, 2.8))
    panels = figure.subplots(1, 2, sharey=True)
    most = float(found.attention[:, :2].max())

    def draw(frame: int) -> None:
        for number, panel in enumerate(panels):
            attention, labels = _of_class(found, number)
            panel.clear()
            panel.bar(range(len(labels)), attention[frame], color=[_ORANGE if n == "common" else _BLUE for n in labels])
            panel.set(ylim=(0, 1.05 * most), xticks=[], title=f"class {number + 1}")
            panel.set_xlabel("common | distinct, rare to frequent")
        figure.suptitle(f"attention, iteration {found.steps[frame]}", fontsize=10)

    _save_gif(path, figure, draw, len(found.steps))


def save_medium(path: Path, cells: Sequence[Cell]) -> None:
    """Entropy against the ratio of learning rates, a panel a number of classes, a line a rate."""
    counts = sorted({cell.classes for cell in cells})
    figure = new_figure((3.0 * len(counts) + 0.6, 3.4))
    panels = np.atleast_1d(figure.subplots(1, len(counts), sharey=True))
    for count, panel in zip(counts, panels, strict=True):
        for rate in sorted({cell.eta_z for cell in cells}):
            line = sorted((c.ratio, c.entropy, c.error) for c in cells if (c.classes, c.eta_z) == (count, rate))
            ratios, entropies, errors = zip(*line, strict=True)
            panel.errorbar(ratios, entropies, yerr=errors, marker="o", markersize=3, label=f"eta_Z {rate:g}")
        panel.set(xscale="log", xlabel="eta_Y / eta_Z", title=f"{count} classes")
        panel.set_xticks(sorted({c.ratio for c in cells}), [f"{r:g}" for r in sorted({c.ratio for c in cells})])
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("entropy on distinct tokens (nats)")
    panels[-1].legend(fontsize=8, frameon=False)
    save_figure(path, figure, _DOTS)


def save_maps(path: Path, found: WikiTrace) -> None:
    """The attention map of a held-out window at some iterations, a row a layer; entropy and loss over iterations."""
    layers = found.maps.shape[1]
    figure = new_figure((2.4 * (_MAPS + 1.5), 2.5 * layers + 0.3))
    grid = figure.add_gridspec(layers, _MAPS + 1, width_ratios=[1.0] * _MAPS + [1.5])
    for layer in range(layers):
        for column, place in enumerate(_places(len(found.steps), _MAPS)):
            panel = figure.add_subplot(grid[layer, column])
            panel.imshow(found.maps[place, layer], cmap="magma", vmin=0, vmax=1, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
            if layer == 0:
                panel.set_title(f"iteration {found.steps[place]}", fontsize=9)
            if column == 0:
                panel.set_ylabel(f"layer {layer + 1}: query", fontsize=9)
    curve = figure.add_subplot(grid[:, _MAPS])
    for layer in range(layers):
        curve.plot(found.steps, found.entropy[:, layer], label=f"entropy, layer {layer + 1}")
    curve.plot(found.steps, found.loss, color=_GREY, linestyle="--", label="loss")
    curve.set(xlabel="iteration", ylabel="nats", ylim=(0, None))
    curve.legend(fontsize=7, frameon=False)
    curve.spines[["top", "right"]].set_visible(False)
    save_figure(path, figure, _DOTS)


def save_map_gif(path: Path, found: WikiTrace) -> None:
    """The lowest layer's map, a frame a look."""
    figure = new_figure((3.6, 3.6))
    panel = figure.subplots()

    def draw(frame: int) -> None:
        panel.clear()
        panel.imshow(found.maps[frame, 0], cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        panel.set(xticks=[], yticks=[], xlabel="key", ylabel="query")
        panel.set_title(f"layer 1, iteration {found.steps[frame]}", fontsize=10)

    _save_gif(path, figure, draw, len(found.steps))


def save_watch(path: Path, rows: Sequence[Row], ended: Mapping[str, int | None]) -> None:
    """Evenness and sparsity of each layer (means over heads), and where scanning ended."""
    figure = new_figure((9.5, 3.6))
    panels = figure.subplots(1, 2)
    steps = [row.step for row in rows]
    for panel, measure in zip(panels, ("evenness", "sparsity"), strict=True):
        for number, (name, end) in enumerate(ended.items()):
            colour = f"C{number % 10}"
            panel.plot(steps, [row.mean(name, measure) for row in rows], color=colour, label=name)
            if end is not None:
                panel.axvline(end, color=colour, linewidth=0.8, linestyle=":")
        panel.set(xlabel="step", ylabel=_MEANT[measure])
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=7, frameon=False)
    figure.suptitle("Attention over training; dotted: scanning ended", fontsize=10)
    save_figure(path, figure, _DOTS)


def _places(count: int, most: int) -> list[int]:
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(min(most, count))})


def _save_gif(path: Path, figure: Any, draw: Callable[[int], None], count: int) -> None:
    """An endless animation of at most `_FRAMES` of ``count`` frames; the last one stays a while."""
    from PIL import Image

    figure.set_dpi(80)
    images = []
    for frame in _places(count, _FRAMES):
        draw(frame)
        figure.canvas.draw()
        figure.set_layout_engine("none")  # places stay as they are, and later frames are quick
        images.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB").quantize(32))
    content = io.BytesIO()
    images[0].save(
        content, format="GIF", save_all=True, append_images=images[1:], loop=0, optimize=True,
        duration=[_FRAME_MS] * (len(images) - 1) + [10 * _FRAME_MS],
    )  # fmt: skip
    write(path, content.getvalue(), "save_gif")
