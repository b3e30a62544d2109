"""Figures of a run. Times are in seconds on the engine's clock, memory in tokens."""

from __future__ import annotations

from array import array

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
        self._latencies, self._ttfts, self._gaps = array("d"), array("d"), array("d")

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
        self._latencies.append(output.metrics.latency_s)
        self._ttfts.append(output.metrics.ttft_s)
        self._gaps.extend(output.metrics.token_gaps_s)

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
            "latency_mean_s": _mean(self._latencies),
            "latency_p99_s": _percentile(self._latencies, 99),
            "ttft_mean_s": _mean(self._ttfts),
            "itl_p99_s": _percentile(self._gaps, 99),
            "longest_stall_s": max(self._gaps, default=0.0),
        }


def _mean(values: array[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _percentile(values: array[float], q: float) -> float:
    return float(np.percentile(values, q)) if values else 0.0
