"""Does the law hold for small networks? Decoders of equal size and different depth, trained on real text.

python benchmarks/theory/depth_width.py --work DIR [--minutes 60] [--save] [--save-plot FILE.png]

Every run's loss is kept in DIR as it ends, so the command goes on where it stopped; it trains for at most --minutes and
then reports on what there is. In full it takes some hours on two cores. Sizes are 12 L d^2; widths are whole heads of
16, so a size is met within a fifth. Vocabulary: the 2,000 most frequent words (as in the paper, so that embeddings do
not matter), text: the shared WikiText-2 parts, the last tenth held out. Batch 32 windows of 64 words, AdamW, linear
warm-up and decay, no dropout. The learning rate is tuned for each width on the first seed, over three values.
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
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))
from corpus import PROMPTS
from filing import report, rounded

from presize.cli.picture_file import check_picture, new_figure, save_figure
from presize.theory.depth_width.law import optimum
from presize.theory.scan_snap.wikitext import read_words

SIZES = (1e5, 3e5, 1e6)
DEPTHS = (1, 2, 3, 4, 6, 8, 12)
RATES = (1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2)
HEAD, VOCABULARY, WINDOW, BATCH = 16, 2000, 64, 32
STEPS = 400
TEXTS = ("wikitext2_valid.txt.gz", "wikitext2_test.txt.gz")


class Decoder(nn.Module):
    """Pre-norm decoder with learned positions."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(WINDOW, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, max(width // HEAD, 1), 4 * width, dropout=0.0, activation="gelu",
                                       batch_first=True, norm_first=True)
            for _ in range(depth)
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                out = name.endswith(("out_proj.weight", "linear2.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * depth) if out else 0.02)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(WINDOW))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places.weight
        for block in self.blocks:
            x = block(x, src_mask=self.get_buffer("mask"), is_causal=True)
        return self.head(self.norm(x))


def shape_of(size: float, depth: int) -> int:
    """The width in whole heads."""
    return max(round(math.sqrt(size / (12 * depth)) / HEAD), 1) * HEAD


def data() -> tuple[Any, Any]:
    paths = [PROMPTS.parent / "text" / name for name in TEXTS]
    if missing := [path for path in paths if not path.exists()]:
        raise SystemExit(f"{missing[0]} is not there; this needs the shared data")
    words = [word for path in paths for word in read_words(path)]
    known = {word: i for i, (word, _) in enumerate(Counter(words).most_common(VOCABULARY - 1), start=1)}
    ids = np.array([known.get(word, 0) for word in words])
    cut = len(ids) * 9 // 10
    return ids[:cut], ids[cut:]


def run(depth: int, width: int, rate: float, seed: int, train: Any, held_out: Any) -> dict[str, float]:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = Decoder(depth, width)
    rule = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    warm = STEPS // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(rule, lambda s: min((s + 1) / warm, (STEPS - s) / (STEPS - warm)))
    began = time.perf_counter()
    for _ in range(STEPS):
        starts = rng.integers(len(train) - WINDOW - 1, size=BATCH)
        batch = torch.from_numpy(train[starts[:, None] + np.arange(WINDOW + 1)])
        loss = nn.functional.cross_entropy(net(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        rule.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        rule.step()
        schedule.step()
    net.eval()
    windows = held_out[: (len(held_out) - 1) // WINDOW * WINDOW].reshape(-1, WINDOW)
    following = held_out[1 : windows.size + 1].reshape(-1, WINDOW)
    with torch.no_grad():
        losses = [
            float(nn.functional.cross_entropy(net(torch.from_numpy(windows[i : i + 64])).flatten(0, 1),
                                              torch.from_numpy(following[i : i + 64]).flatten(), reduction="sum"))
            for i in range(0, len(windows), 64)
        ]  # fmt: skip
    return {"loss": sum(losses) / windows.size, "seconds": time.perf_counter() - began}


def planned() -> list[tuple[float, int, int]]:
    """(size, depth, width), the small first; shapes whose heads can not meet the size are left out."""
    found = []
    for size in SIZES:
        for depth in DEPTHS:
            width = shape_of(size, depth)
            if abs(12 * depth * width**2 / size - 1) < 0.2:
                found.append((size, depth, width))
    return found


class Kept:
    """Losses by run, a file each."""

    def __init__(self, folder: Path, end: float) -> None:
        self.folder, self.end = folder, end
        self.texts: tuple[Any, Any] | None = None

    def loss(self, depth: int, width: int, rate: float, seed: int) -> float | None:
        """None if it is not there and there is no time left to train it."""
        path = self.folder / f"L{depth}-d{width}-lr{rate:g}-s{seed}-n{STEPS}.json"
        if not path.exists():
            if time.monotonic() > self.end:
                return None
            self.texts = self.texts or data()
            found = run(depth, width, rate, seed, *self.texts)
            print(f"{path.stem}: {found['loss']:.4f} in {found['seconds']:.0f} s", file=sys.stderr, flush=True)
            path.write_text(json.dumps(found) + "\n")
        loss = float(json.loads(path.read_text())["loss"])
        return loss if math.isfinite(loss) else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for the runs")
    parser.add_argument("--minutes", type=float, default=1e9, help="train for at most so long, then report")
    parser.add_argument("--save-plot")
    parser.add_argument("--save", action="store_true", help="file the result")
    args = parser.parse_args()
    if args.save_plot:
        check_picture(Path(args.save_plot))
    folder = Path(args.work)
    folder.mkdir(parents=True, exist_ok=True)
    kept = Kept(folder, time.monotonic() + 60 * args.minutes)
    result, complete = [], True
    for size in SIZES:
        rows = []
        for _, depth, width in (p for p in planned() if p[0] == size):
            tuned = {rate: kept.loss(depth, width, rate, SEEDS[0]) for rate in RATES}
            there = {rate: loss for rate, loss in tuned.items() if loss is not None}
            if len(there) < len(RATES):
                complete = False
                continue
            rate = min(there, key=lambda r: there[r])
            losses = [loss for seed in SEEDS if (loss := kept.loss(depth, width, rate, seed)) is not None]
            complete &= len(losses) == len(SEEDS)
            rows.append({
                "depth": depth, "width": width, "parameters": 12 * depth * width**2, "rate": rate, "losses": losses,
                "loss": float(np.mean(losses)), "edge": rate in (RATES[0], RATES[-1]),
            })  # fmt: skip
        if rows:
            best = min(rows, key=lambda row: row["loss"])
            law = optimum(size)
            result.append({"size": size, "rows": rows, "best_depth": best["depth"], "law_depth": law.depth})
            print(f"\nsize {size:g}: law {law.depth:.1f} layers, {law.width:.0f} wide; best found {best['depth']}")
            for row in rows:
                spread = float(np.std(row["losses"], ddof=1)) if len(row["losses"]) > 1 else math.nan
                print(f"  {row['depth']:3} x {row['width']:4} ({row['parameters']:.3g}), rate {row['rate']:g}: "
                      f"{row['loss']:.4f} +- {spread:.4f} ({len(row['losses'])} seeds)")  # fmt: skip
    if args.save_plot and result:
        draw(Path(args.save_plot), result)
    report("depth-width", rounded({"complete": complete, "steps": STEPS, "sizes": result}, 5), save=args.save)


def draw(path: Path, result: list[dict[str, Any]]) -> None:
    figure = new_figure((3.6 * len(result), 3.4))
    for panel, entry in zip(np.atleast_1d(figure.subplots(1, len(result))), result, strict=True):
        depths = [row["depth"] for row in entry["rows"]]
        panel.plot(depths, [row["loss"] for row in entry["rows"]], color="#2b6cb0", marker="o", markersize=3)
        for row in entry["rows"]:
            panel.scatter([row["depth"]] * len(row["losses"]), row["losses"], s=8, color="#6b7280")
        panel.axvline(entry["law_depth"], color="black", linestyle=":", label="the law, extrapolated")
        panel.set(xscale="log", xlabel="layers", title=f"{entry['size']:.0e} parameters")
        panel.set_xticks(depths, [str(d) for d in depths])
        panel.minorticks_off()
        panel.legend(fontsize=7, frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    figure.supylabel("held-out loss (nats a word)", fontsize=10)
    save_figure(path, figure, 90)


if __name__ == "__main__":
    main()
