"""Presize's figures on vLLM's own ``/metrics``.

The engine runs in a process of its own, so they travel as vLLM's do when it has several API servers: as files in
``PROMETHEUS_MULTIPROC_DIR``. Without that variable nothing is published.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from presize.integrations.vllm.advisor import Advisor

_EVERY = 16  # steps
_COUNTERS = {
    "steps": "Steps that Presize had a part in.",
    "decision_seconds": "Time of Presize's part of them.",
    "asked": "Times that the head of the queue was looked at.",
    "refused": "Times that it had to wait for memory.",
    "interrupted": "Requests that made way for one that was the sooner over.",
    "bad_hints": "Hints of clients that were no number of tokens.",
    "forecast_failures": "Batches that the length predictor failed on.",
    "forecasts_dropped": "Requests that it was not asked about, as it was too far behind.",
}


class Metrics:
    """decision_s, steps: Presize's time, and in how many steps. The rest is read from the advisor."""

    def __init__(self, engine: int) -> None:
        """``engine``: the data-parallel rank, a label as on vLLM's own metrics."""
        self.decision_s, self.steps = 0.0, 0
        self._written = dict.fromkeys(_COUNTERS, 0.0)
        self._published: dict[str, Any] = {}
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            self._published = {name: metric.labels(engine=str(engine)) for name, metric in _metrics().items()}
            self._published["on"].set(1)

    def step(self, advisor: Advisor) -> None:
        """A step is done: write what has grown, now and then."""
        self.steps += 1
        if not self._published or self.steps % _EVERY:
            return
        model = advisor.forecasts.model
        values = {
            "steps": self.steps,
            "decision_seconds": self.decision_s,
            "asked": advisor.asked,
            "refused": advisor.refused,
            "interrupted": advisor.interrupted,
            "bad_hints": advisor.bad_hints,
            "forecast_failures": model.failures if model else 0,
            "forecasts_dropped": model.dropped if model else 0,
        }
        self._published["on"].set(not advisor.resting)
        for name, value in values.items():
            self._published[name].inc(value - self._written[name])
            self._written[name] = value

    def off(self) -> None:
        """vLLM schedules by itself from now on."""
        if self._published:
            self._published["on"].set(0)


@functools.cache
def _metrics() -> dict[str, Any]:
    """Once a process: a name can be registered only once."""
    from prometheus_client import Counter, Gauge

    metrics: dict[str, Any] = {name: Counter(f"presize_{name}", text, ["engine"]) for name, text in _COUNTERS.items()}
    metrics["on"] = Gauge(
        "presize_on", "1 while Presize schedules, 0 once vLLM does by itself.", ["engine"], multiprocess_mode="livemin"
    )
    return metrics
