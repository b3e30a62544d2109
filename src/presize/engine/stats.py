"""Figures of a run. Times are in seconds on the engine's clock, memory in tokens."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable

import numpy as np

from presize.core.scheduler import Decision
from presize.engine.outputs import RequestOutput


class EngineStats:
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

    def step(self, decision: Decision, kv_used: int, started: float, ended: float) -> None:
        """One step ran, with ``kv_used`` tokens' worth of blocks held."""
        seconds = ended - started
        self._first_s = started if self._first_s is None else self._first_s
        self._last_s = ended
        self._busy_s += seconds
        self._used_token_seconds += kv_used * seconds
        self._batch_seconds += len(decision.work) * seconds
        self.output_tokens += sum(work.draws for work in decision.work)
        self.preemptions += len(decision.preempted)

    def finished(self, output: RequestOutput, recomputed_tokens: int) -> None:
        """A request ended."""
        self._requests += 1
        self._recomputed += recomputed_tokens
        if not any(answer.token_ids for answer in output.outputs):
            return  # given up before its first token: there are no times to average
        self._latencies.add([output.metrics.latency_s])
        self._ttfts.add([output.metrics.ttft_s])
        self._gaps.add(output.metrics.token_gaps_s)

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
    """Numbers of which there may be too many to keep: mean and largest are exact, percentiles from the first
    ``size``, and beyond that from as many drawn uniformly from all (algorithm R, Vitter 1985).
    """

    def __init__(self, size: int = 2**18) -> None:
        self._size = size
        self._kept = array("d")
        self._random = random.Random(0)
        self.count, self.largest = 0, 0.0
        self._total = 0.0

    def add(self, values: Iterable[float]) -> None:
        """Take more."""
        for value in values:
            self.count += 1
            self._total += value
            self.largest = max(self.largest, value)
            if len(self._kept) < self._size:
                self._kept.append(value)
            elif (place := self._random.randrange(self.count)) < self._size:
                self._kept[place] = value

    def mean(self) -> float:
        """0 if there are none."""
        return self._total / self.count if self.count else 0.0

    def percentile(self, q: float) -> float:
        """0 if there are none."""
        return float(np.percentile(self._kept, q)) if self._kept else 0.0
