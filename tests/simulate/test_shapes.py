"""Shapes of one size on a device: counts by hand, the simulated throughput against its own steps, the frontier."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presize.errors import ConfigError
from presize.simulate.costs import Group, StepCosts
from presize.simulate.device import DEVICES, Device
from presize.simulate.shapes import candidates, classic, frontier, served
from presize.theory.depth_width.shapes import Shape

A100, L4 = DEVICES["a100-80g"], DEVICES["l4"]
# nothing but bytes: all of the bandwidth, and no time besides
BARE = replace(A100, weight_efficiency=1.0, kv_efficiency=1.0, flops=1e19, step_s=0.0, sequence_s=0.0)


def test_the_laws_parameters_are_the_networks() -> None:
    shape = Shape(24, 2048, 16)
    assert classic(shape, 100).parameters == shape.law_parameters == 24 * (4 + 8) * 2048**2


def test_a_small_network_by_hand() -> None:
    """24 layers, 2,048 wide, bfloat16: 2.4e9 bytes of weights; 196,608 bytes of keys and values a token."""
    model = classic(Shape(24, 2048, 16), 2048)
    found = served(model, BARE, 2048, layer_s=1e-4)
    assert found.kv_bytes == 2 * 24 * 2048 * 2
    assert found.devices == 1
    assert found.sequences == found.batch == math.floor((0.9 * 80e9 - 2 * model.parameters) / found.kv_bytes / 2048)
    assert found.alone_s == pytest.approx((2 * model.parameters + 2048 * found.kv_bytes) / 2.039e12 + 24e-4)
    everything = 2 * model.parameters + found.batch * 2048 * found.kv_bytes
    assert found.step_s == pytest.approx(everything / 2.039e12 + 24e-4)


@pytest.mark.parametrize("device", [A100, L4])
def test_the_simulated_throughput_lies_below_that_of_steps_without_prompts(device: Device) -> None:
    """A step of the whole batch draws a token of each; at the start contexts are half as long, so it is faster."""
    model = classic(Shape(24, 1024, 16), 2048)
    found = served(model, device, 2048, 0.0)
    half = StepCosts(device, model).decode(found.batch, found.batch * 1024, 1)[0]
    assert 0.3 * found.batch / found.step_s < found.tokens_per_s < found.batch / half


def test_a_network_that_is_too_large_for_one_device_takes_a_power_of_two() -> None:
    model = classic(Shape(96, 12288, 96), 2048)  # 348 GB of weights
    found = served(model, A100, 2048, 0.0)
    assert found.devices == 8
    assert found.sequences == StepCosts(A100, model, Group(tensor_parallel=8)).kv_tokens // 2048


def test_it_says_when_there_are_not_enough_heads_for_as_many_devices_as_it_takes() -> None:
    with pytest.raises(ConfigError, match="need more than 2 x L4, and it has 2 heads to share out"):
        served(classic(Shape(1000, 2**14, 2), 2048), L4, 2**20, 0)
    with pytest.raises(ConfigError, match="context is 1"):
        served(classic(Shape(2, 4, 2), 2048), L4, 1, 0)


@settings(max_examples=10)
@given(st.floats(1e7, 1e11), st.sampled_from([A100, L4]), st.integers(512, 8192))
def test_candidates_straddle_the_optimum(parameters: float, device: Device, context: int) -> None:
    found = candidates(parameters, device, context, 20e-6)
    assert sum(c.best for c in found) == 1
    assert any(c.frontier for c in found)
    ratios = [c.judgement.log_ratio for c in found]
    assert ratios == sorted(ratios)
    best = next(c for c in found if c.best)
    assert found[0].judgement.log_ratio <= best.judgement.log_ratio <= found[-1].judgement.log_ratio
    for candidate in found:
        beaten = [o for o in found if o.distance <= candidate.distance
                  and o.served.tokens_per_s >= candidate.served.tokens_per_s and o is not candidate]  # fmt: skip
        assert candidate.frontier == (not beaten)


def test_the_frontier_by_hand() -> None:
    assert frontier([0.0, 1.0, 1.0, 2.0], [1.0, 2.0, 1.5, 2.0]) == [True, True, False, False]
