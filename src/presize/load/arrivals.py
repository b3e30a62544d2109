"""When requests arrive, in seconds since the start of a run. Sorted arrays of float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]


def drawn(count: int, rate: float, burstiness: float, random: np.random.Generator) -> Times:
    """``count`` arrivals, the first at 0, at ``rate`` requests/s on average; all at 0 if the rate is infinite.

    The gaps have a Gamma distribution of shape ``burstiness``: their coefficient of variation is its square root's
    inverse. 1 is a Poisson process, infinity a fixed beat. The average is not made exact: the process is as it is.
    """
    times = np.zeros(count)
    if count > 1 and not math.isinf(rate):
        if math.isinf(burstiness):
            gaps = np.full(count - 1, 1.0 / rate)
        else:
            gaps = random.gamma(burstiness, 1.0 / (rate * burstiness), count - 1)
        np.cumsum(gaps, out=times[1:])
    return times


def replayed(stamps: Sequence[float], scale: float) -> Times:
    """The arrivals of a trace, whose stamps are seconds in ascending order: the first at 0, gaps times ``scale``."""
    times = np.asarray(stamps, dtype=np.float64)
    return (times - times[:1]) * scale


def offered_rate(times: Times) -> float:
    """Requests/s that the arrivals ask for; infinite if they are all at once."""
    span = float(times[-1] - times[0]) if len(times) else 0.0
    return (len(times) - 1) / span if span > 0 else math.inf
