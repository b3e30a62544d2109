"""The fit: what steps were made with is found again; and the engine's steps are timed as what they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from presize.errors import ConfigError
from presize.simulate.calibrate import Observed, fit
from presize.simulate.costs import Chunk, StepCosts
from presize.simulate.device import DEVICES
from presize.simulate.models import MODELS

MODEL, BASE = MODELS["SmolLM2-135M-Instruct"], DEVICES["cpu-2-cores"]


def steps_of(seed: int, noise: float) -> tuple[StepCosts, list[Observed]]:
    """Steps of a machine with other factors than the base's, timed with some noise, a few of them far off."""
    random = np.random.default_rng(seed)
    true = replace(
        BASE, weight_efficiency=0.5, kv_efficiency=0.3, compute_efficiency=0.45, prefill_attention_efficiency=0.02,
        step_s=8e-3, sequence_s=3e-4,
    )  # fmt: skip
    costs, steps = StepCosts(true, MODEL), []
    for number in range(300):
        decodes = int(random.integers(0, 100))
        chunk = (
            () if number % 2 and decodes else (Chunk(int(random.integers(8, 512)), int(random.integers(900)), True),)
        )
        context = decodes * int(random.integers(20, 1500))
        seconds = costs.mixed(decodes, context, chunk) * float(random.lognormal(0, noise))
        steps.append(Observed(decodes, context, chunk, seconds * (5 if number % 50 == 0 else 1)))
    return costs, steps


@pytest.mark.parametrize("seed", range(3))
def test_steps_are_predicted_by_what_was_fitted(seed: int) -> None:
    costs, steps = steps_of(seed, 0.03)
    found = fit(BASE, MODEL, steps)
    assert found.error_median < 0.04
    fitted = StepCosts(found.device, MODEL)
    for count, each in ((1, 100), (16, 300), (64, 100), (90, 1000)):
        assert fitted.decode(count, count * each, 1)[0] == pytest.approx(
            costs.decode(count, count * each, 1)[0], rel=0.1
        )
    chunk = [Chunk(256, 512, True)]
    assert fitted.mixed(8, 800, chunk) == pytest.approx(costs.mixed(8, 800, chunk), rel=0.1)


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="there are 3 timed steps"):
        fit(BASE, MODEL, steps_of(0, 0.0)[1][:3])
