"""Samples with weights, and figures of several devices put together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.figures import Figures, Sample

values = st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 9)), min_size=1, max_size=60)


@given(values, st.floats(0, 100))
def test_a_weight_is_so_many_values(pairs: list[tuple[float, int]], q: float) -> None:
    sample = Sample()
    for value, weight in pairs:
        sample.add([value], weight)
    expanded = [value for value, weight in pairs for _ in range(weight)]
    assert sample.count == len(expanded)
    assert sample.largest == max(expanded)
    assert sample.mean() == pytest.approx(np.mean(expanded))
    assert sample.percentile(q) == pytest.approx(np.percentile(expanded, q), abs=1e-6)


@given(values, values)
def test_merging_is_taking_all(first: list[tuple[float, int]], second: list[tuple[float, int]]) -> None:
    whole, one, other = Sample(), Sample(), Sample()
    for part, pairs in ((one, first), (other, second)):
        for value, weight in pairs:
            part.add([value], weight)
            whole.add([value], weight)
    one.merge(other)
    assert (one.count, one.largest, one.percentile(50)) == (whole.count, whole.largest, whole.percentile(50))
    assert one.mean() == pytest.approx(whole.mean())


@pytest.mark.parametrize("q", [1, 50, 90, 99])
def test_thinning_keeps_the_percentiles(q: int) -> None:
    drawn = np.random.default_rng(0).lognormal(0, 1, 50_000)
    sample = Sample(size=4000)
    sample.add(drawn[:30_000])
    part = Sample(size=4000)
    part.add(drawn[30_000:])
    sample.merge(part)
    assert len(sample._kept) <= 4000
    assert sample.percentile(q) == pytest.approx(np.percentile(drawn, q), rel=0.05)
    assert sample.mean() == pytest.approx(drawn.mean())


def test_two_devices_side_by_side() -> None:
    one, other = Figures(100), Figures(100)
    one.steps([50, 100], [1.0, 1.0], 0.0, 2.0, batch=2, draws=2)
    other.steps([25], [4.0], 1.0, 5.0, batch=1, draws=1)
    one.ended(0, 2.0, 1.0)
    other.ended(3, 4.0, 4.0)
    one.merge(other)
    figures = one.summary()
    assert (figures["seconds"], figures["output_tokens"], figures["requests"]) == (5.0, 5, 2)
    assert figures["kv_utilization_mean"] == pytest.approx((50 + 100 + 4 * 25) / 6 / 100)
    assert figures["batch_mean"] == pytest.approx((2 + 2 + 4) / 6)
    assert (figures["latency_mean_s"], figures["ttft_mean_s"], figures["recomputed_tokens"]) == (3.0, 2.5, 3)
