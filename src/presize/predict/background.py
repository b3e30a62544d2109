"""A predictor on a thread of its own that nobody waits for: what it says is picked up once it is there."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue

import numpy as np

from presize.core.lengths import IntArray, LengthDistribution
from presize.predict.base import Predictor, Query

_LOG = logging.getLogger("presize")
_BATCH = 64  # most queries of one call
_Job = Query | Callable[[], None] | None


class Background:
    """``inner`` answers in batches, in the order of asking; every method here returns at once.

    A batch that raises, or whose curves are no curves, has no answer; the first time is logged. While it hangs there
    are no answers either, and beyond `MOST` unanswered queries further ones are dropped. So whoever asks must have
    another curve to go on with.

    failures: batches, or curves of one, that were of no use; dropped: queries that were not asked.
    """

    MOST = 8192

    def __init__(self, inner: Predictor) -> None:
        self.inner = inner
        self.failures = self.dropped = 0
        self._asked = self._answered = 0
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._answers: deque[tuple[str, LengthDistribution]] = deque()
        threading.Thread(
            target=_work, args=(weakref.ref(self), self._jobs), name="presize-predictor", daemon=True
        ).start()
        weakref.finalize(self, self._jobs.put, None)

    @property
    def pending(self) -> int:
        """Queries without an answer yet."""
        return self._asked - self._answered

    def ask(self, query: Query) -> None:
        """Have ``query`` answered some time."""
        if self.pending >= self.MOST:
            self.dropped += 1
            return
        self._asked += 1
        self._jobs.put(query)

    def answers(self, most: int) -> Iterator[tuple[str, LengthDistribution]]:
        """Up to ``most`` (request id, curve) that have come, each once."""
        for _ in range(min(most, len(self._answers))):
            yield self._answers.popleft()

    def observe(self, query: Query, output_tokens: int, *, censored: bool) -> None:
        """See `Predictor.observe`."""
        self._jobs.put(lambda: self.inner.observe(query, output_tokens, censored=censored))

    def refresh(self, running: IntArray) -> None:
        """See `Predictor.refresh`."""
        self._jobs.put(lambda: self.inner.refresh(running))

    def run(self, jobs: Sequence[_Job]) -> None:
        """Of the thread: do what came together, queries in batches between the rest."""
        batch: list[Query] = []
        for job in jobs:
            if isinstance(job, Query):
                batch.append(job)
                if len(batch) < _BATCH:
                    continue
            self._answer(batch)
            batch = []
            if callable(job):
                self._try(job)
        self._answer(batch)

    def _answer(self, queries: list[Query]) -> None:
        if queries:
            self._try(lambda: self._predict(queries))
            self._answered += len(queries)

    def _predict(self, queries: list[Query]) -> None:
        curves = self.inner.predict(queries)
        if len(curves) != len(queries):
            raise ValueError(f"{len(curves)} curves for {len(queries)} queries")
        for query, curve in zip(queries, curves, strict=True):
            repaired = LengthDistribution.from_survival(curve.survival, curve.limit)
            if not np.array_equal(repaired.survival, curve.survival):
                raise ValueError("a curve that is not finite, or rises, or leaves [0, 1]")
            self._answers.append((query.request_id, curve))

    def _try(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:
            self.failures += 1
            if self.failures == 1:
                _LOG.warning(
                    "the length predictor failed (%s: %s); forecasts come from the answers so far where it does",
                    type(error).__name__, error,
                )  # fmt: skip


def _work(owner: weakref.ref[Background], jobs: SimpleQueue[_Job]) -> None:
    """Take what is there until told to end. Between jobs it does not hold the owner, which may so be let go."""
    while (job := jobs.get()) is not None:
        together: list[_Job] = [job]
        try:
            while (job := jobs.get_nowait()) is not None:
                together.append(job)
        except Empty:
            pass
        background = owner()
        if background is None:
            return
        background.run(together)
        del background, together
        if job is None:
            return
