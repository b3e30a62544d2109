"""Both attentions against float64, on ragged batches over scattered blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from devices import ATTENTIONS, TRITON_DEVICE, TRITON_TYPES, needs_triton
from hypothesis import given, settings
from hypothesis import strategies as st

from presize.config import BLOCK_SIZE as B
from presize.core.lengths import LengthDistribution
from presize.core.request import Request
from presize.engine.attention import CpuAttention, CudaAttention
from presize.engine.kv_cache import KVCache
from presize.engine.model_config import ModelConfig
from presize.engine.plan import SequenceWork, make_plan
from presize.engine.sampling_params import SamplingParams
from presize.engine.sequence import Sequence
from presize.predict import Query

LONGEST = 320
LAYER = 1
SPARE = 2  # rows that the plan does not have
EPSILON = 2.0**-23


@dataclass(frozen=True)
class Case:
    """sequences: (tokens in the cache, tokens of this step, blocks beyond what they need)."""

    sequences: list[tuple[int, int, int]]
    kv_heads: int
    group: int
    size: int
    dtype: torch.dtype
    threads: int
    loudness: float
    seed: int
    garbage: float = 1e30


near_borders = st.builds(lambda b, d: max(b * B + d, 0), st.integers(0, 4), st.integers(-2, 2))
lengths = st.one_of(near_borders, st.integers(0, 140))
steps = st.one_of(st.just(1), near_borders.filter(bool), st.integers(1, 70))
cases = st.builds(
    Case,
    sequences=st.lists(st.tuples(lengths, steps, st.integers(0, 2)), min_size=1, max_size=5),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 8),
    size=st.sampled_from([16, 32, 64, 128]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    threads=st.integers(1, 2),
    loudness=st.sampled_from([1.0, 1.0, 20.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
)


class Bench:
    """One layer's attention over a cache that was filled by hand, and what float64 makes of it."""

    def __init__(self, case: Case) -> None:
        self.case, self.random = case, np.random.default_rng(case.seed)
        heads = case.kv_heads * case.group
        frequencies = 1 / 1000.0 ** (torch.arange(0, case.size, 2) / case.size)
        self.config = ModelConfig(
            architecture="llama", vocab_size=9, hidden_size=9, intermediate_size=9, num_layers=2, num_heads=heads,
            num_kv_heads=case.kv_heads, head_size=case.size, norm_eps=1e-5, max_positions=LONGEST, qkv_bias=False,
            output_bias=False, mlp_bias=False, qk_norm=False, tied_embeddings=True, eos_token_ids=(),
            inverse_frequencies=frequencies, rotary_scale=1.5,
        )  # fmt: skip
        counts = [-(-(old + new) // B) + spare for old, new, spare in case.sequences]
        self.cache = KVCache(self.config, sum(counts) + 2, case.dtype, torch.device("cpu"))
        self.cache.keys.fill_(case.garbage)
        self.cache.values.fill_(case.garbage)
        order = self.random.permutation(sum(counts) + 2)
        self.tables = [order[sum(counts[:i]) : sum(counts[: i + 1])].tolist() for i in range(len(counts))]
        for (old, _, _), table in zip(case.sequences, self.tables, strict=True):
            blocks, places = self._places(table, range(old))
            self.cache.keys[LAYER, blocks, :, :, places] = self._normal(old, case.kv_heads).to(case.dtype)
            self.cache.values[LAYER, blocks, :, places] = self._normal(old, case.kv_heads).to(case.dtype)
        self.qkv = self._normal(sum(new for _, new, _ in case.sequences), heads + 2 * case.kv_heads)

    def _normal(self, *shape: int) -> torch.Tensor:
        numbers = self.random.normal(size=(*shape, self.case.size)) * self.case.loudness
        return torch.from_numpy(numbers.astype(np.float32))

    def _places(self, table: list[int], positions: range) -> tuple[torch.Tensor, torch.Tensor]:
        """Block and place in it of each position."""
        where = torch.arange(positions.start, positions.stop)
        return torch.tensor(table, dtype=torch.int64)[where // B], where % B

    def sequences(self) -> Iterator[tuple[list[int], range, slice]]:
        """Block table, positions and rows of each sequence."""
        start = 0
        for (old, new, _), table in zip(self.case.sequences, self.tables, strict=True):
            yield table, range(old, old + new), slice(start, start + new)
            start += new

    def plan(self) -> Any:
        work = []
        for (old, new, _), table in zip(self.case.sequences, self.tables, strict=True):
            ids = [0] * (old + new)
            request = Request("r", len(ids), 1, LengthDistribution.exactly(1), computed_tokens=old)
            sequence = Sequence(request, Query("r", ids, 1), SamplingParams(), 0, 0, ids, frozenset(), None)
            work.append(SequenceWork(sequence, new, True, table))
        return make_plan(work)

    def run(self, kind: type) -> np.ndarray:
        """(N, H, D) by the code under test; the cache is changed."""
        filling = torch.full((SPARE, *self.qkv.shape[1:]), float("nan"))
        qkv_NX = torch.cat([self.qkv, filling]).flatten(1)
        if kind is CpuAttention:
            attention = CpuAttention(self.config, self.cache, LONGEST, self.case.threads)
        else:
            here, self.cache.storage = self.cache.storage, self.cache.storage.to(TRITON_DEVICE)
            attention = CudaAttention(self.config, self.cache, LONGEST)
            qkv_NX = qkv_NX.to(TRITON_DEVICE)
        attention.begin(self.plan(), len(qkv_NX))
        output = attention(LAYER, qkv_NX).cpu().reshape(len(qkv_NX), -1, self.case.size)
        assert not output[len(self.qkv) :].any()
        if kind is CudaAttention:
            self.cache.storage = here.copy_(self.cache.storage)
        return output[: len(self.qkv)].numpy()

    def rotated(self, positions: range, rows: slice) -> np.ndarray:
        """(N, H + J, D) queries and keys of a sequence, in float64."""
        angles = np.outer(positions, self.config.inverse_frequencies.double().numpy())[:, None]
        cos, sin = (1.5 * np.tile(f(angles), 2) for f in (np.cos, np.sin))
        x = self.qkv[rows, : -self.case.kv_heads].double().numpy()
        half = self.case.size // 2
        return x * cos + np.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sin

    def check_stored(self, before: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Every new key and value is in its place, and nothing else has changed."""
        case = self.case
        keys, values = before
        for table, positions, rows in self.sequences():
            blocks, places = self._places(table, positions)
            stored = self.cache.keys[LAYER, blocks, :, :, places]
            exact = self.rotated(positions, rows)[:, -case.kv_heads :]
            rounding = 2.0**-8 if case.dtype == torch.bfloat16 else 0.0
            # the angle itself is only known to float32: position * frequency, off by up to epsilon of it
            slack = (positions.stop + 4) * EPSILON * np.abs(exact).max() * 2
            np.testing.assert_allclose(stored.double().numpy(), exact, rtol=rounding, atol=slack)
            keys[LAYER, blocks, :, :, places] = stored
            values[LAYER, blocks, :, places] = self.qkv[rows, -case.kv_heads :].to(case.dtype)
        assert torch.equal(self.cache.keys.view(torch.uint8), keys.view(torch.uint8))
        assert torch.equal(self.cache.values.view(torch.uint8), values.view(torch.uint8))

    def check_output(self, found: np.ndarray) -> None:
        """Softmax in float64 over what the cache holds; tolerance from the rounding of float32 dot products."""
        case = self.case
        assert np.isfinite(found).all()
        for table, positions, rows in self.sequences():
            blocks, places = self._places(table, range(positions.stop))
            keys, values = (
                np.repeat(s.double().numpy(), case.group, axis=1)
                for s in (self.cache.keys[LAYER, blocks, :, :, places], self.cache.values[LAYER, blocks, :, places])
            )
            queries = self.rotated(positions, rows)[:, : -case.kv_heads] * case.size**-0.5
            hidden = np.arange(positions.stop) > np.array(positions)[:, None, None]
            scores = np.where(hidden, -np.inf, np.einsum("nhd,thd->nht", queries, keys))
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            expected = np.einsum("nht,thd->nhd", weights, values)
            size = np.einsum("nhd,thd->nht", np.abs(queries), np.abs(keys)).max()
            wrong = np.expm1(min((case.size + positions.stop) * EPSILON * size, 10.0))
            np.testing.assert_allclose(found[rows], expected, rtol=0, atol=(3 * wrong + 1e-5) * np.abs(values).max())


def check(case: Case, kind: type) -> None:
    bench = Bench(case)
    before = bench.cache.keys.clone(), bench.cache.values.clone()
    found = bench.run(kind)
    bench.check_stored(before)
    bench.check_output(found)


@given(case=cases)
def test_attention_is_softmax_over_the_block_table_and_stores_nothing_elsewhere(case):
    check(case, CpuAttention)


@needs_triton
@settings(max_examples=100 if TRITON_DEVICE == "cuda" else 5)
@given(case=cases)
def test_the_same_holds_on_a_gpu(case):
    check(case if case.dtype in TRITON_TYPES else replace(case, dtype=torch.float32), CudaAttention)


MIXED = Case([(31, 1, 0), (0, 33, 1), (64, 1, 0), (40, 9, 2), (0, 1, 0)], 2, 3, 64, torch.float32, 2, 1.0, 7)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_what_lies_in_unused_places_of_blocks_does_not_leak(kind, dtype, garbage):
    if kind is CpuAttention or dtype in TRITON_TYPES:
        check(replace(MIXED, garbage=garbage, dtype=dtype), kind)


@pytest.mark.parametrize("garbage", [float("nan"), 0.0])
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_nothing_leaks_where_every_block_is_full(kind, garbage):
    check(replace(MIXED, sequences=[(63, 1, 0), (0, 32, 0), (32, 32, 1)], garbage=garbage), kind)
