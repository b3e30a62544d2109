"""A request that is sent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """A request. output_len: max_tokens; asked_tokens: how long its prompt was meant to be, if it is made up."""

    prompt: str | list[dict[str, str]]
    output_len: int
    asked_tokens: int | None = None
