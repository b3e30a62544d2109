"""Whether answers still fall within the central 90 % of their forecasts as often as they should.

Judged are the newest settled requests. A request is settled in the order in which requests were forecast: of those
that start together the short answers end first, and judged in the order of their ends they would look like a change.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from presize.config import SchedulerOptions
from presize.core.lengths import GRID, MAX_LENGTH, FloatArray
from presize.predict.base import Query
from presize.predict.kaplan_meier import KaplanMeier
from presize.predict.online.reservoir import Recent

TARGET = 0.9
WINDOW, LEAST, EVERY = 200, 100, 10  # requests: judged at most, at least, and a judgement after each so many
BEGINS, ENDS = 4.0, 2.0  # standard errors off the target at which an episode begins, within which it ends
MAX_WEIGHT = 0.5  # of the recent lengths' own curve in a widened one
_WEIGHT_PER_LACK = 3.0  # weight for each part of coverage that is lacking
_TAIL = (1.0 - TARGET) / 2
_COUNTS: list[int] = GRID.tolist()
_MAX_PENDING = 65_536  # requests that are forecast and have not ended; more are not judged
_MAX_PASSED = 4_096  # of them passed over: some never end, such as those that were refused
# a request is passed over when so many later ones have ended for each that runs
_PATIENCE_PER_RUNNING, _LEAST_RUNNING, _RUNNING_KEPT = 4, 16, 0.9999


@dataclass(slots=True, eq=False)
class _Request:
    """waiting: its answers that have not ended. missed: chances that those that have missed their interval, summed."""

    request_id: str
    tenant: str
    survival: FloatArray
    version: int
    waiting: int
    passed: bool = False
    missed: float = 0.0
    lengths: list[tuple[int, bool]] = field(default_factory=list)


class Drift:
    """Coverage of the forecasts of one version at a time; ``note`` is told of each episode's beginning (True) and end.

    coverage: of the requests judged last, NaN before. weight: how much of the recent lengths'
    own curve is mixed into forecasts, 0 to MAX_WEIGHT. Safe to use from two threads.
    """

    def __init__(self, options: SchedulerOptions, note: Callable[[str, bool], None]) -> None:
        self.coverage, self.weight, self.drifting = math.nan, 0.0, False
        self._options, self._note = options, note
        self._lock = threading.Lock()
        self._pending: dict[str, _Request] = {}
        self._order: deque[_Request] = deque()  # those to be settled
        self._ended = 0  # of them
        self._passed: deque[_Request] = deque()
        self._running = float(_LEAST_RUNNING)
        self._patience = _PATIENCE_PER_RUNNING * self._running
        self._window: Recent[_Request] = Recent(WINDOW)
        self._settled = self._version = 0
        self._history: tuple[int, FloatArray] | None = None

    def expect(self, queries: Sequence[Query], survivals: Sequence[FloatArray], version: int) -> None:
        """These (G,) curves were forecast by ``version``; equal ids in a row are answers to one request."""
        with self._lock:
            self._version = max(self._version, version)
            last: _Request | None = None
            for query, survival in zip(queries, survivals, strict=True):
                if last is not None and last.request_id == query.request_id:
                    last.waiting += 1
                    continue
                if (old := self._pending.pop(query.request_id, None)) is not None:
                    self._over(old)  # its id is used again, so it has gone
                if len(self._pending) < _MAX_PENDING:
                    last = _Request(query.request_id, query.tenant, survival, version, 1)
                    self._pending[query.request_id] = last
                    self._order.append(last)

    def ended(self, query: Query, output_tokens: int, *, censored: bool) -> None:
        """An answer came to its end, or was cut off, at ``output_tokens``."""
        with self._lock:
            request = self._pending.get(query.request_id)
            if request is None:
                return
            request.waiting -= 1
            if output_tokens > 0:
                request.missed += miss(request.survival, output_tokens, censored)
                request.lengths.append((output_tokens, censored))
            if request.waiting == 0:
                del self._pending[query.request_id]
                self._over(request)

    def running(self, count: int) -> None:
        """So many requests run: the more, the later a long answer may end after those that started with it."""
        # what ran lately counts too: when the work runs out, the long answers are the last
        self._running = max(float(count), _LEAST_RUNNING, self._running * _RUNNING_KEPT)
        self._patience = _PATIENCE_PER_RUNNING * self._running

    def widened(self, survivals: FloatArray) -> FloatArray:
        """(N, G) curves with the recent lengths' own mixed in; the same array if nothing is amiss."""
        weight = self.weight
        return (1.0 - weight) * survivals + weight * self._recent() if weight else survivals

    def _over(self, request: _Request) -> None:
        request.waiting = 0
        if request.passed:
            self._settle(request)
        else:
            self._ended += 1
        order = self._order
        while order and (order[0].waiting == 0 or self._ended > self._patience):
            first = order.popleft()
            if first.waiting == 0:
                self._ended -= 1
                self._settle(first)
            else:
                self._pass(first)

    def _pass(self, request: _Request) -> None:
        request.passed = True
        self._passed.append(request)
        if len(self._passed) > _MAX_PASSED:
            oldest = self._passed.popleft()
            if self._pending.get(oldest.request_id) is oldest:
                del self._pending[oldest.request_id]

    def _settle(self, request: _Request) -> None:
        if not request.lengths:
            return
        request.missed /= len(request.lengths)  # several answers to one prompt are no more than one piece of evidence
        self._window.add(request.tenant, request)
        self._settled += 1
        if self._settled % EVERY == 0:
            self._judge()

    def _judge(self) -> None:
        version = self._version
        misses = [request.missed for request in self._window if request.version == version]
        if len(misses) < LEAST:
            return  # nothing is known of a new version yet: what was so stays so
        self.coverage = 1.0 - sum(misses) / len(misses)
        error = math.sqrt(TARGET * (1.0 - TARGET) / len(misses))
        off = self.coverage - TARGET
        if not self.drifting and abs(off) > BEGINS * error:
            self.drifting = True
            self._note(
                f"answer lengths have drifted: {self.coverage:.0%} of the last {len(misses)} requests came within the "
                f"central {TARGET:.0%} of their forecast; "
                + ("forecasts are widened until that is back" if off < 0 else "forecasts are wider than they need be"),
                True,
            )
        elif self.drifting and abs(off) < ENDS * error:
            self.drifting = False
            text = f"answer lengths are as forecast again: {self.coverage:.0%} within the central {TARGET:.0%}"
            self._note(text, False)
        self.weight = min(max(-off * _WEIGHT_PER_LACK, 0.0), MAX_WEIGHT) if self.drifting else 0.0

    def _recent(self) -> FloatArray:
        """(G,) survival of the window's lengths, made anew when enough have come; on the forecasting thread."""
        turn = self._settled // EVERY
        if self._history is None or self._history[0] != turn:
            with self._lock:
                seen = [pair for request in self._window for pair in request.lengths]
            curve = KaplanMeier(self._options)
            for length, censored in seen:
                curve.observe(_ANY, length, censored=censored)
            curve.refresh(np.zeros(0, dtype=np.int64))
            self._history = turn, curve.predict([_ANY])[0].survival
        return self._history[1]


_ANY = Query("", (0,), MAX_LENGTH)


def miss(survival: FloatArray, length: int, censored: bool) -> float:
    """Chance that the level F(L) lies in either tail of 5 %; on average 10 % if the (G,) curve is right.

    A length is whole, so its level lies anywhere between F(L - 1) and F(L); that of one cut off, above F(L).
    """
    below, level = 1.0 - _at(survival, length - 1), 1.0 - _at(survival, length)
    if censored:
        below, level = level, 1.0
    if level - below < 1e-9:
        return float(not _TAIL <= level <= 1.0 - _TAIL)
    return (max(min(level, _TAIL) - below, 0.0) + max(level - max(below, 1.0 - _TAIL), 0.0)) / (level - below)


def _at(survival: FloatArray, count: int) -> float:
    """S at one count; a fifth of the time of the general one."""
    cell = min(bisect_right(_COUNTS, count) - 1, len(_COUNTS) - 2)
    left, right = float(survival[cell]), float(survival[cell + 1])
    return left + (right - left) * (count - _COUNTS[cell]) / (_COUNTS[cell + 1] - _COUNTS[cell])
