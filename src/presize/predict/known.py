"""The two ends of the scale: lengths known exactly, and not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from presize.config import SchedulerOptions
from presize.core.lengths import LengthDistribution
from presize.errors import ConfigError
from presize.predict.base import PREDICTORS, Predictor, Query


@PREDICTORS.register("max-tokens")
class MaxTokens(Predictor):
    """No knowledge: every answer is taken to use all its max_tokens."""

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        return [LengthDistribution.exactly(query.max_tokens) for query in queries]


@PREDICTORS.register("oracle")
class Oracle(Predictor):
    """True lengths from a JSONL file (option ``lengths``) with ``id`` and ``output_tokens``, for experiments."""

    def __init__(self, options: SchedulerOptions) -> None:
        if options.lengths is None:
            raise ConfigError("predictor oracle needs --lengths FILE, a JSONL file with `id` and `output_tokens`")
        self._path = options.lengths
        self._lengths = _read_lengths(Path(options.lengths))

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        return [LengthDistribution.exactly(self._length(query)) for query in queries]

    def _length(self, query: Query) -> int:
        if query.request_id not in self._lengths:
            raise ConfigError(f"{self._path} has no line with id {query.request_id!r}; oracle needs one a request")
        return self._lengths[query.request_id]


def _read_lengths(path: Path) -> dict[str, int]:
    lengths: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    tokens = row["output_tokens"]
                    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
                        raise ValueError(f"output_tokens is {tokens!r}, not a whole number from 1")
                    lengths[str(row["id"])] = tokens
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise ConfigError(f"{path}, line {number}: needs `id` and `output_tokens` ({error})") from error
    except OSError as error:
        raise ConfigError(f"can not read the lengths file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the lengths file {path} is not UTF-8") from error
    return lengths
