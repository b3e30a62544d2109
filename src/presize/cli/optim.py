"""`presize optim report`: how well second moments of a model's layers are approximated, and what they look like."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from presize.cli.flags import add_flags, build, gather
from presize.cli.text import paragraphs
from presize.config import OptimReportOptions
from presize.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn

    from presize.cli.work import Report

OPTIONS = (OptimReportOptions,)

_EPILOG = paragraphs(
    "MODEL: as --model of `presize generate`; its gradients are those of the next-token loss on --text. SCRIPT.py: a "
    "Python file of yours, which is run, and leaves three names: model (a torch.nn.Module), batches (an iterable), and "
    "loss(model, batch), a scalar tensor. Of each type of layer (query, key, value, output, feed-forward) the middle "
    "one is looked at, and of it the corner of --rows outputs and --columns inputs, as the matrix has "
    "(rows x columns)^2 entries.",
    "The errors are relative, in Frobenius norm: `full` against the whole second-moment matrix, `blocks` against its "
    "diagonal blocks, which are what a block method aims at. The last line on standard output is a JSON object: "
    "layers, a list of name, type, rows, columns and errors (method: full, blocks).",
)


def add_parser(subparsers: Any) -> None:
    """Add the verb to the parser of `presize`."""
    optim = subparsers.add_parser("optim", description="Optimizers.", usage="presize optim report ...")
    kinds = optim.add_subparsers(dest="kind", metavar="KIND", required=True, title="kinds", prog="presize optim")
    parser = kinds.add_parser(
        "report",
        usage="presize optim report MODEL|SCRIPT.py [--text FILE] [--save-plot FILE] [flags]",
        description="Measure on a model how well second moments are approximated by optimizers, and draw them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="MODEL|SCRIPT.py", help="what has layers, and gradients")
    add_flags(parser, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from rich.console import Console

    from presize.cli.optim_plots import save_report
    from presize.cli.picture_file import check_picture
    from presize.cli.progress import Progress
    from presize.cli.summary import json_line
    from presize.optim.report import report, sampled

    options = build(OptimReportOptions, gather(args, OPTIONS))
    if options.rows % options.heads:
        raise ConfigError(f"heads is {options.heads}; it must divide rows, which is {options.rows}")
    if options.save_plot is not None:
        check_picture(Path(options.save_plot))
    console = Console(stderr=True)
    with Progress(console) as progress:
        model, batches, loss = _target(args.target, options, progress.report)
        layers = sampled(
            model, batches, loss, samples=options.samples, rows=options.rows, columns=options.columns,
            progress=progress.report,
        )  # fmt: skip
        progress.report("second moments", 0, 0)
        found = report(layers, options.rank, options.heads)
        if options.save_plot is not None:
            save_report(Path(options.save_plot), found)
    _print(console, found)
    sys.stdout.write(json_line({"layers": [{k: v for k, v in row.items() if k != "heat"} for row in found]}))
    return 0


def _print(console: Console, found: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    for reference, title in (("full", "the whole matrix"), ("blocks", "its diagonal blocks")):
        table = Table(
            box=box.SIMPLE_HEAD, title=f"Relative error against {title}", title_justify="left",
            pad_edge=False, padding=(0, 1, 0, 0),
        )  # fmt: skip
        table.add_column("approximation", no_wrap=True)
        for row in found:
            table.add_column(row["type"].replace("feed-forward", "mlp"), justify="right", min_width=len("output"))
        for method in found[0]["errors"]:
            cells = [row["errors"][method].get(reference) for row in found]
            if cells[0] is not None:
                table.add_row(method, *(f"{cell:.3f}" for cell in cells))
        console.print(table)


_Target = tuple["nn.Module", Iterable[Any], Callable[["nn.Module", Any], "Tensor"]]


def _target(target: str, options: OptimReportOptions, report: Report) -> _Target:
    if target.endswith(".py"):
        if options.text is not None:
            raise ConfigError("--text goes with a model; a script brings its own batches")
        return _scripted(target)
    if options.text is None:
        raise ConfigError("--text is missing: the file whose next-token loss gives the gradients")
    return _language_model(target, options, report)


def _scripted(path: str) -> _Target:
    import torch

    if not Path(path).is_file():
        raise ConfigError(f"there is no file {path}")
    names = runpy.run_path(path)
    missing = [name for name in ("model", "batches", "loss") if name not in names]
    if missing:
        raise ConfigError(f"{path} does not define {', '.join(missing)}; it must leave model, batches and loss")
    if not isinstance(names["model"], torch.nn.Module):
        raise ConfigError(f"model in {path} is a {type(names['model']).__name__}; it must be a torch.nn.Module")
    return names["model"], names["batches"], names["loss"]


def _language_model(name: str, options: OptimReportOptions, report: Report) -> _Target:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from presize.engine.hub import resolve
    from presize.engine.tokenizer import Tokenizer

    path = resolve(name, report=report)
    tokens = Tokenizer(path).encode(_read(options.text or ""))
    length = options.context
    if len(tokens) < length * options.samples:
        raise ConfigError(
            f"--text has {len(tokens)} tokens; {options.samples} samples of {length} need {length * options.samples}"
        )
    report("loading the model", 0, 0)
    logging.disable_progress_bar()  # there is one already
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    )

    def batches() -> Iterator[Tensor]:
        for start in range(0, length * options.samples, length):
            yield torch.tensor([tokens[start : start + length]])

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        value: Tensor = model(input_ids=batch, labels=batch, use_cache=False).loss
        return value

    return model.eval(), batches(), loss


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(2**24)
    except OSError as error:
        raise ConfigError(f"--text {path} can not be read: {error.strerror or error}") from error
