"""Engines behind a router, and what a whole simulation comes to."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from presize.config import BLOCK_SIZE, SchedulerOptions
from presize.core.lengths import FloatArray
from presize.figures import Figures
from presize.simulate.costs import Group, StepCosts
from presize.simulate.device import device_of
from presize.simulate.models import model_shape
from presize.simulate.options import DeviceOptions, SimulateOptions
from presize.simulate.predictions import make_predictor
from presize.simulate.router import ROUTERS
from presize.simulate.simulator import Engine, Outcome
from presize.simulate.traces import Trace, lengths_of

Report = Callable[[str, int, int], None]  # stage, done, total
_REPORT_EVERY = 256  # requests


@dataclass(frozen=True, slots=True)
class Result:
    """figures: of `Figures.summary` and more; outcomes in the order of the requests' ends; series of each engine."""

    figures: dict[str, Any]
    outcomes: list[Outcome]
    series: list[FloatArray]


def step_costs(options: DeviceOptions) -> StepCosts:
    """The cost model that the options ask for."""
    group = Group(options.tensor_parallel, options.pipeline_parallel, options.weights_on_host)
    return StepCosts(device_of(options.device), model_shape(options.model), group)


def simulate(
    trace: Trace,
    options: SimulateOptions,
    scheduler: SchedulerOptions,
    *,
    costs: StepCosts | None = None,
    step_by_step: bool = False,
    report: Report = lambda stage, done, total: None,
) -> Result:
    """Serve the trace by ``replicas`` engines until all is done. ConfigError for options that do not go together."""
    costs = costs or step_costs(options)
    tokens = options.kv_tokens or costs.kv_tokens
    lengths = lengths_of(trace)
    engines = [
        Engine(
            options=scheduler,
            costs=costs,
            predictor=make_predictor(scheduler, lengths, options, options.seed),
            num_blocks=max(tokens // BLOCK_SIZE, 1),
            max_num_seqs=options.max_num_seqs,
            max_num_batched_tokens=options.max_num_batched_tokens,
            step_by_step=step_by_step,
        )
        for _ in range(options.replicas)
    ]
    _replay(trace, engines, options.router, report)
    return _result(engines, scheduler)


def _replay(trace: Trace, engines: list[Engine], router_name: str, report: Report) -> None:
    """Events in the order of time: steps that end, then requests that come, then idle engines that start."""
    router = ROUTERS.get(router_name)
    pending: list[tuple[tuple[float, bool], int]] = []  # events of engines; old entries are passed over
    rows = zip(
        trace.arrival_s.tolist(), trace.prompt_tokens.tolist(), trace.output_tokens.tolist(),
        trace.max_tokens.tolist(), strict=True,
    )  # fmt: skip

    def run_until(limit: tuple[float, bool]) -> None:
        while pending and pending[0][0] <= limit:
            event, place = heapq.heappop(pending)
            engine = engines[place]
            if engine.event != event:
                continue
            engine.advance()
            if engine.event[0] < math.inf:
                heapq.heappush(pending, (engine.event, place))

    for number, (at_s, prompt, natural, max_tokens) in enumerate(rows):
        run_until((at_s, False))
        place = router(number, engines)
        before = engines[place].event
        engines[place].submit(number, at_s, prompt, natural, max_tokens)
        if engines[place].event != before:
            heapq.heappush(pending, (engines[place].event, place))
        if number % _REPORT_EVERY == 0:
            report("requests", number, len(trace))
    run_until((math.inf, False))
    report("requests", len(trace), len(trace))


def _result(engines: list[Engine], options: SchedulerOptions) -> Result:
    total = Figures(engines[0].scheduler.ledger.capacity_tokens)
    for engine in engines:
        total.merge(engine.figures)
    outcomes = [outcome for engine in engines for outcome in engine.outcomes]
    refused = sum(engine.refused for engine in engines)
    figures: dict[str, Any] = total.summary(failed=refused)
    tpots, ttfts = (np.array([getattr(o, name) for o in outcomes]) for name in ("tpot_s", "ttft_s"))
    figures["ttft_p99_s"] = float(np.percentile(ttfts, 99)) if len(ttfts) else 0.0
    figures["tpot_mean_s"] = float(np.mean(tpots)) if len(tpots) else 0.0
    figures["tpot_p99_s"] = float(np.percentile(tpots, 99)) if len(tpots) else 0.0
    figures["slo_attainment"] = attainment(outcomes, refused, options.slo_ttft_ms, options.slo_tpot_ms)
    return Result(figures, outcomes, [engine.series.points() for engine in engines])


def attainment(outcomes: list[Outcome], refused: int, ttft_ms: float | None, tpot_ms: float | None) -> float | None:
    """Share of all requests, the refused ones among them, that kept both objectives; None if there are none."""
    if ttft_ms is None and tpot_ms is None:
        return None
    kept = sum(
        (ttft_ms is None or 1000 * o.ttft_s <= ttft_ms) and (tpot_ms is None or 1000 * o.tpot_s <= tpot_ms)
        for o in outcomes
    )
    return kept / max(len(outcomes) + refused, 1)
