"""Figures of a run of the engine."""

from __future__ import annotations

from presize.core.scheduler import Decision
from presize.engine.outputs import RequestOutput
from presize.figures import Figures


class EngineStats(Figures):
    """`Figures` from what the engine has at hand."""

    def step(self, decision: Decision, kv_used: int, started: float, ended: float) -> None:
        """One step ran, with ``kv_used`` tokens' worth of blocks held."""
        draws = sum(work.draws for work in decision.work)
        self.steps([kv_used], [ended - started], started, ended, len(decision.work), draws)
        self.preempted(len(decision.preempted))

    def finished(self, output: RequestOutput, recomputed_tokens: int) -> None:
        """A request ended."""
        if any(answer.token_ids for answer in output.outputs):
            self.ended(recomputed_tokens, output.metrics.latency_s, output.metrics.ttft_s)
            self.gaps(output.metrics.token_gaps_s)
        else:
            self.ended(recomputed_tokens)
