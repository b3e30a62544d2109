"""The free factors of a device, fitted to steps that were timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from presize.core.lengths import FloatArray
from presize.errors import ConfigError, require
from presize.simulate.costs import Chunk, StepCosts
from presize.simulate.device import Device
from presize.simulate.models import ModelShape

# field -> where the search starts, and its bounds; the bounds of a device file are wider
_FREE: dict[str, tuple[float, float, float]] = {
    "weight_efficiency": (0.7, 0.02, 1.5),
    "kv_efficiency": (0.5, 0.02, 1.5),
    "compute_efficiency": (0.6, 0.02, 1.5),
    "prefill_attention_efficiency": (0.1, 0.001, 1.5),
    "step_s": (2e-3, 1e-7, 0.5),
    "sequence_s": (1e-4, 1e-9, 0.05),
}
_NOISE = 0.05  # relative: steps that are further off than this count less and less


@dataclass(frozen=True, slots=True)
class Observed:
    """A step that was timed, in the terms of `StepCosts`."""

    decodes: int
    context: int
    chunks: tuple[Chunk, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Fit:
    """error_median, error_p90: of |modelled / observed - 1| over the steps."""

    device: Device
    steps: int
    error_median: float
    error_p90: float


def check_fit() -> None:
    """ConfigError, before the long work, if there is nothing to fit with."""
    require("scipy", "learn", "calibrate")


def fit(device: Device, model: ModelShape, steps: Sequence[Observed]) -> Fit:
    """Least squares of the relative errors, outliers at less weight (soft L1), over the logarithms of the factors.

    ``device`` gives the peaks. ConfigError if there are fewer steps than factors.
    """
    from scipy.optimize import least_squares

    if len(steps) < 2 * len(_FREE):
        raise ConfigError(f"there are {len(steps)} timed steps; a fit needs at least {2 * len(_FREE)}")
    observed = np.array([step.seconds for step in steps])

    def modelled(logs: FloatArray) -> FloatArray:
        values = dict(zip(_FREE, np.exp(logs).tolist(), strict=True))
        costs = StepCosts(dataclasses.replace(device, **values), model)
        return np.array([costs.mixed(s.decodes, s.context, s.chunks) for s in steps])

    start, low, high = (np.log([bounds[k] for bounds in _FREE.values()]) for k in range(3))
    found = least_squares(
        lambda logs: np.log(modelled(logs) / observed) / _NOISE, start, bounds=(low, high), loss="soft_l1",
        diff_step=1e-4,
    )  # fmt: skip
    errors = np.abs(modelled(found.x) / observed - 1)
    fitted = dict(zip(_FREE, np.exp(found.x).tolist(), strict=True))
    return Fit(
        dataclasses.replace(device, **fitted), len(steps), float(np.median(errors)), float(np.quantile(errors, 0.9))
    )
