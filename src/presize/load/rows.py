"""What a dataset gives: requests as they are, or only their shapes, whose prompts are made up later."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Generic, TypeVar, cast

from presize.errors import ConfigError

T = TypeVar("T")
_MAX_SHOWN = 80  # characters of a value that a complaint repeats


@dataclass(frozen=True, slots=True)
class Sample:
    """A request. output_len: max_tokens; asked_tokens: how long its prompt was meant to be, if it is made up."""

    prompt: str | list[dict[str, str]]
    output_len: int
    asked_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """A request of which only the lengths are known, in tokens. arrival_s: its time in a trace."""

    input_len: int
    output_len: int
    arrival_s: float = 0.0


@dataclass(slots=True)
class Rows(Generic[T]):
    """The usable rows of a file. bad: why others are not, in their order; left_out: usable, but not wanted."""

    good: list[T] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    left_out: int = 0


class BadRow(ValueError):
    """A row that can not be used, and why."""


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A file, unpacked if its name ends in .gz; ConfigError if it can not be read."""
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            yield cast(BinaryIO, file)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"dataset_path {path} can not be read: {reason}") from error


def shown(value: object) -> str:
    """``repr`` of a value from a file, cut to a length that fits a complaint."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
