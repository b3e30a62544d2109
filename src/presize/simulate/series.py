"""An engine over time, thinned as it grows."""

from __future__ import annotations

from array import array

import numpy as np

from presize.core.lengths import FloatArray


class Series:
    """Points (seconds, KV tokens held, running, waiting) at the ends of steps; at most ``size`` of them are kept."""

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._points = array("d")
        self._every, self._skipped = 1, 0

    def add(self, now_s: float, held_tokens: int, running: int, waiting: int) -> None:
        """A step ended; every so many points are kept, twice as many are passed over once there are too many."""
        self._skipped += 1
        if self._skipped < self._every:
            return
        self._skipped = 0
        self._points.extend((now_s, held_tokens, running, waiting))
        if len(self._points) >= 4 * self._size:
            self._points = array("d", self.points()[1::2].reshape(-1).tolist())
            self._every *= 2

    def points(self) -> FloatArray:
        """(points, 4)."""
        return np.array(self._points, dtype=np.float64).reshape(-1, 4)
