"""Which words the attention predictor snaps to while it learns, and when.

python benchmarks/corpus.py vicuna > log.jsonl
python benchmarks/theory/predictor.py log.jsonl [--save-plot FILE.png] [--save]

It is learned from the log alone, without a teacher. AttentionProbe looks at the pool of every 2nd batch. The lift of a
word is its attention over an even share of its block, mean over all its occurrences, by the query that likes it best.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))
from filing import report, rounded

from presize.cli.forecasts import served_tokenizer
from presize.cli.picture_file import check_picture, new_figure, save_figure
from presize.config import DEFAULT_MODEL
from presize.predict.log import read_log
from presize.predict.train.attention import AttentionNet
from presize.predict.train.learn import learn
from presize.predict.train.task import Recipe
from presize.theory.scan_snap.probe import AttentionProbe
from presize.theory.scan_snap.probe_log import MEASURES

EVERY = 2  # batches
STAGES = 8
LEAST = 20  # occurrences of a word in a stage of the training, to be told of
SHOWN = 10
DISTINCT = 0.6  # of a word's prompts have answers in the same third of lengths; by chance a third of them have


def quiet(stage: str, done: int, total: int) -> None:
    if total and done % max(total // 10, 1) == 0:
        print(f"{stage} {done}/{total}", file=sys.stderr)


class Watch:
    """Puts a probe on the first AttentionNet that is trained, and adds up the lift of every word by look."""

    def __init__(self, distinct_ids: set[int]) -> None:
        self.probe: AttentionProbe | None = None
        self.vocabulary: Any = None
        self.sums: dict[int, Any] = {}
        self.counts: dict[int, Any] = {}
        self._distinct = distinct_ids

    def __call__(self, module: nn.Module, args: Any) -> None:
        if self.probe is not None or not isinstance(module, AttentionNet) or not module.training:
            return
        self.vocabulary = module.vocabulary
        distinct = torch.tensor([int(i) in self._distinct for i in [*module.vocabulary, -1]])
        self.probe = AttentionProbe(
            module, every=EVERY, sequences=10**6, weights=["pooling"], distinct=distinct, seen=self._seen,
            tokens=lambda joined, pairs, packed, sides: joined[torch.from_numpy(packed.rows)],
        )  # fmt: skip

    def _seen(self, step: int, layer: str, weights: Tensor, ids: Tensor | None) -> None:
        if layer != "pooling":
            return
        assert ids is not None
        visible = weights[:, 0, 0] > 0  # (B, C)
        lift = weights[:, :, 0] * visible.sum(dim=1)[:, None, None]  # (B, queries, C)
        rows, size = ids[visible].numpy(), len(self.vocabulary) + 1
        self.sums[step] = np.stack(
            [np.bincount(rows, weights=lift[:, q][visible].numpy(), minlength=size) for q in range(lift.shape[1])]
        )
        self.counts[step] = np.bincount(rows, minlength=size)


def distinct_words(prompts: Any, lengths: Any) -> set[int]:
    """Ids that occur in at least LEAST prompts, of which the share DISTINCT has answers in one third of lengths."""
    third = np.searchsorted(np.quantile(lengths, [1 / 3, 2 / 3]), lengths)
    seen: dict[int, Any] = defaultdict(lambda: np.zeros(3))
    for prompt, place in zip(prompts, third, strict=True):
        for token in set(prompt):
            seen[int(token)][place] += 1
    return {token for token, count in seen.items() if count.sum() >= LEAST and count.max() >= DISTINCT * count.sum()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log")
    parser.add_argument("--save-plot")
    parser.add_argument("--save", action="store_true", help="file the result")
    args = parser.parse_args()
    if args.save_plot:
        check_picture(Path(args.save_plot))
    tokenizer = served_tokenizer(DEFAULT_MODEL, quiet)
    log = read_log(Path(args.log), tokenizer)
    watch = Watch(distinct_words([query.prompt_token_ids for query in log.queries], log.lengths))
    hook = nn.modules.module.register_module_forward_pre_hook(watch)
    header, _ = learn(log, tokenizer, DEFAULT_MODEL, Recipe(kind="attention"), quiet)
    hook.remove()
    assert watch.probe is not None
    watch.probe.close()

    steps = sorted(watch.sums)
    stages = np.array_split(np.array(steps), STAGES)
    lifts, enough = [], np.ones(len(watch.vocabulary) + 1, dtype=bool)
    for stage in stages:
        count = sum(watch.counts[step] for step in stage)
        lifts.append(sum(watch.sums[step] for step in stage) / np.maximum(count, 1))
        enough &= count >= LEAST
    by_query = np.array(lifts)  # (stages, queries, V + 1)
    curves = np.take_along_axis(by_query, by_query[-1].argmax(axis=0)[None, None], axis=1)[:, 0]  # (stages, V + 1)
    enough[-1] = False  # unknown ones
    order = [i for i in np.argsort(-curves[-1]) if enough[i]]
    words = {i: tokenizer.decode([int(watch.vocabulary[i])]) for i in [*order[:SHOWN], *order[-SHOWN:]]}
    ends = [int(stage[-1]) for stage in stages]

    def told(i: int) -> dict[str, Any]:
        grown = np.log(curves[:, i])
        half = next(end for end, value in zip(ends, grown, strict=True) if abs(value) >= 0.5 * abs(grown[-1]))
        return {"word": words[i], "first": curves[0, i], "last": curves[-1, i], "half_way_step": half}

    most, least = [told(i) for i in order[:SHOWN]], [told(i) for i in order[-SHOWN:][::-1]]
    print(f"{'word':16} lift at first, last, step at which half of the way (log) was gone")
    for row in [*most, *least]:
        print(f"{row['word']!r:16} {row['first']:6.2f} {row['last']:6.2f} {row['half_way_step']:7}")
    rows = watch.probe.rows
    pool = {
        measure: [float(np.mean([row.mean("pooling", measure) for row in part])) for part in (rows[:5], rows[-20:])]
        for measure in MEASURES
    }
    print("pool, first looks and last:", {name: [round(v, 3) for v in pair] for name, pair in pool.items()})
    if args.save_plot:
        draw(Path(args.save_plot), ends, curves, words, order, watch.probe)
    report(
        "predictor-snapping",
        rounded({"steps": steps[-1], "most": most, "least": least, "pool": pool,
                 "scanning_ended": watch.probe.scanning_ended("pooling"),
                 "kendall_tau": header.metrics["kendall_tau"]}),
        save=args.save,
    )  # fmt: skip


def draw(path: Path, ends: list[int], curves: Any, words: dict[int, str], order: list[int], probe: Any) -> None:
    figure = new_figure((10.0, 3.8))
    left, right = figure.subplots(1, 2)
    for place, i in enumerate(order[:8]):
        left.plot(ends, curves[:, i], color=f"C{place}", label=words[i].strip())
    for i in order[-4:]:
        left.plot(ends, curves[:, i], color="#9ca3af", linestyle="--", label=words[i].strip())
    left.axhline(1, color="black", linewidth=0.6)
    left.set(
        yscale="log", xlabel="step", ylabel="attention over an even share", title="Words that it snaps to, or drops"
    )
    left.legend(fontsize=7, frameon=False, ncol=2)
    stages = np.array_split(np.arange(len(probe.rows)), 3 * STAGES)
    for query in range(len(probe.rows[0].layers["pooling"]["evenness"])):
        values = [probe.rows[i].layers["pooling"]["evenness"][query] for i in range(len(probe.rows))]
        right.plot([probe.rows[s[-1]].step for s in stages], [np.mean([values[i] for i in s]) for s in stages],
                   label=f"query {query + 1}")  # fmt: skip
    if (end := probe.scanning_ended("pooling")) is not None:
        right.axvline(end, color="black", linestyle=":", label=f"scanning ended: {end}")
    right.set(xlabel="step", ylabel="entropy / that of even attention", title="The four pooling queries")
    right.legend(fontsize=7, frameon=False)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    save_figure(path, figure, 90)


if __name__ == "__main__":
    main()
