"""The data of scan and snap: classes of sequences, each with a query, a next token, and a law of context tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from presize.errors import ConfigError, check_range

FloatArray = NDArray[np.float64]
MAX_TOKENS, MAX_CLASSES, MAX_QUERIES = 200_000, 20_000, 20_000
DISTINCT_WEIGHTS = tuple(np.linspace(0.1, 1.0, 10).tolist())  # of the official experiments, before normalisation


@dataclass(frozen=True, slots=True)
class Classes:
    """K sequence classes over M tokens, C of which occur in contexts, with Q queries (the paper's section 3).

    tokens: M. probabilities: (K, C), P(l|n) of context token l in class n. query: (K,), psi(n) in [0, Q). Class n has
    the next token n; the other M - K tokens are never next. Classes are equally likely.
    """

    tokens: int
    probabilities: FloatArray
    query: NDArray[np.int64]

    def __post_init__(self) -> None:
        count, context = self.probabilities.shape
        if self.tokens < count:
            raise ConfigError(f"tokens is {self.tokens}; it must be at least the number of classes, {count}")
        if self.tokens < context:
            raise ConfigError(f"tokens is {self.tokens}; it must be at least the number of context tokens, {context}")
        if not np.allclose(self.probabilities.sum(axis=1), 1.0) or (self.probabilities < 0).any():
            raise ConfigError("the probabilities of a class's context tokens must be at least 0 and add up to 1")
        if self.query.shape != (count,) or (self.query < 0).any():
            raise ConfigError(f"query has the shape {self.query.shape}; it must be one number, at least 0, a class")

    @property
    def count(self) -> int:
        """K."""
        return len(self.probabilities)

    @property
    def queries(self) -> int:
        """Q."""
        return int(self.query.max()) + 1

    @property
    def owners(self) -> NDArray[np.int64]:
        """(C,) |Omega(l)|: in how many classes each context token occurs; 1 is distinct, more is common."""
        return np.asarray((self.probabilities > 0).sum(axis=0))

    @property
    def distinct(self) -> NDArray[np.bool_]:
        """(K, C), true for the tokens that occur in this class and in no other."""
        return np.asarray((self.probabilities > 0) & (self.owners == 1))

    @property
    def dominant(self) -> NDArray[np.int64]:
        """(K,) the most frequent distinct token of each class."""
        return np.asarray(np.where(self.distinct, self.probabilities, -1.0).argmax(axis=1))

    def attention(self, scores: FloatArray) -> FloatArray:
        """(..., K, C) c_{l|n} = P(l|n) exp(z_ml) / sum, for long sequences, from scores Z (..., Q, C)."""
        own = scores[..., self.query, :]
        weights = self.probabilities * np.exp(own - own.max(axis=-1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=-1, keepdims=True))

    def directions(self, scores: FloatArray) -> FloatArray:
        """(..., K, C) f_n = c_n / ||c_n||_2."""
        attention = self.attention(scores)
        return np.asarray(attention / np.linalg.norm(attention, axis=-1, keepdims=True))

    def overlap(self, scores: FloatArray | None = None) -> FloatArray:
        """(K, K) E = F^T F - I, at the start (all scores 0) unless told."""
        found = self.directions(np.zeros((self.queries, self.probabilities.shape[1])) if scores is None else scores)
        return np.asarray(found @ found.T - np.eye(self.count))

    def weakly_correlated(self) -> bool:
        """Assumption 2 at the start: M >> K^2 (here 10 K^2), |lambda(E)| < 1 / K for all, and >= sqrt(6 / M)."""
        sizes = np.abs(np.linalg.eigvalsh(self.overlap()))
        small = float(sizes.max()) < 1.0 / self.count and float(sizes.min()) >= (6.0 / self.tokens) ** 0.5
        return self.tokens >= 10 * self.count**2 and small

    def sample(self, count: int, length: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], FloatArray]:
        """(count,) classes, and (count, C) how often each token is among the length - 1 drawn before the query."""
        check_range("count", count, 1, 1_000_000)
        check_range("length", length, 2, 1_000_000)
        classes = rng.integers(self.count, size=count)
        counts = np.zeros((count, self.probabilities.shape[1]))
        for number in np.unique(classes):
            support = np.flatnonzero(self.probabilities[number])
            rows = np.flatnonzero(classes == number)
            drawn = rng.multinomial(length - 1, self.probabilities[number, support], size=len(rows))
            counts[rows[:, None], support] = drawn
        return classes, counts


def make_classes(
    count: int, queries: int, *, common: int, common_mass: float, distinct: Sequence[float] = DISTINCT_WEIGHTS,
    tokens: int | None = None,
) -> Classes:  # fmt: skip
    """K classes that share ``common`` equally likely tokens, and have distinct ones with these relative weights.

    common_mass: probability of all common tokens together. Classes are dealt out to the queries in turn, as many to
    each. tokens: M (default: context tokens, queries and next tokens).
    """
    check_range("count", count, 2, MAX_CLASSES)
    check_range("queries", queries, 1, MAX_QUERIES)
    check_range("common", common, 0, MAX_TOKENS)
    check_range("common_mass", common_mass, 0, 0.999)
    if count % queries:
        raise ConfigError(f"queries is {queries}; it must divide the number of classes, {count}")
    if (common == 0) != (common_mass == 0):
        raise ConfigError(f"common_mass is {common_mass} for {common} common tokens; both or neither must be 0")
    if not distinct or min(distinct) <= 0:
        raise ConfigError("distinct must be at least one weight, each above 0")
    size = len(distinct)
    context = common + size * count
    known = context + queries + count
    check_range("tokens", known if tokens is None else tokens, known if tokens is None else 1, MAX_TOKENS)
    probabilities = np.zeros((count, context))
    if common:
        probabilities[:, :common] = common_mass / common
    share = np.asarray(distinct) / sum(distinct) * (1 - common_mass)
    for number in range(count):
        probabilities[number, common + number * size : common + (number + 1) * size] = share
    query = np.repeat(np.arange(queries), count // queries)
    return Classes(known if tokens is None else tokens, probabilities, query)


def official(queries: int, next_per_query: int) -> Classes:
    """The classes of the paper's experiments: 10 common tokens of weight 1 and 10 distinct of 0.1 to 1, normalised."""
    total = 10.0 + sum(DISTINCT_WEIGHTS)
    return make_classes(queries * next_per_query, queries, common=10, common_mass=10.0 / total)
