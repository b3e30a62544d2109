"""`presize dynamics`: what attention does while it is trained, in theory, on real text, and in a log of yours."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from presize.cli.flags import add_flags, build, gather
from presize.cli.text import paragraphs
from presize.config import Options, SynMediumOptions, SynSmallOptions, WatchOptions, WikitextOptions
from presize.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

Figures = dict[str, Any]
_WIDE = 10_000  # columns where there is no terminal
_MOST_ROWS = 12  # of a table

_JSON = "The last line on standard output is a JSON object."
_WATCH = paragraphs(
    "The log is written by AttentionProbe, in your own training script:",
    "    from presize.theory.scan_snap.probe import AttentionProbe",
    '    with AttentionProbe(model, log="attention.jsonl"): train(model)',
    "It works on torch and transformers models, looks every 10th step at a few sequences, and can be read while it is "
    "written. Evenness is entropy over that of even attention on as many keys. Scanning ended: the first step t such "
    "that from t to 2t evenness fell by less than a tenth of its fall up to there.",
    "A script, SCRIPT.py, is run as it is, with a probe on the first model that it calls in training mode; its log is "
    "SCRIPT.attention.jsonl beside it unless --log says otherwise. " + _JSON,
)
# name -> options, what it is, epilogue
_KINDS: dict[str, tuple[type[Options], str, str]] = {
    "syn-small": (
        SynSmallOptions,
        "two classes of sequences, each with its query: attention scans, then snaps (figures 4 and 5)",
        paragraphs(
            "Ten common tokens and ten distinct ones a class. Entropy (nats) is that of attention on a class's "
            "distinct tokens; growth is chi, of the most frequent of them. With a larger --eta-ratio the decoder is "
            "done sooner, so attention moves less. " + _JSON
        ),
    ),
    "syn-medium": (
        SynMediumOptions,
        "entropy of trained attention against the ratio of learning rates (figure 6)",
        paragraphs("All 64 cells with ten seeds take about a minute. " + _JSON),
    ),
    "wikitext": (
        WikitextOptions,
        "a small transformer on real text: attention maps and entropy over iterations (figures 7 and 10)",
        paragraphs("Give it any text: presize dynamics wikitext --text wiki.txt --layers 3. " + _JSON),
    ),
    "watch": (WatchOptions, "show what a probe saw of your own training, or run a script with one", _WATCH),
}


def add_parser(subparsers: Any) -> None:
    """Add the verb to the parser of `presize`."""
    verb = subparsers.add_parser(
        "dynamics",
        usage=f"presize dynamics {{{','.join(_KINDS)}}} [flags]",
        description="What attention does while it is trained: it scans, then snaps (Tian and others, NeurIPS 2023).",
    )
    kinds = verb.add_subparsers(dest="kind", metavar="KIND", required=True, title="kinds", prog="presize dynamics")
    for name, (options, line, epilog) in _KINDS.items():
        argument = "{LOG.jsonl | SCRIPT.py} " if name == "watch" else ""
        parser = kinds.add_parser(
            name,
            help=line,
            usage=f"presize dynamics {name} {argument}[flags]",
            description=line[0].upper() + line[1:] + ".",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if argument:
            parser.add_argument(
                "source", metavar="LOG.jsonl | SCRIPT.py", help="what AttentionProbe wrote, or a script"
            )
        add_flags(parser, (options,))


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from rich.console import Console

    from presize.cli.picture_file import check_picture
    from presize.cli.progress import Progress
    from presize.cli.summary import json_line

    cls = _KINDS[args.kind][0]
    options = build(cls, gather(args, (cls,)))
    for name, suffixes in (("save_plot", ("png", "svg", "pdf")), ("save_gif", ("gif",))):
        if (path := getattr(options, name, None)) is not None:
            check_picture(Path(path), name, suffixes)
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = _WIDE
    if isinstance(options, WatchOptions):
        figures = _watch(options, Path(args.source), console)
    else:
        with Progress(console) as progress:
            figures, show = _WORK[args.kind](options, progress.report)
        show(console)
    sys.stdout.write(json_line({"experiment": args.kind, **figures}))
    return 0


def _syn_small(options: SynSmallOptions, report: Any) -> tuple[Figures, Callable[[Console], None]]:
    from presize.cli import dynamics_plots
    from presize.theory.scan_snap.experiments import syn_small

    found = syn_small(
        eta_z=options.eta_z, ratio=options.eta_ratio, optimizer=options.optimizer, steps=options.steps,
        seed=options.seed, report=report,
    )  # fmt: skip
    if options.save_plot is not None:
        dynamics_plots.save_small(Path(options.save_plot), found)
    if options.save_gif is not None:
        dynamics_plots.save_attention_gif(Path(options.save_gif), found)
    growth = found.growth.mean(axis=1)
    rows = list(zip(found.steps, found.loss, found.entropy, found.common_mass, growth, strict=True))
    shown = rows[:11:2] + rows[20::20] if len(rows) <= 201 else [rows[i] for i in _spread(len(rows))]
    figures = {
        "steps": list(found.steps), "loss": found.loss, "entropy": found.entropy, "common_mass": found.common_mass,
        "growth": growth, "attention": found.attention[-1],
    }  # fmt: skip

    def show(console: Console) -> None:
        headings = ("iteration", "loss", "entropy", "on common tokens", "growth")
        _print(console, headings, [(f"{s}", f"{a:.4g}", f"{e:.3f}", f"{c:.1%}", f"{g:.3f}") for s, a, e, c, g in shown])

    return figures, show


def _syn_medium(options: SynMediumOptions, report: Any) -> tuple[Figures, Callable[[Console], None]]:
    from presize.cli import dynamics_plots
    from presize.theory.scan_snap.experiments import PANELS, RATES, RATIOS, syn_medium

    known = {count: (queries, count) for queries, count in PANELS}
    for count in options.classes:
        if count not in known:
            raise ConfigError(f"classes is {count}; it must be one of {', '.join(map(str, known))}")
    panels = [known[count] for count in options.classes or known]
    rates, ratios = options.eta_z or RATES, options.eta_ratio or RATIOS
    cells = syn_medium(panels, rates, ratios, options.seeds, report)
    if options.save_plot is not None:
        dynamics_plots.save_medium(Path(options.save_plot), cells)
    by_place = {(c.classes, c.eta_z, c.ratio): c for c in cells}
    lines = [
        (f"{count}", f"{rate:g}", *(_with_error(by_place[count, rate, ratio]) for ratio in ratios))
        for _, count in panels
        for rate in rates
    ]
    figures = {
        "seeds": options.seeds,
        "cells": [
            {"queries": c.queries, "classes": c.classes, "eta_z": c.eta_z, "eta_ratio": c.ratio, "entropy": c.entropy,
             "error": c.error}
            for c in cells
        ],
    }  # fmt: skip
    headings = ("classes", "eta_Z", *(f"ratio {ratio:g}" for ratio in ratios))
    return figures, lambda console: _print(console, headings, lines)


def _with_error(cell: Any) -> str:
    return f"{cell.entropy:.3f} +- {cell.error:.3f}"


def _wikitext(options: WikitextOptions, report: Any) -> tuple[Figures, Callable[[Console], None]]:
    if options.text is None:
        raise ConfigError("give the text to learn: --text FILE, such as WikiText-2's training part (.txt or .gz)")
    from presize.cli import dynamics_plots
    from presize.theory.scan_snap.wikitext import read_words, train

    found = train(
        read_words(Path(options.text)), layers=options.layers, rate=options.rate, steps=options.steps,
        vocabulary=options.vocabulary, seed=options.seed, report=report,
    )  # fmt: skip
    if options.save_plot is not None:
        dynamics_plots.save_maps(Path(options.save_plot), found)
    if options.save_gif is not None:
        dynamics_plots.save_map_gif(Path(options.save_gif), found)
    headings = ("iteration", "held-out loss", *(f"entropy, layer {i + 1}" for i in range(options.layers)))
    lines = [
        (f"{found.steps[i]}", f"{found.loss[i]:.3f}", *(f"{e:.3f}" for e in found.entropy[i]))
        for i in _spread(len(found.steps))
    ]
    figures = {"steps": list(found.steps), "loss": found.loss, "entropy": found.entropy}
    return figures, lambda console: _print(console, headings, lines)


def _watch(options: WatchOptions, source: Path, console: Console) -> Figures:
    from presize.cli.dynamics_watch import HEADINGS, summary, watched

    rows = watched(source, options)
    figures, lines = summary(rows, None if options.save_plot is None else Path(options.save_plot))
    first, last = figures["steps"]
    console.print(f"{len(rows):,} looks, steps {first:,} to {last:,}; first and last:", highlight=False)
    _print(console, HEADINGS, lines)
    return figures


_WORK: dict[str, Callable[..., tuple[Figures, Callable[[Console], None]]]] = {
    "syn-small": _syn_small,
    "syn-medium": _syn_medium,
    "wikitext": _wikitext,
}


def _spread(count: int) -> list[int]:
    """At most `_MOST_ROWS` of ``count`` places, evenly, the first and the last among them."""
    most = min(count, _MOST_ROWS)
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})


def _print(console: Console, headings: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    console.print(table)
