"""Does the law hold for small networks? Decoders of equal size and different depth, trained on real text.

python benchmarks/corpus.py speeches > speeches.txt
python benchmarks/theory/depth_width.py --work FILE.jsonl --text speeches.txt ../shared/data/text/wikitext2_*.txt.gz
    [--device cuda] [--sizes 1e5 3e5 1e6 3e6 1e7] [--minutes 60] [--save] [--save-plot FILE.png]

Every run's loss is a line of --work as it ends, so the command goes on where it stopped; it trains for at most
--minutes and then reports on what there is. It is meant for a GPU (minutes); two cores take hours for the smallest
size alone.

Sizes are without embeddings. Widths are whole heads of 16, and the inner width, near 4 d, makes up for what they miss:
sizes are met within 2 %. Vocabulary: the 2,000 most frequent words, as many as in the paper. The texts are cut into 100
pieces each, and every tenth piece is held out. Batch 64 windows of 64 words, AdamW, linear warm-up and decay, no
dropout. The learning rate is tuned for each shape on the first seed, over five values; one at the edge is marked.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from stacked import BATCH, HEAD, VOCABULARY, Shape, train

sys.path.append(str(Path(__file__).resolve().parents[1]))
from filing import report, rounded

from presize.cli.picture_file import check_picture, new_figure, save_figure
from presize.theory.depth_width.law import optimum
from presize.theory.scan_snap.wikitext import read_words

DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
SEEDS = (0, 1, 2)
PIECES, HELD_OUT = 100, 10  # of a text; one piece in so many is held out


def data(paths: list[str]) -> tuple[Any, Any]:
    """Word ids to train on, and held-out ones; 0 is every word beyond the vocabulary."""
    parts: tuple[list[str], list[str]] = ([], [])
    for path in paths:
        words = read_words(Path(path))
        bounds = np.linspace(0, len(words), PIECES + 1).astype(int)
        for number in range(PIECES):
            parts[number % HELD_OUT == HELD_OUT - 1].extend(words[bounds[number] : bounds[number + 1]])
    known = {word: i for i, (word, _) in enumerate(Counter(parts[0]).most_common(VOCABULARY - 1), start=1)}
    train_on, held_out = (np.array([known.get(word, 0) for word in part]) for part in parts)
    return train_on, held_out


def shapes(size: float) -> list[Shape]:
    """Of this size, the shallow first; without those whose inner width would be far from 4 d."""
    found = []
    for depth in DEPTHS:
        width = max(round(math.sqrt(size / (12 * depth)) / HEAD), 1) * HEAD
        inner = round((size / depth - 4 * width**2) / (2 * width) / 8) * 8
        if 2.8 * width <= inner <= 5.6 * width:
            found.append(Shape(depth, width, inner))
    return found


class Kept:
    """Losses by run, a line each in a file."""

    def __init__(self, path: Path, args: argparse.Namespace) -> None:
        self.args, self.end = args, time.monotonic() + 60 * args.minutes
        self.text = data(args.text)
        self.losses: dict[tuple[Any, ...], float] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            row = json.loads(line)
            self.losses[tuple(row["run"])] = math.inf if row["loss"] is None else row["loss"]
        self.file = path.open("a")

    def get(self, shape: Shape, members: list[tuple[float, int]]) -> list[float] | None:
        """A loss for each (rate, seed); None if they are not there and there is no time left to train them."""
        # what a loss depends on
        keys = [(*self._about(), shape.depth, shape.width, shape.inner, rate, seed) for rate, seed in members]
        missing = [i for i, key in enumerate(keys) if key not in self.losses]
        if missing and time.monotonic() > self.end:
            return None
        if missing:
            began = time.perf_counter()
            found = train(shape, [members[i] for i in missing], self.args.steps, *self.text, self.args.device)
            print(f"{shape}: {[round(loss, 4) for loss in found]} in {time.perf_counter() - began:.1f} s",
                  file=sys.stderr, flush=True)  # fmt: skip
            for i, loss in zip(missing, found, strict=True):
                self.losses[keys[i]] = loss if math.isfinite(loss) else math.inf
                row = {"run": keys[i], "loss": loss if math.isfinite(loss) else None}
                self.file.write(json.dumps(row) + "\n")
            self.file.flush()
        return [self.losses[key] for key in keys]

    def _about(self) -> tuple[int, ...]:
        return len(self.text[0]), len(self.text[1]), BATCH, self.args.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="file for the runs")
    parser.add_argument("--text", required=True, nargs="+", help="texts, or gzips of texts")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", nargs="+", type=float, default=[1e5, 3e5, 1e6, 3e6, 1e7])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=1e9, help="train for at most so long, then report")
    parser.add_argument("--save-plot")
    parser.add_argument("--save", action="store_true", help="file the result")
    args = parser.parse_args()
    if args.save_plot:
        check_picture(Path(args.save_plot))
    kept = Kept(Path(args.work), args)
    result, complete = [], True
    for size in args.sizes:
        rows = []
        for shape in shapes(size):
            tuned = kept.get(shape, [(rate, SEEDS[0]) for rate in RATES])
            best = int(np.argmin(tuned)) if tuned else 0
            losses = kept.get(shape, [(RATES[best], seed) for seed in SEEDS]) if tuned else None
            if tuned is None or losses is None:
                complete = False
                continue
            rows.append({
                "depth": shape.depth, "width": shape.width, "inner": shape.inner, "parameters": shape.parameters,
                "by_rate": tuned, "rate": RATES[best], "edge": best in (0, len(RATES) - 1), "losses": losses,
                "loss": float(np.mean(losses)),
            })  # fmt: skip
        if rows:
            result.append(told(size, rows))
    if args.save_plot and result:
        draw(Path(args.save_plot), result)
    report(
        "depth-width",
        rounded({"complete": complete, "device": args.device, "steps": args.steps, "train_words": len(kept.text[0]),
                 "held_out_words": len(kept.text[1]), "rates": list(RATES), "sizes": result}, 5),
        save=args.save,
    )  # fmt: skip


def told(size: float, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Print a size's rows; the depths whose mean loss is within two standard errors of the best one's are equal."""
    law, best = optimum(size), min(rows, key=lambda row: row["loss"])
    deviations = [np.var(row["losses"], ddof=1) for row in rows if math.isfinite(row["loss"])]
    error = math.sqrt(2 * float(np.mean(deviations)) / len(SEEDS))  # of a difference of two means
    near = [row["depth"] for row in rows if row["loss"] <= best["loss"] + 2 * error]
    print(f"\nsize {size:g}: law {law.depth:.1f} layers, {law.width:.0f} wide; best {best['depth']}, equal {near}")
    for row in rows:
        edge = " (edge)" if row["edge"] else ""
        print(f"  {row['depth']:3} x {row['width']:4}, inner {row['inner']:4} ({row['parameters']:.4g}), rate "
              f"{row['rate']:g}{edge}: {row['loss']:.4f} +- {np.std(row['losses'], ddof=1):.4f}")  # fmt: skip
    return {"size": size, "law_depth": law.depth, "law_width": law.width, "best_depth": best["depth"],
            "equal_depths": near, "error_of_difference": error, "rows": rows}  # fmt: skip


def draw(path: Path, result: list[dict[str, Any]]) -> None:
    figure = new_figure((2.9 * len(result), 3.2))
    for panel, entry in zip(np.atleast_1d(figure.subplots(1, len(result))), result, strict=True):
        depths = [row["depth"] for row in entry["rows"]]
        panel.plot(depths, [row["loss"] for row in entry["rows"]], color="#2b6cb0", marker="o", markersize=3)
        for row in entry["rows"]:
            panel.scatter([row["depth"]] * len(row["losses"]), row["losses"], s=8, color="#6b7280")
        panel.axvline(entry["law_depth"], color="black", linestyle=":", label="the law")
        panel.set(xscale="log", xlabel="layers", title=f"{entry['size']:.0e} parameters")
        panel.set_xticks(depths, [str(d) for d in depths])
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False)
    figure.supylabel("held-out loss (nats a word)", fontsize=10)
    save_figure(path, figure, 90)


if __name__ == "__main__":
    main()
