"""A predictor that may fail or be late, behind one that does neither: the history of the answers so far."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from presize.config import SchedulerOptions
from presize.core.lengths import IntArray, LengthDistribution
from presize.predict.base import Predictor, Query
from presize.predict.kaplan_meier import KaplanMeier

BUDGET_S = 0.05  # for a batch, and
BUDGET_PER_QUERY_S = 0.01  # for each query in it
_LOG = logging.getLogger("presize")


class Guarded(Predictor):
    """``inner`` works on a thread of its own; when it raises, or is not back in time, the history's curve stands in.

    failures, late: batches for which it did. The first of each is logged, with its reason. A predictor that is late is
    asked nothing more until it is back.
    """

    def __init__(self, inner: Predictor, options: SchedulerOptions) -> None:
        self.inner = inner
        self.failures = self.late = 0
        self._history = KaplanMeier(options)
        self._tasks: SimpleQueue[_Task] = SimpleQueue()
        self._running: _Task | None = None
        threading.Thread(target=self._work, name="presize-predictor", daemon=True).start()

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        if self._running is not None and not self._running.done.is_set():
            self.late += 1
            return self._history.predict(queries)
        task = self._running = _Task(queries)
        self._tasks.put(task)
        if not task.done.wait(BUDGET_S + BUDGET_PER_QUERY_S * len(queries)):
            self.late += 1
            if self.late == 1:
                _LOG.warning("the length predictor is late; forecasts come from the answers so far until it is back")
            return self._history.predict(queries)
        if task.curves is None:
            self._failed(task.error)
            return self._history.predict(queries)
        return task.curves

    def observe(self, query: Query, output_tokens: int, *, censored: bool) -> None:
        self._history.observe(query, output_tokens, censored=censored)
        try:
            self.inner.observe(query, output_tokens, censored=censored)
        except Exception as error:
            self._failed(error)

    def refresh(self, running: IntArray) -> None:
        self._history.refresh(running)
        try:
            self.inner.refresh(running)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Any) -> None:
        self.failures += 1
        if self.failures == 1:
            _LOG.warning(
                "the length predictor failed (%s: %s); forecasts come from the answers so far where it does",
                type(error).__name__,
                error,
            )

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                curves = self.inner.predict(task.queries)
                if len(curves) != len(task.queries):
                    raise ValueError(f"{len(curves)} curves for {len(task.queries)} queries")
                task.curves = curves
            except Exception as error:
                task.error = error
            task.done.set()


class _Task:
    """One batch, and what became of it."""

    def __init__(self, queries: Sequence[Query]) -> None:
        self.queries = queries
        self.curves: list[LengthDistribution] | None = None
        self.error: Exception | None = None
        self.done = threading.Event()
