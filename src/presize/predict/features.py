"""What a learned model sees of a request: the tokens that tell prompts apart, and a few numbers beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presize.core.lengths import IntArray
from presize.predict.base import Query

MAX_READ = 4096  # tokens; of a longer prompt both ends are read
_MAX_FRAME = 512  # tokens
_LIMIT = 3.0  # standard deviations to which side inputs are clipped: what was never seen is not extrapolated to
SIDES = ("log prompt tokens", "log max_tokens", "temperature", "system prompt")

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Features:
    """prefix, suffix: tokens that all prompts of the training log share, such as a chat template's; they are left
    out. mean, scale: (4,) of the side inputs; scale 0 leaves out one that was always the same.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def of(cls, queries: Sequence[Query]) -> Features:
        """Those of a log."""
        prompts = [query.prompt_token_ids for query in queries]
        prefix = _shared(prompts)
        suffix = _shared([prompt[len(prefix) :][::-1] for prompt in prompts])[::-1]
        plain = cls(prefix, suffix, (0.0,) * len(SIDES), (1.0,) * len(SIDES))
        raw = plain._raw_sides(queries, [plain.tokens(query).size for query in queries])
        deviation = raw.std(axis=0)
        scale = np.where(deviation > 1e-6, 1.0 / np.maximum(deviation, 1e-6), 0.0)
        return cls(prefix, suffix, tuple(raw.mean(axis=0).tolist()), tuple(scale.tolist()))

    def tokens(self, query: Query) -> IntArray:
        """(n,) tokens of the prompt without what all share, at least one and at most MAX_READ."""
        ids = query.prompt_token_ids
        head, tail = len(self.prefix), len(self.suffix)
        start = head if head and len(ids) > head and tuple(ids[:head]) == self.prefix else 0
        end = len(ids) - tail if tail and len(ids) - tail > start and tuple(ids[-tail:]) == self.suffix else len(ids)
        if end - start > MAX_READ:
            half = MAX_READ // 2
            return np.asarray([*ids[start : start + half], *ids[end - half : end]], dtype=np.int64)
        return np.asarray(ids[start:end], dtype=np.int64)

    def sides(self, queries: Sequence[Query], sizes: Sequence[int]) -> Float32:
        """(N, 4) side inputs; ``sizes`` are the numbers of tokens read of each prompt."""
        scaled = (self._raw_sides(queries, sizes) - self.mean) * self.scale
        return np.asarray(np.clip(scaled, -_LIMIT, _LIMIT), dtype=np.float32)

    @staticmethod
    def _raw_sides(queries: Sequence[Query], sizes: Sequence[int]) -> Any:
        rows = [
            (np.log(size), np.log(query.max_tokens), query.temperature, query.system)
            for query, size in zip(queries, sizes, strict=True)
        ]
        return np.array(rows, dtype=np.float64).reshape(-1, len(SIDES))


def _shared(prompts: Sequence[Any]) -> tuple[int, ...]:
    """The longest beginning of all, leaving each at least one token."""
    first = tuple(int(token) for token in prompts[0][:_MAX_FRAME])
    length = min(len(first), *(len(prompt) - 1 for prompt in prompts))
    for prompt in prompts:
        while length and tuple(prompt[:length]) != first[:length]:
            length -= 1
    return first[:length]
