"""The launches of a step, recorded once and replayed as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_WARM_UP = 3  # calls before one is recorded, so that libraries have set themselves up


class Replay:
    """Calls of a function that does the same on the same memory every time: the first ones, and then what they launch.

    From then on it returns what it returned when it was recorded. recorded: it has been.
    """

    def __init__(self) -> None:
        self._calls, self._result = 0, None
        self._graph: Any = None

    @property
    def recorded(self) -> bool:
        return self._graph is not None

    def __call__(self, function: Callable[[], Any], device: torch.device) -> Any:
        """``device``: that all of it runs on."""
        self._calls += 1
        if self._calls <= _WARM_UP:
            return function()
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            # nothing is run yet; other threads, as those that load data, may go on using the device
            with (
                torch.cuda.device(device),
                torch.cuda.graph(graph, stream=torch.cuda.Stream(device), capture_error_mode="thread_local"),
            ):
                self._result = function()
            self._graph = graph
        self._graph.replay()
        return self._result
