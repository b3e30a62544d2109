"""`presize shape`: depth and width for a number of parameters, or what to think of those of a network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from presize.cli.flags import add_flags, build, gather
from presize.cli.text import paragraphs
from presize.config import ShapeOptions
from presize.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from presize.simulate.device import Device
    from presize.simulate.models import ModelShape
    from presize.simulate.shapes import Candidate, Served
    from presize.theory.depth_width.law import Judgement, Optimum

OPTIONS = (ShapeOptions,)
_WIDE = 10_000  # columns where there is no terminal

_EPILOG = paragraphs(
    "The law: at depth L a network narrower than exp(5.039 + 0.0555 L) is so deep that a shallower one of the same "
    "size is as good or better, and a wider one would gain by depth (Levine and others, NeurIPS 2020). It was fitted "
    "to decoders of 6 to 48 layers and 1e6 to 6e8 parameters; beyond that the table says so. Within a tenth of the "
    "law's depth a shape counts as balanced.",
    "What it costs: KV bytes a token are in proportion to depth x width, so at one size to the square root of depth; "
    "and layers wait for one another. Steps are those of the device model of `presize simulate`, and --layer-us a "
    "layer besides, with as many sequences as fit, at most 256; every head has keys of its own. Tokens/s is simulated: "
    "four times as many requests as run at once, half of the context prompt, half answer. No measurement, unless the "
    "device is a file of `presize calibrate`. A star marks the frontier: no other candidate is as near to the law and "
    "as fast.",
    "Example: presize shape --params 1.3e9 --device A100-80G --context 2048. The last line on standard output is a "
    "JSON object.",
)


def add_parser(subparsers: Any) -> None:
    """Add the verb to the parser of `presize`."""
    parser = subparsers.add_parser(
        "shape",
        usage="presize shape {--params N | --model DIR} [flags]",
        description="Which depth and width to give a network of some size, and what they cost to serve.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from rich.console import Console

    from presize.cli.summary import json_line
    from presize.simulate.device import device_of
    from presize.simulate.models import model_shape
    from presize.simulate.shapes import candidates, served
    from presize.theory.depth_width.law import judge, optimum
    from presize.theory.depth_width.shapes import law_parameters

    options = build(ShapeOptions, gather(args, OPTIONS))
    if (options.params is None) == (options.model is None):
        raise ConfigError("give either --params, a number of parameters to spend, or --model, a network to judge")
    if options.model is not None and options.head_size is not None:
        raise ConfigError("--head-size is for --params; a network that is there has heads of its own")
    if options.save_plot is not None:
        from presize.cli.picture_file import check_picture

        check_picture(Path(options.save_plot))
    device, layer_s = device_of(options.device), options.layer_us * 1e-6
    figures: dict[str, Any] = {"device": device.name, "context": options.context, "layer_us": options.layer_us}
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = _WIDE
    rank, size = options.embedding_rank, options.head_size
    own: ModelShape | None = None
    if options.model is not None:
        own = model_shape(options.model)
        rank = rank or own.vocabulary
        judgement = judge(own.layers, own.hidden, rank)
        price = served(own, device, options.context, layer_s)
        for line in _sentences(own, judgement, price):
            console.print(line, highlight=False, soft_wrap=True)
        parameters = float(law_parameters(own.layers, own.hidden))
        figures["model"] = {
            **_sizes(own.layers, own.hidden, own.heads), "kv_heads": own.kv_heads,
            "non_embedding_parameters": own.layers * own.layer_parameters, **_judged(judgement), **_served(price),
        }  # fmt: skip
        best = judgement.best
    else:
        assert options.params is not None
        parameters = options.params
        best = optimum(parameters, rank)
    found = candidates(parameters, device, options.context, layer_s, size, rank)
    console.print(_headline(best), highlight=False, soft_wrap=True)
    for note in best.notes:
        console.print(f"Note: {note}", highlight=False, soft_wrap=True)
    console.print(_table(found, device, options.context))
    if options.save_plot is not None:
        from presize.cli.shape_plot import save_plane

        save_plane(Path(options.save_plot), found, None if own is None else (own.layers, own.hidden))
    figures |= {"parameters": parameters, "optimum": _optimum(best), "candidates": [_candidate(c) for c in found]}
    sys.stdout.write(json_line(figures))
    return 0


def _headline(best: Optimum) -> str:
    low, high = best.width_range
    return (
        f"{best.parameters:.3g} parameters without embeddings are best spent on {best.depth:.1f} +- "
        f"{best.depth_error:.1f} layers, {best.width:,.0f} wide ({low:,.0f} to {high:,.0f})."
    )


def _sentences(own: ModelShape, judgement: Judgement, price: Served) -> list[str]:
    gated = ", gated" if own.mlp_matrices == 3 else ""
    return [
        f"{own.layers} layers, {own.hidden:,} wide, {own.heads} heads of {own.head_size}, {own.kv_heads} with keys, "
        f"feed-forward {own.intermediate:,}{gated}: {own.layers * own.layer_parameters:.3g} parameters, "
        f"{judgement.best.parameters:.3g} as the law counts (12 x depth x width^2).",
        f"Verdict: {judgement.verdict}; at that size the law says {judgement.best.depth:.1f} +- "
        f"{judgement.best.depth_error:.1f} layers, {judgement.best.width:,.0f} wide.",
        f"Against that shape: {own.layers / judgement.best.depth:.2f} times the layers that wait for one another, and "
        f"{judgement.kv_ratio:.2f} times the KV memory if all heads had keys.",
        f"As it is: {price.kv_bytes / 1024:,.1f} KiB a token, {price.sequences:,} sequences on {price.devices} of the "
        f"device, {price.tokens_per_s:,.0f} tokens/s.",
    ]


def _table(found: list[Candidate], device: Device, context: int) -> Table:
    from rich import box
    from rich.table import Table

    title = f"{device.name} ({device.source.split(':')[0]}), {context:,} tokens of context"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("")
    for heading in (
        "layers", "width", "heads", "parameters", "KV KiB/token", "devices", "sequences", "step ms", "alone ms",
        "tokens/s/device",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    table.add_column("the law says")
    for candidate in found:
        shape, price = candidate.shape, candidate.served
        table.add_row(
            "*" if candidate.frontier else "",
            f"{shape.depth}",
            f"{shape.width:,}",
            f"{shape.heads} x {shape.head_size}",
            f"{shape.law_parameters:.3g}",
            f"{price.kv_bytes / 1024:,.0f}",
            f"{price.devices}",
            f"{price.sequences:,}",
            f"{1e3 * price.step_s:.1f}",
            f"{1e3 * price.alone_s:.2f}",
            f"{price.tokens_per_s:,.0f}",
            candidate.judgement.verdict + (", nearest to the optimum" if candidate.best else ""),
            style="bold" if candidate.best else "",
        )
    return table


def _optimum(best: Optimum) -> dict[str, Any]:
    low, high = best.width_range
    return {
        "depth": best.depth, "depth_error": best.depth_error, "width": best.width, "width_low": low,
        "width_high": high, "notes": list(best.notes),
    }  # fmt: skip


def _sizes(depth: int, width: int, heads: int) -> dict[str, Any]:
    from presize.theory.depth_width.shapes import law_parameters

    return {"depth": depth, "width": width, "heads": heads, "law_parameters": law_parameters(depth, width)}


def _judged(judgement: Judgement) -> dict[str, Any]:
    return {"verdict": judgement.verdict, "log_depth_ratio": judgement.log_ratio, "kv_ratio": judgement.kv_ratio}


def _served(price: Served) -> dict[str, Any]:
    return {
        "kv_bytes_per_token": price.kv_bytes, "devices": price.devices, "sequences": price.sequences,
        "batch": price.batch, "step_s": price.step_s, "alone_s": price.alone_s,
        "tokens_per_s_per_device": price.tokens_per_s,
    }  # fmt: skip


def _candidate(candidate: Candidate) -> dict[str, Any]:
    shape = candidate.shape
    return {
        **_sizes(shape.depth, shape.width, shape.heads), **_judged(candidate.judgement), **_served(candidate.served),
        "best": candidate.best, "frontier": candidate.frontier,
    }  # fmt: skip
