"""From rows to answers: the one loop that `presize generate` and `presize bench` share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, BinaryIO, Protocol

from presize.cli.flags import build
from presize.cli.rows import Row, RowError, row_error
from presize.config import EngineOptions
from presize.engine.outputs import RequestOutput
from presize.engine.sampling_params import SamplingParams
from presize.errors import ConfigError, InvalidRequestError

Report = Callable[[str, int, int], None]  # stage, done, total


class Snapshot(Protocol):
    """What the engine holds now; tokens are KV tokens except ``output_tokens``, all generated since the (re)start."""

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_used_tokens(self) -> int: ...
    @property
    def kv_booked_tokens(self) -> int: ...
    @property
    def kv_capacity_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...


class Stats(Protocol):
    """Statistics since the engine's start or restart."""

    def summary(self, failed: int = 0) -> Mapping[str, Any]: ...


class Serving(Protocol):
    """What the command line needs of ``presize.engine.engine.Engine``."""

    @property
    def stats(self) -> Stats: ...
    @property
    def forecast_source(self) -> str: ...
    def add_request(self, request_id: str, prompt: str | list[int], params: SamplingParams) -> None: ...
    def add_chat(self, request_id: str, messages: list[dict[str, str]], params: SamplingParams) -> None: ...
    def step(self) -> list[RequestOutput]: ...
    def abort(self, request_id: str) -> RequestOutput | None: ...
    def has_unfinished_requests(self) -> bool: ...
    def restart(self, *, policy: str, order: str, predictor: str) -> None: ...
    def snapshot(self) -> Snapshot: ...


@dataclass(slots=True)
class Counts:
    """Rows so far."""

    total: int = 0
    answered: int = 0
    failed: int = 0

    @property
    def done(self) -> int:
        """Rows that need nothing more."""
        return self.answered + self.failed


def engine_options(values: Mapping[str, Any]) -> EngineOptions:
    """The engine's options from those of the values that are its own; what can be known wrong is, before it loads."""
    from presize.predict.choose import check_name

    options = build(EngineOptions, values)
    check_name(options.predictor)
    return options


def load_engine(options: EngineOptions, report: Report | None = None) -> Serving:
    """Load the model; here, and not at the top, because it imports torch."""
    from presize.engine.engine import Engine

    return Engine.load(options, report=report)


def run_rows(
    engine: Serving,
    rows: Iterable[Row | RowError],
    on_output: Callable[[Row, RequestOutput], None],
    on_error: Callable[[RowError], None],
    on_step: Callable[[Counts], None],
    *,
    keep_prompts: bool = False,
    keep_stopped: bool = False,
) -> Counts:
    """Put every row into the engine's queue, then step until all are answered.

    ``on_step`` is called after each row that is read and after each step. ``on_output`` gets the row without its
    prompt unless ``keep_prompts``, and, with ``keep_stopped``, also what is there of answers that an interrupt stops.
    A row that the engine refuses goes to ``on_error`` and leaves the others alone; any other exception ends the run.
    """
    counts = Counts()
    pending: dict[str, Row] = {}
    for row in rows:
        counts.total += 1
        bad = row if isinstance(row, RowError) else _submit(engine, row)
        if bad is not None:
            counts.failed += 1
            on_error(bad)
        else:
            assert isinstance(row, Row)
            # mostly without its prompt, which the engine has: a file may have a million of them
            pending[row.request_id] = row if keep_prompts else replace(row, prompt=None, messages=None)
        on_step(counts)
    try:
        while engine.has_unfinished_requests():
            for output in engine.step():
                counts.answered += 1
                on_output(pending.pop(output.request_id), output)
            on_step(counts)
    except KeyboardInterrupt:
        if keep_stopped:
            for request_id, row in pending.items():
                if (stopped := engine.abort(request_id)) is not None:
                    on_output(row, stopped)
        raise
    return counts


def _submit(engine: Serving, row: Row) -> RowError | None:
    try:
        if row.messages is not None:
            engine.add_chat(row.request_id, row.messages, row.params)
        else:
            assert row.prompt is not None
            engine.add_request(row.request_id, row.prompt, row.params)
    except InvalidRequestError as error:
        return row_error(row.line, row.id, error)
    return None


@contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    """The input file, ``-`` for standard input; ConfigError if it can not be read."""
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; the errors of the body are not ours
    except OSError as error:
        raise ConfigError(f"the input {path} can not be read: {error.strerror or error}") from error
    with file:
        yield file


def at_least_one(rows: Iterator[Row | RowError], path: str) -> Iterator[Row | RowError]:
    """The same rows; ConfigError at once if there are none, so that no model is loaded for nothing."""
    first = next(rows, None)
    if first is None:
        raise ConfigError(f"the input {path} has no rows; each line is an object with `prompt` or `messages`")
    return chain([first], rows)
