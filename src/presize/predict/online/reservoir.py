"""The newest answers, bounded, shared fairly among tenants, and kept on disk: what online learning learns from.

The file holds what a predictor reads of each prompt, as token ids: whoever can read it can read the prompts.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from presize.core.lengths import MAX_LENGTH
from presize.errors import first_line
from presize.predict.base import Query
from presize.predict.features import MAX_READ, Features, Float32
from presize.predict.model import Arrays
from presize.predict.train.task import Answers
from presize.whole_file import replace_file

CAPACITY = 5_000  # answers
ROOM = 1_000_000  # prompt tokens of all of them
SHARE = 4  # as soon as there are several tenants, none has more than one part in this many
FOLDS = 5
_FORMAT = "1"

T = TypeVar("T")


class Recent(Generic[T]):
    """The newest items: at most ``capacity``, and at most ``room`` in size together (one item always fits).

    As soon as several tenants have items, none has more than a quarter of either; its own oldest go first.
    """

    def __init__(self, capacity: int, room: int | None = None) -> None:
        self._capacity, self._room = capacity, room
        self._items: OrderedDict[int, tuple[Hashable, T, int]] = OrderedDict()  # by number, the oldest first
        self._numbers: dict[Hashable, deque[int]] = {}  # of each tenant's items
        self._sizes: dict[Hashable, int] = {}
        self._size = self._next = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        """The oldest first."""
        return (item for _, item, _ in self._items.values())

    def add(self, tenant: Hashable, item: T, size: int = 0) -> None:
        """The newest item, which may push out others."""
        tenants = len(self._numbers)
        self._numbers.setdefault(tenant, deque()).append(self._next)
        self._items[self._next] = (tenant, item, size)
        self._sizes[tenant] = self._sizes.get(tenant, 0) + size
        self._size += size
        self._next += 1
        if len(self._numbers) > 1:
            # the first tenant had all of it until the second came
            for name in list(self._numbers) if tenants == 1 else [tenant]:
                self._cut(name)
        while len(self._items) > 1 and (
            len(self._items) > self._capacity or (self._room is not None and self._size > self._room)
        ):
            self._drop(next(iter(self._items.values()))[0])

    def _cut(self, tenant: Hashable) -> None:
        numbers, most = self._numbers[tenant], max(self._capacity // SHARE, 1)
        while len(numbers) > 1 and (
            len(numbers) > most or (self._room is not None and self._sizes[tenant] > self._room // SHARE)
        ):
            self._drop(tenant)

    def _drop(self, tenant: Hashable) -> None:
        """A tenant's oldest item."""
        numbers = self._numbers[tenant]
        size = self._items.pop(numbers.popleft())[2]
        self._size -= size
        self._sizes[tenant] -= size
        if not numbers:
            del self._numbers[tenant], self._sizes[tenant]


@dataclass(frozen=True, slots=True)
class Answer:
    """tokens: (n,) int32, those that a predictor reads of the prompt. tenant: `tenant_key` of its name."""

    tokens: np.ndarray[tuple[int], np.dtype[np.int32]]
    max_tokens: int
    temperature: float
    system: bool
    tenant: int
    output_tokens: int
    censored: bool

    @classmethod
    def of(cls, query: Query, features: Features, output_tokens: int, censored: bool) -> Answer:
        """What is kept of an answer."""
        tokens = features.tokens(query).astype(np.int32)
        return cls(
            tokens, query.max_tokens, query.temperature, query.system, tenant_key(query.tenant), output_tokens, censored
        )

    @property
    def fold(self) -> int:
        """0 to FOLDS - 1, by the prompt: all answers to one prompt are in the same."""
        return int.from_bytes(hashlib.blake2b(self.tokens.tobytes(), digest_size=8).digest(), "little") % FOLDS

    def query(self) -> Query:
        """As a predictor is asked; the prompt is what is read of it, so `Features.tokens` must not see it again."""
        return Query("", self.tokens, self.max_tokens, self.temperature, self.system)


def tenant_key(name: str) -> int:
    """A tenant's name as 63 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def newest(answers: Iterable[Answer], count: int) -> list[Answer]:
    """The newest ``count``, the oldest of them first; of one tenant at most a quarter as soon as there are several."""
    kept: Recent[Answer] = Recent(count)
    for answer in answers:
        kept.add(answer.tenant, answer)
    return list(kept)


def as_seen(answers: Sequence[Answer], features: Features) -> Answers:
    """As a model sees them."""
    queries, prompts = [answer.query() for answer in answers], [answer.tokens.astype(np.int64) for answer in answers]
    sides: Float32 = features.sides(queries, [len(prompt) for prompt in prompts])
    lengths = np.array([answer.output_tokens for answer in answers], dtype=np.int64)
    return Answers(queries, prompts, sides, lengths, np.array([answer.censored for answer in answers], dtype=bool))


@dataclass
class Reservoir:
    """The newest answers that may be kept; see `Recent` for how they are shared."""

    _kept: Recent[Answer] = field(default_factory=lambda: Recent(CAPACITY, ROOM))

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, answer: Answer) -> None:
        """The newest answer."""
        self._kept.add(answer.tenant, answer, len(answer.tokens))

    def answers(self) -> list[Answer]:
        """The oldest first."""
        return list(self._kept)

    def write(self, path: Path) -> None:
        """Replace ``path`` in one move; only its owner may read it."""
        from safetensors.numpy import save

        rows = self.answers()
        arrays: Arrays = {
            "tokens": np.concatenate([row.tokens for row in rows] or [np.zeros(0, dtype=np.int32)]),
            "sizes": np.array([len(row.tokens) for row in rows], dtype=np.int64),
            "temperature": np.array([row.temperature for row in rows], dtype=np.float64),
            **{name: np.array([getattr(row, name) for row in rows], dtype=np.int64) for name in _WHOLE},
        }
        replace_file(path, save(arrays, {"format": _FORMAT}))

    @classmethod
    def read(cls, path: Path) -> Reservoir:
        """ValueError if the file is damaged, OSError if it can not be read."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            found = load(path.read_bytes())
            count = len(found["sizes"])
            whole = np.stack([found[name] for name in ("sizes", *_WHOLE)])
            tokens, temperature = found["tokens"], found["temperature"]
            if whole.shape != (1 + len(_WHOLE), count) or whole.dtype != np.int64 or temperature.shape != (count,):
                raise ValueError("its arrays do not fit together")
            if tokens.dtype != np.int32 or tokens.shape != (int(whole[0].sum()),) or (tokens < 0).any():
                raise ValueError("its tokens do not fit its sizes")
            if not ((whole >= _LOW[:, None]) & (whole <= _HIGH[:, None])).all() or not np.isfinite(temperature).all():
                raise ValueError("a number is out of its range")
        except (SafetensorError, KeyError) as error:
            raise ValueError(first_line(error)) from error
        reservoir = cls()
        ends = np.cumsum(whole[0])
        for end, size, row, heat in zip(
            ends.tolist(), whole[0].tolist(), whole[1:].T.tolist(), temperature.tolist(), strict=True
        ):
            max_tokens, system, tenant, output_tokens, censored = row
            part = tokens[end - size : end].copy()
            reservoir.add(Answer(part, max_tokens, heat, bool(system), tenant, output_tokens, bool(censored)))
        return reservoir


_WHOLE = ("max_tokens", "system", "tenant", "output_tokens", "censored")
_LOW = np.array([1, 1, 0, 0, 1, 0])  # of the sizes, then of _WHOLE
_HIGH = np.array([MAX_READ, 2**62, 1, 2**63 - 1, MAX_LENGTH, 1])
