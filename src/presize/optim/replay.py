"""The launches of a step, recorded once and replayed as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_WARM_UP = 3  # calls before one is recorded, so that libraries have set themselves up


class Replay:
    """A function of nothing, whose every call does the same on the same memory: recorded after a few calls.

    What it returns must be what it returned when it was recorded.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function, self._calls, self._result = function, 0, None
        self._graph: Any = None

    def __call__(self) -> Any:
        self._calls += 1
        if self._calls <= _WARM_UP:
            return self._function()
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            # nothing is run yet; other threads, as those that load data, may go on using the device
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._result = self._function()
            self._graph = graph
        self._graph.replay()
        return self._result
