"""Figures of a run, of the real engine or a simulated one. Times: seconds on the run's clock; memory: tokens."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np


class Figures:
    """Counts steps and finished requests; `summary` is what `presize generate` prints last."""

    def __init__(self, capacity_tokens: int) -> None:
        self._capacity = capacity_tokens
        self.output_tokens = 0
        self.preemptions = 0
        self._requests = 0
        self._recomputed = 0
        self._first_s: float | None = None
        self._last_s = 0.0
        self._busy_s = 0.0
        self._used_token_seconds = 0.0
        self._batch_seconds = 0.0
        self._latencies, self._ttfts, self._gaps = Sample(), Sample(), Sample()

    def steps(
        self, kv_used: Sequence[int], seconds: Sequence[float], started: float, ended: float, batch: int, draws: int
    ) -> None:
        """Steps in a row, alike: ``batch`` sequences, blocks for ``kv_used`` tokens held, ``draws`` tokens drawn."""
        self._first_s = started if self._first_s is None else self._first_s
        self._last_s = ended
        # one by one: a sum made in another order would differ in its last digits
        for used, step_s in zip(kv_used, seconds, strict=True):
            self._busy_s += step_s
            self._used_token_seconds += used * step_s
            self._batch_seconds += batch * step_s
        self.output_tokens += draws * len(seconds)

    def preempted(self, count: int) -> None:
        """So many requests lost their blocks."""
        self.preemptions += count

    def ended(self, recomputed_tokens: int, latency_s: float | None = None, ttft_s: float = 0.0) -> None:
        """A request ended; without a latency, before its first token: there are no times to average then."""
        self._requests += 1
        self._recomputed += recomputed_tokens
        if latency_s is not None:
            self._latencies.add([latency_s])
            self._ttfts.add([ttft_s])

    def gaps(self, seconds: Iterable[float], sequences: int = 1) -> None:
        """Times between two tokens, each of so many sequences."""
        self._gaps.add(seconds, sequences)

    def merge(self, other: Figures) -> None:
        """Count another device's run in, over the same time."""
        if other._first_s is not None:
            self._last_s = max(self._last_s, other._last_s)
            self._first_s = other._first_s if self._first_s is None else min(self._first_s, other._first_s)
        self.output_tokens += other.output_tokens
        self.preemptions += other.preemptions
        self._requests += other._requests
        self._recomputed += other._recomputed
        self._busy_s += other._busy_s
        self._used_token_seconds += other._used_token_seconds
        self._batch_seconds += other._batch_seconds
        self._latencies.merge(other._latencies)
        self._ttfts.merge(other._ttfts)
        self._gaps.merge(other._gaps)

    def summary(self, failed: int = 0) -> dict[str, float]:
        """The figures so far; ``requests`` counts the failed ones too."""
        seconds = self._last_s - (self._first_s or 0.0) if self._first_s is not None else 0.0
        busy = self._busy_s or 1.0
        return {
            "requests": self._requests + failed,
            "failed": failed,
            "output_tokens": self.output_tokens,
            "seconds": seconds,
            "tokens_per_second": self.output_tokens / seconds if seconds else 0.0,
            "preemptions": self.preemptions,
            "recomputed_tokens": self._recomputed,
            "kv_utilization_mean": self._used_token_seconds / busy / self._capacity,
            "batch_mean": self._batch_seconds / busy,
            "latency_mean_s": self._latencies.mean(),
            "latency_p99_s": self._latencies.percentile(99),
            "ttft_mean_s": self._ttfts.mean(),
            "itl_p99_s": self._gaps.percentile(99),
            "longest_stall_s": self._gaps.largest,
        }


class Sample:
    """Numbers of which there may be too many to keep: mean and largest are exact, percentiles up to ``size`` of them.

    Beyond that, neighbours in size are put together, two and two; each keeps its weight. Nothing is drawn at random.
    """

    def __init__(self, size: int = 2**18) -> None:
        self._size = size
        self._kept, self._weights = array("d"), array("q")
        self.count, self.largest = 0, 0.0
        self._total = 0.0

    def add(self, values: Iterable[float], weight: int = 1) -> None:
        """Take more, each of which occurred ``weight`` times."""
        if weight == 0:
            return
        for value in values:
            self.count += weight
            self._total += weight * value
            self.largest = max(self.largest, value)
            if len(self._kept) == self._size:
                self._thin()
            self._kept.append(value)
            self._weights.append(weight)

    def merge(self, other: Sample) -> None:
        """Take what another one has seen."""
        self.count += other.count
        self._total += other._total
        self.largest = max(self.largest, other.largest)
        self._kept.extend(other._kept)
        self._weights.extend(other._weights)
        while len(self._kept) > self._size:
            self._thin()

    def _thin(self) -> None:
        values, weights = self._sorted()
        if len(values) % 2:
            values, weights = np.append(values, values[-1]), np.append(weights, 0)
        pairs, heavy = values.reshape(-1, 2), weights.reshape(-1, 2)
        total = heavy.sum(axis=1)
        self._kept = array("d", ((pairs * heavy).sum(axis=1) / total).tolist())
        self._weights = array("q", total.tolist())

    def _sorted(
        self,
    ) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
        values = np.array(self._kept, dtype=np.float64)
        weights = np.array(self._weights, dtype=np.int64)
        order = np.argsort(values, kind="stable")
        return values[order], weights[order]

    def mean(self) -> float:
        """0 if there are none."""
        return self._total / self.count if self.count else 0.0

    def percentile(self, q: float) -> float:
        """Linear between two ranks, as numpy's; 0 if there are none."""
        if not self.count:
            return 0.0
        values, weights = self._sorted()
        if self.count == len(values):
            return float(np.percentile(values, q))
        rank = q / 100 * (self.count - 1)
        below = int(rank)
        ends = np.cumsum(weights)
        low, high = (values[np.searchsorted(ends, r, side="right")] for r in (below, min(below + 1, self.count - 1)))
        return float(low + (rank - below) * (high - low))
