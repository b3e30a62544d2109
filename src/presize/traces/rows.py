"""What a file of requests gives: the usable rows, and why others are not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Generic, TypeVar, cast

import orjson

from presize.errors import ConfigError, shown

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shape:
    """A request of which only the lengths are known, in tokens.

    arrival_s: its time in a trace; max_tokens: the most it asked for, if the file says so; row: where it stands in the
    file, from 1 (see `Rows.unit`).
    """

    input_len: int
    output_len: int
    arrival_s: float = 0.0
    max_tokens: int | None = None
    row: int = field(default=0, compare=False)


@dataclass(slots=True)
class Rows(Generic[T]):
    """The usable rows of a file, in its order. bad: why others are not; left_out: usable, but not wanted.

    unit: what a row is called, such as "line"; timed: whether the file says when its requests came.
    """

    good: list[T] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    left_out: int = 0
    unit: str = "line"
    timed: bool = False


class BadRow(ValueError):
    """A row that can not be used, and why."""


@contextmanager
def opened(path: str, name: str = "dataset_path") -> Iterator[BinaryIO]:
    """A file, unpacked if its name ends in .gz; ConfigError, which calls it ``name``, if it can not be read."""
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            yield cast(BinaryIO, file)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{name} {path} can not be read: {reason}") from error


def object_of(line: bytes, wanted: str) -> dict[str, Any]:
    """A line of JSON; BadRow unless it is an object, ``wanted`` says with what in it."""
    try:
        row = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise BadRow(f"it is not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict):
        raise BadRow(f"it is {shown(row)}, not an object with {wanted}")
    return row
