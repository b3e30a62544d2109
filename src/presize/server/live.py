"""What the page at / is made of; it asks once a second."""

from __future__ import annotations

from typing import Any

import numpy as np

from presize.server.service import Service
from presize.server.view import picture


async def live(service: Service) -> dict[str, Any]:
    """The engine's picture between two steps, and how well the forecasts of the last answers fit."""
    trouble = service.trouble()
    body: dict[str, Any] = {"status": trouble or "ok", "model": service.model_name}
    if trouble in ("loading", "dead", "stuck"):  # there is no pause between two steps to look at
        return body
    return {**body, **await service.worker.call(picture), "calibration": calibration(service)}


def calibration(service: Service) -> dict[str, Any]:
    """Of the answers that ended last: how many were within the central 90 %, and the distance from the median."""
    recent = list(service.metrics.recent)
    ended = [answer for answer in recent if not answer.censored]
    return {
        "answers": len(recent),
        "within_90": sum(a.low <= a.tokens <= a.high for a in recent) / len(recent) if recent else None,
        "median_error_tokens": float(np.median([abs(a.tokens - a.predicted) for a in ended])) if ended else None,
        "points": [[a.predicted, a.tokens] for a in recent],
    }
