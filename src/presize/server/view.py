"""What the engine holds at one moment, taken between two steps: for the metrics, and, in more detail, for the page."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from presize.core.occupancy import OccupancyForecast
from presize.core.request import Request, RequestState
from presize.engine.engine import Engine, Snapshot
from presize.predict.guard import Guarded

MOST_REQUESTS = 200  # of each list that the page is sent


@dataclass(frozen=True, slots=True)
class EngineView:
    """preemptions: by cause; failures, late: of the predictor; the rest as in `Snapshot`."""

    snapshot: Snapshot
    preemptions: dict[str, int]
    predictor: str
    failures: int
    late: int

    @classmethod
    def of(cls, engine: Engine) -> EngineView:
        """Of the engine, on its thread."""
        predictor = engine.predictor
        guard = predictor if isinstance(predictor, Guarded) else None
        return cls(
            snapshot=engine.snapshot(),
            preemptions=dict(engine.scheduler.preemptions),
            predictor=predictor.describe(),
            failures=guard.failures if guard else 0,
            late=guard.late if guard else 0,
        )


def picture(engine: Engine) -> dict[str, Any]:
    """Everything that the page draws, on the engine's thread; tokens are KV tokens unless they are of an answer.

    blocks: ``[request number or -1, blocks]`` runs over the pool, free ones first seen as -1; numbers count `running`.
    band: the occupancy forecast of the running requests, as steps ahead, mean and two standard deviations.
    """
    scheduler, view = engine.scheduler, EngineView.of(engine)
    ledger = scheduler.ledger
    running = scheduler.running
    owners = np.full(ledger.num_blocks, -1, dtype=np.int64)
    for number, request in enumerate(running):
        owners[list(ledger.held(request.request_id))] = number
    waiting = scheduler.waiting.first(MOST_REQUESTS)
    return {
        **asdict(view.snapshot),
        "time": time.time(),
        "block_size": ledger.block_size,
        "blocks": _runs(owners),
        "band": _band(running, ledger.block_size, ledger.capacity_tokens),
        "running_requests": [_row(engine, request) for request in running[:MOST_REQUESTS]],
        "waiting_requests": [_row(engine, request) for request in waiting],
        "preemptions": sum(view.preemptions.values()),
        "step_s": scheduler.costs.costs.decode_s(max(len(running), 1)),
        "policy": scheduler.options.policy,
        "order": scheduler.options.order,
        "predictor": view.predictor,
    }


def _runs(owners: np.ndarray[Any, np.dtype[np.int64]]) -> list[list[int]]:
    starts = np.flatnonzero(np.concatenate(([True], owners[1:] != owners[:-1])))
    lengths = np.diff(np.append(starts, len(owners)))
    return [[int(owners[start]), int(length)] for start, length in zip(starts, lengths, strict=True)]


def _band(running: list[Request], block_size: int, capacity: int) -> dict[str, list[float]]:
    forecast = OccupancyForecast(block_size, min(capacity, 4096))
    forecast.update(running)
    deviation = np.sqrt(np.maximum(forecast.variance, 0.0))
    return {
        "steps": forecast.steps.tolist(),
        "mean": np.round(forecast.mean, 1).tolist(),
        "deviation": np.round(deviation, 1).tolist(),
    }


def _row(engine: Engine, request: Request) -> dict[str, Any]:
    sequence = engine.sequence(request)
    low, high = sequence.predicted_range
    return {
        "id": request.request_id,
        "prompt_tokens": request.prompt_tokens,
        "output_tokens": request.output_tokens,
        "predicted_tokens": sequence.predicted_tokens,
        "predicted_low": low,
        "predicted_high": high,
        "max_tokens": request.max_tokens,
        "prefilling": request.state is RequestState.RUNNING and request.uncomputed_tokens > 1,
        "preemptions": request.preemptions,
        "priority": request.priority,
        "age_s": round(engine.now() - request.arrival_s, 2),
    }
