"""What the verbs about length forecasts share: tokenizer, log, table of figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from presize.cli.text import count
from presize.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from rich.console import Console

    from presize.cli.progress import Progress
    from presize.cli.work import Report
    from presize.engine.tokenizer import Tokenizer
    from presize.predict.learned import Learned
    from presize.predict.log import Log
    from presize.predict.store import Header

# name -> (label, unit), in the order of the table
_FIGURES: dict[str, tuple[str, str]] = {
    "n": ("answers", ""),
    "kendall_tau": ("rank agreement, Kendall's tau", ""),
    "mae": ("absolute error of the median, mean", "tokens"),
    "median_absolute_error": ("absolute error of the median, median", "tokens"),
    "log_r2": ("R2 of log length", ""),
    "crps": ("CRPS", "tokens"),
    "pinball": ("pinball loss, mean over deciles", "tokens"),
    "coverage_50": ("answers within the central 50 %", "%"),
    "coverage_90": ("answers within the central 90 %", "%"),
    "bucket_accuracy_10": ("right bucket of ten", "%"),
    "us_per_prompt": ("time for a prompt, 32 at once", "us"),
    "us_single": ("time for a prompt alone", "us"),
    "train_seconds": ("learned in", "s"),
}


def served_tokenizer(model: str, report: Report) -> Tokenizer:
    """The tokenizer of a model that `presize pull` knows; ModelError if it can not be had."""
    from presize.engine.hub import resolve
    from presize.engine.tokenizer import Tokenizer

    return Tokenizer(resolve(model, report=report))


def load_predictor(name: str, model: str | None, report: Report) -> tuple[Header, Tokenizer, Learned]:
    """The predictor in a directory, and the tokenizer of ``model`` (default: the one that it was learned for).

    ``auto`` is the one that comes with the default model. ModelError if either can not be had, or they do not fit.
    """
    from presize.predict.choose import AUTO, SHIPPED
    from presize.predict.learned import Learned
    from presize.predict.store import read_header

    directory = SHIPPED[DEFAULT_MODEL] if name == AUTO else Path(name)
    header = read_header(directory)
    tokenizer = served_tokenizer(model or header.model, report)
    return header, tokenizer, Learned.load(directory, tokenizer.fingerprint())


def read_answers(path: str, tokenizer: Tokenizer, progress: Progress) -> Log:
    """A log, with progress in bytes; ConfigError names the line that is wrong."""
    from presize.predict.log import read_log

    file, done = Path(path), 0
    total = file.stat().st_size if file.is_file() else 0

    def on_row(size: int) -> None:
        nonlocal done
        done += size
        progress.report("reading the log", done, total)

    log = read_log(file, tokenizer, on_row)
    if log.errors:
        progress.say(f"{count(log.errors, 'line')} of {path} without an answer passed over")
    return log


def read_states(log: Log, model: str, report: Report) -> Log:
    """The log with what the served model makes of its prompts; they go through it, the answers do not."""
    from presize.engine.states import with_states

    return with_states(log, model, report)


def print_figures(console: Console, figures: Mapping[str, Any]) -> None:
    """A table for people."""
    from rich import box
    from rich.table import Table

    from presize.cli.summary import cell

    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    for name, (label, unit) in _FIGURES.items():
        if name in figures:
            table.add_row(label, cell(figures[name], unit), unit)
    console.print(table)
