"""Step costs against the formula worked out by hand, and what must be true of any device."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.errors import ConfigError
from presize.simulate.costs import Chunk, Group, StepCosts
from presize.simulate.device import DEVICES, Device
from presize.simulate.models import MODELS, ModelShape

# round numbers: 2 layers of 1000 weights each, a head of 50, 8 elements of keys and values a token
TINY = ModelShape(
    name="tiny", layers=2, hidden=10, heads=2, kv_heads=1, head_size=2, intermediate=44, mlp_matrices=2, vocabulary=5,
    max_positions=100, tied=False,
)  # fmt: skip
PLAIN = Device(
    name="plain", source="", memory_bytes=1e6, bandwidth=1e6, flops=1e6, link_bandwidth=1e6, host_bandwidth=1e6,
    bytes_per_value=1.0, weight_efficiency=0.5, kv_efficiency=0.25, compute_efficiency=0.1,
    prefill_attention_efficiency=0.2, step_s=0.5, sequence_s=0.01, hop_s=0.001,
)  # fmt: skip
batches = st.tuples(st.integers(1, 300), st.integers(1, 2000))
chunks = st.lists(st.builds(Chunk, st.integers(1, 512), st.integers(0, 3000), st.booleans()), max_size=4)
devices, models = st.sampled_from(sorted(DEVICES)), st.sampled_from(sorted(MODELS))


def test_a_layer_and_a_head_are_counted() -> None:
    assert TINY.layer_parameters == 10 * 2 * (4 + 2) + 2 * 10 * 44 == 1000
    assert TINY.parameters == 2 * 1000 + 2 * 50
    assert TINY.kv_elements == 2 * 2 * 1 * 2


def test_a_decode_step_by_hand() -> None:
    # 2,050 bytes at 500 kB/s are 4.1 ms; 3 x (2 x 2,000 + 2 x 50) operations at 100 k/s are 123 ms, which is more.
    # a token of context is 8 bytes at 250 kB/s, 32 us, or 4 x 2 x 2 x 2 operations, 320 us
    (first, second) = StepCosts(PLAIN, TINY).decode(3, 40, 2)
    assert first == pytest.approx(0.5 + 3 * 0.01 + 3 * 4100 / 1e5 + 40 * 32 / 1e5)
    assert second - first == pytest.approx(3 * 32 / 1e5)


def test_a_step_with_a_chunk_by_hand() -> None:
    # 4 tokens behind 6: 4 x 6 + 4 x 5 / 2 = 34 pairs of 32 operations at 200 k/s
    seconds = StepCosts(PLAIN, TINY).mixed(1, 10, [Chunk(4, 6, False)])
    products = (5 * 4000 + 1 * 100) / 1e5
    assert seconds == pytest.approx(0.5 + 2 * 0.01 + products + 10 * 32 / 1e5 + 34 * 32 / 2e5)


def test_the_weights_bound_a_small_batch() -> None:
    fast = replace(PLAIN, flops=1e12)
    assert StepCosts(fast, TINY).decode(1, 1, 1)[0] == pytest.approx(0.51 + 2050 / 5e5 + 32e-6, rel=1e-6)


@given(devices, models, batches)
def test_a_batch_costs_less_than_its_sequences_one_by_one(device: str, model: str, batch: tuple[int, int]) -> None:
    costs = StepCosts(DEVICES[device], MODELS[model])
    sequences, each = batch
    together, alone = costs.decode(sequences, sequences * each, 1)[0], costs.decode(1, each, 1)[0]
    assert alone * 0.999 <= together <= sequences * alone * 1.001


@given(devices, models, batches, chunks, st.integers(1, 512))
def test_more_work_takes_longer(device: str, model: str, batch: tuple[int, int], parts: list[Chunk], more: int) -> None:
    costs = StepCosts(DEVICES[device], MODELS[model])
    count, each = batch
    before = costs.mixed(count, count * each, parts)
    assert costs.mixed(count, count * each, [*parts, Chunk(more, 0, True)]) > before
    assert costs.mixed(count + 1, count * each + more, parts) > before


@given(devices, models, batches, st.integers(1, 50))
def test_many_steps_are_the_single_ones(device: str, model: str, batch: tuple[int, int], steps: int) -> None:
    """To the last digit: the simulator may take any number of them at once."""
    costs = StepCosts(DEVICES[device], MODELS[model])
    count, each = batch
    many = costs.decode(count, count * each, steps).tolist()
    assert many == [costs.decode(count, count * (each + step), 1)[0] for step in range(steps)]
    assert many[0] == pytest.approx(costs.mixed(count, count * each, []))


@given(models, st.sampled_from([2, 4, 8]), batches)
def test_tensor_parallel_divides_what_is_read_and_computed(model: str, width: int, batch: tuple[int, int]) -> None:
    free = replace(DEVICES["h100"], step_s=0.0, sequence_s=0.0, hop_s=0.0, link_bandwidth=1e15)
    one, wide = StepCosts(free, MODELS[model]), StepCosts(free, MODELS[model], Group(tensor_parallel=width))
    count, each = batch
    assert wide.decode(count, count * each, 1)[0] == pytest.approx(one.decode(count, count * each, 1)[0] / width, 1e-2)


def test_a_pipeline_reads_its_weights_no_faster_but_the_rest() -> None:
    free = replace(DEVICES["a100-80g"], step_s=0.0, sequence_s=0.0, hop_s=0.0, link_bandwidth=1e15)
    model = MODELS["gpt-3-175b"]
    one, six = StepCosts(free, model), StepCosts(free, model, Group(pipeline_parallel=6))
    weights = one.decode(1, 0, 1)[0]
    assert six.decode(6, 0, 1)[0] == pytest.approx(weights)
    assert six.decode(6, 60_000, 1)[0] - weights == pytest.approx((one.decode(6, 60_000, 1)[0] - weights) / 6)
    assert six.decode(1, 10_000, 1)[0] == pytest.approx(one.decode(1, 10_000, 1)[0]), "one sequence fills no pipeline"


def test_weights_on_the_host_cost_its_link_and_give_room() -> None:
    model, device = MODELS["llama-33b"], DEVICES["a100-80g"]
    inside, outside = StepCosts(device, model), StepCosts(device, model, Group(weights_on_host=0.5))
    assert outside.kv_tokens - inside.kv_tokens == pytest.approx(model.parameters / outside.kv_bytes, rel=0.01)
    streamed = 0.5 * 2 * (model.layers * model.layer_parameters + model.head_parameters) / device.host_bandwidth
    assert outside.decode(1, 1, 1)[0] == pytest.approx(streamed, rel=0.01)


def test_what_does_not_fit_is_said_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match="gpt-3-175b has 349 GB of weights; 1 x A100-80G hold 72 GB"):
        _ = StepCosts(DEVICES["a100-80g"], MODELS["gpt-3-175b"]).kv_tokens
    with pytest.raises(ConfigError, match="fewer than"):
        StepCosts(DEVICES["a100-80g"], MODELS["gpt-j-6b"], Group(pipeline_parallel=29))


def test_the_step_of_the_log_is_met() -> None:
    """docs/log.md, 2026-11-24: 64 sequences with contexts near 100 took 63 ms on this CPU."""
    costs = StepCosts(DEVICES["cpu-2-cores"], MODELS["SmolLM2-135M-Instruct"])
    assert costs.decode(64, 6400, 1)[0] == pytest.approx(0.063, rel=0.1)
