"""The simulator decides, step by step, what the real engine decides for the same prompts and lengths of answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from presize.config import SchedulerOptions
from presize.core.request import Request
from presize.core.scheduler import Decision, Scheduler
from presize.engine.engine import Engine
from presize.engine.sampling_params import SamplingParams
from presize.simulate.cluster import simulate
from presize.simulate.options import SimulateOptions
from presize.simulate.traces import Trace

MAX_TOKENS, KV_TOKENS, SEQS, BATCHED = 120, 1024, 12, 96


class Decisions:
    """What every scheduler decides from here on, step by step; requests by number, as they were first let in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[Any] = []
        self._numbers: dict[Request, int] = {}
        schedule = Scheduler.schedule

        def watched(scheduler: Scheduler) -> Decision:
            decision = schedule(scheduler)
            who = [
                [self._numbers.setdefault(request, len(self._numbers)) for request in requests]
                for requests in (decision.admitted, decision.resumed, decision.preempted)
            ]
            self.steps.append((decision.num_decodes, decision.prefill_tokens, who, scheduler.ledger.free_blocks))
            return decision

        monkeypatch.setattr(Scheduler, "schedule", watched)

    def taken(self) -> list[Any]:
        """Those so far; the next one starts anew."""
        steps, self.steps, self._numbers = self.steps, [], {}
        return steps


@pytest.mark.parametrize("policy", ["on-demand", "watermark", "worst-case"])
def test_every_decision_is_the_engines(
    policy: str,
    monkeypatch: pytest.MonkeyPatch,
    engine_of: Callable[..., Engine],
    random_prompts: Callable[..., list[list[int]]],
) -> None:
    """Of policies that do not ask how long steps take."""
    decisions = Decisions(monkeypatch)
    options = {"policy": policy, "predictor": "kaplan-meier"}
    engine = engine_of(kv_tokens=KV_TOKENS, max_num_seqs=SEQS, max_num_batched_tokens=BATCHED, **options)
    prompts = random_prompts(40)
    asked = np.random.default_rng(1).integers(1, MAX_TOKENS, size=len(prompts))
    for number, (ids, tokens) in enumerate(zip(prompts, asked.tolist(), strict=True)):
        engine.add_request(str(number), ids, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True))
    while engine.has_unfinished_requests():
        engine.step()
    real = decisions.taken()
    sizes = np.array([len(ids) for ids in prompts])
    trace = Trace(np.zeros(len(prompts)), sizes, asked + 1, asked)
    simulation = SimulateOptions(
        model="gpt-j-6b", kv_tokens=KV_TOKENS, max_num_seqs=SEQS, max_num_batched_tokens=BATCHED
    )
    simulate(trace, simulation, SchedulerOptions(**options), step_by_step=True)
    assert decisions.taken() == real
    assert policy == "worst-case" or any(preempted for _, _, (_, _, preempted), _ in real)
