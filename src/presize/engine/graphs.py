"""CUDA graphs: the layers of a step in one launch, where hundreds of small ones would take longer than their work."""

from __future__ import annotations

import torch

from presize.engine.decoder import Attention, Decoder

_STEPS = ((8, 1), (64, 8), (256, 16), (512, 32), (1024, 64))  # up to so many rows, a graph for every multiple
MOST_GRAPHED = _STEPS[-1][0]


def rows_graphed(rows: int) -> int:
    """The number of rows that a step of ``rows`` is filled up to; itself beyond `MOST_GRAPHED`."""
    return next((-(-rows // step) * step for most, step in _STEPS if rows <= most), rows)


class GraphedDecoder:
    """`Decoder.hidden` on CUDA. A graph is captured when its number of rows is first met; all share their memory."""

    def __init__(self, decoder: Decoder, attention: Attention, device: torch.device) -> None:
        self._decoder, self._attention = decoder, attention
        self._ids_N = torch.zeros(MOST_GRAPHED, dtype=torch.int64, device=device)
        self._made: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def hidden(self, ids_N: torch.Tensor) -> torch.Tensor:
        """(N, C) for N ids on the host, as `rows_graphed` has them; good until the next call."""
        rows = len(ids_N)
        if rows > MOST_GRAPHED:
            return self._decoder.hidden(ids_N.to(self._ids_N.device), self._attention)
        self._ids_N[:rows].copy_(ids_N)
        if rows not in self._made:
            self._capture(rows)
        graph, hidden_NC = self._made[rows]
        graph.replay()
        return hidden_NC

    def _capture(self, rows: int) -> None:
        self._decoder.hidden(self._ids_N[:rows], self._attention)  # compiles and allocates what a capture must not
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            hidden_NC = self._decoder.hidden(self._ids_N[:rows], self._attention)
        self._made[rows] = graph, hidden_NC
