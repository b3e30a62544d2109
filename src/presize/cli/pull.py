"""`presize pull`: have a model ready before it is needed."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from presize.config import DEFAULT_MODEL

_EPILOG = """\
example:
  presize pull                        the default model
  presize pull owner/name             a model of the Hugging Face hub; asks for its newest revision
  presize generate --model "$(presize pull ./model.gguf)" ...

The directory is the only line on stdout; progress goes to stderr. Models are kept in $PRESIZE_CACHE, or `presize` in
$XDG_CACHE_HOME or ~/.cache (those of the hub in its own cache, $HF_HOME).
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to ``subparsers`` (what ``ArgumentParser.add_subparsers`` returns)."""
    parser = subparsers.add_parser(
        "pull",
        help="fetch and convert a model",
        description="Fetch a model, convert it if it is a .gguf file, and print the directory that it is in.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default=DEFAULT_MODEL,
        help=f"a packaged model, a .gguf file, a directory or owner/name on the hub (default: {DEFAULT_MODEL})",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the model's directory; PresizeError if it can not be had."""
    from presize.engine.hub import resolve

    with _Bar() if sys.stderr.isatty() else _Lines() as progress:
        directory = resolve(args.model, report=progress.report, refresh=True)
    print(directory)
    return 0


class _Lines:
    """A line on stderr for each stage."""

    def __init__(self) -> None:
        self._stage = ""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def report(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            print(f"{stage} ({total / 1e6:.0f} MB)" if total else stage, file=sys.stderr, flush=True)
            self._stage = stage


class _Bar:
    """A bar on stderr that is gone at the end; it swings where the total is not known."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
        self._bars = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
        self._task = self._bars.add_task("looking", total=None, amount="")
        self._stage = "looking"

    def __enter__(self) -> _Bar:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def report(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._bars.reset(self._task, description=stage)
            self._stage = stage
        amount = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else ""
        self._bars.update(self._task, completed=done, total=total or None, amount=amount)
