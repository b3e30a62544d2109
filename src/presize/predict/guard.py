"""A predictor that may fail or be late, behind one that does neither: the history of the answers so far."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from presize.config import SchedulerOptions
from presize.core.lengths import IntArray, LengthDistribution
from presize.predict.base import Predictor, Query
from presize.predict.kaplan_meier import KaplanMeier

BUDGET_S = 0.05  # for a batch, and
BUDGET_PER_QUERY_S = 0.01  # for each query in it
_HISTORY, _FIRST = "forecasts come from the answers so far", "running requests keep their first forecast"
_LOG = logging.getLogger("presize")

Curves = list[LengthDistribution] | None


class Guarded(Predictor):
    """``inner`` works on a thread of its own; when it raises, or is not back in time, the history's curve stands in,
    and a request that runs keeps the curve it has.

    failures, late: batches for which it did. The first of each is logged, with its reason. A predictor that is late is
    asked nothing more until it is back.
    """

    def __init__(self, inner: Predictor, options: SchedulerOptions) -> None:
        self.inner = inner
        self.needs_states = inner.needs_states
        self.failures = self.late = 0
        self._history = KaplanMeier(options)
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._running: _Task | None = None
        threading.Thread(target=_work, args=(self._tasks,), name="presize-predictor", daemon=True).start()
        weakref.finalize(self, self._tasks.put, None)

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        curves = self._ask(lambda: list(self.inner.predict(queries)), len(queries), _HISTORY)
        return self._history.predict(queries) if curves is None else curves

    def refine(self, queries: Sequence[Query], states: NDArray[np.float32]) -> list[LengthDistribution] | None:
        return self._ask(lambda: self.inner.refine(queries, states), len(queries), _FIRST)

    def _ask(self, ask: Callable[[], Curves], count: int, instead: str) -> Curves:
        """What ``ask`` gives, ``count`` curves or None; None if it raises or is late."""
        if self._running is not None and not self._running.done.is_set():
            self.late += 1
            return None
        task = self._running = _Task(ask, count)
        self._tasks.put(task)
        if not task.done.wait(BUDGET_S + BUDGET_PER_QUERY_S * count):
            self.late += 1
            if self.late == 1:
                _LOG.warning("the length predictor is late; %s until it is back", instead)
            return None
        if task.error is not None:
            self._failed(task.error, instead)
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

    def describe(self) -> str:
        return self.inner.describe()

    def _failed(self, error: Exception, instead: str = _HISTORY) -> None:
        self.failures += 1
        if self.failures == 1:
            _LOG.warning("the length predictor failed (%s: %s); %s where it does", type(error).__name__, error, instead)


class _Task:
    """One batch, and what became of it."""

    def __init__(self, ask: Callable[[], Curves], count: int) -> None:
        self.ask, self.count = ask, count
        self.curves: Curves = None
        self.error: Exception | None = None
        self.done = threading.Event()


def _work(tasks: SimpleQueue[_Task | None]) -> None:
    """Of the thread: answer until told to end. It does not hold the predictor, which may so be let go."""
    while (task := tasks.get()) is not None:
        try:
            curves = task.ask()
            if curves is not None and len(curves) != task.count:
                raise ValueError(f"{len(curves)} curves for {task.count} queries")
            task.curves = curves
        except Exception as error:
            task.error = error
        task.done.set()
        del task
