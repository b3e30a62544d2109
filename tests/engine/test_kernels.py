"""What the CPU kernels are built from, against numpy, torch and float64."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numba import njit, vectorize

from presize.engine.elementwise import RmsNorm, raw, silu_and_multiply
from presize.engine.kernels.parallel import even_bounds, parallel_for
from presize.engine.kernels.simd import exp2, narrow, widen

float32s = st.floats(width=32, allow_nan=False)
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


@vectorize(["float32(float32)"])
def many_exp2(x):
    return exp2(x)


@njit
def to_bfloat16(values, bits):
    for i in range(len(values)):
        bits[i] = narrow(values[i], bits[i])


@njit
def to_float32(bits, values):
    for i in range(len(values)):
        values[i] = widen(bits[i])


@njit
def mark(start, stop, runs, seen):
    for i in range(start, stop):
        seen[i] += 1
    runs[start] += 1


@njit
def mark_all(bounds, runs, seen):
    parallel_for(mark, bounds, (runs, seen))


def test_exp2_is_a_power_of_two_to_float32() -> None:
    x = np.linspace(-59.9, 126, 1_000_003).astype(np.float32)
    np.testing.assert_allclose(many_exp2(x), np.exp2(x.astype(np.float64)), rtol=3e-7)
    assert many_exp2(np.float32(200)) == np.float32(2.0**126)
    assert not many_exp2(np.array([-60.001, -1e4, -np.inf], np.float32)).any()


@given(st.lists(float32s, min_size=1, max_size=40))
def test_bfloat16_is_rounded_as_torch_does(values: list[float]) -> None:
    source = np.array(values, np.float32)
    bits, back = np.zeros(len(source), np.uint16), np.zeros(len(source), np.float32)
    to_bfloat16(source, bits)
    expected = torch.from_numpy(source).bfloat16()
    assert np.array_equal(bits, raw(expected))
    to_float32(bits, back)
    assert np.array_equal(back, expected.float().numpy())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=70))
def test_every_run_of_a_parallel_loop_is_done_once(counts: list[int]) -> None:
    bounds = np.concatenate(([0], np.cumsum(counts)))
    runs, seen = np.zeros(bounds[-1] + 1, np.int64), np.zeros(bounds[-1] + 1, np.int64)
    mark_all(bounds, runs, seen)
    assert seen[:-1].tolist() == [1] * int(bounds[-1])
    assert np.flatnonzero(runs).tolist() == sorted(set(bounds[:-1].tolist()))


@given(st.integers(0, 1000), st.integers(1, 64))
def test_even_bounds_cut_into_runs_that_differ_by_one_at_most(count: int, threads: int) -> None:
    sizes = np.diff(even_bounds(count, threads))
    assert (len(sizes), sizes.sum()) == (threads, count)
    assert sizes.max() - sizes.min() <= 1


@given(dtypes, st.integers(1, 20), st.integers(1, 3), st.integers(1, 150), st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_normalisation_against_float64(dtype, rows, heads, size, loudness, seed) -> None:
    random = torch.Generator().manual_seed(seed)
    whole = (torch.randn(rows, heads + 1, size, generator=random) * loudness).to(dtype)
    x = whole[:, :heads]  # rows of a slice do not lie together
    weight = torch.randn(size, generator=random).to(dtype)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    found = RmsNorm(weight, 1e-5)(x)
    assert found.dtype == dtype
    rounding = 2.0**-8 if dtype == torch.bfloat16 else 1e-5
    np.testing.assert_allclose(found.double(), exact, rtol=rounding, atol=1e-30)


@given(dtypes, st.integers(1, 20), st.integers(1, 150), st.sampled_from([1.0, 30.0, 1e4]), st.integers(0, 2**31))
def test_activation_against_float64(dtype, rows, size, loudness, seed) -> None:
    random = torch.Generator().manual_seed(seed)
    x = (torch.randn(rows, 2 * size, generator=random) * loudness).to(dtype)
    gate, up = x.double().chunk(2, dim=-1)
    rounding = 2.0**-8 if dtype == torch.bfloat16 else 1e-5
    # below 2**-126 the sigmoid counts as that
    np.testing.assert_allclose(
        silu_and_multiply(x).double(), gate / (1 + (-gate).exp()) * up, rtol=rounding, atol=1e-28
    )


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_openmp_the_calling_thread_does_it_all() -> None:
    """As on a system whose torch brings another kind of threads."""
    found = run_python("""
        import ctypes, llvmlite.binding, torch
        llvmlite.binding.check_jit_execution()
        whole, ctypes.CDLL = ctypes.CDLL, lambda name, *rest: (_ for _ in ()).throw(OSError(name))
        from presize.engine.kernels import parallel
        ctypes.CDLL = whole
        from presize.engine.elementwise import RmsNorm
        torch.set_num_threads(2)
        x = torch.randn(33, 48)
        torch.testing.assert_close(RmsNorm(torch.ones(48), 1e-5)(x), torch.nn.functional.rms_norm(x, (48,), eps=1e-5))
        print(parallel._openmp()[0] is not parallel._run_alone)
    """)
    assert found.split() == ["True"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="CPU seconds of each thread are read from /proc")
def test_one_thread_means_one_thread(checkpoint) -> None:
    directory = str(checkpoint("llama")[1])
    used = run_python(f"""
        import os
        from presize import LLM, SamplingParams

        def ticks():
            files = (f"/proc/self/task/{{thread}}/stat" for thread in os.listdir("/proc/self/task"))
            fields = (open(file).read().rsplit(")", 1)[1].split() for file in files)
            return {{i: int(f[11]) + int(f[12]) for i, f in enumerate(fields)}}

        llm = LLM({directory!r}, threads=1, kv_tokens=32768)
        before = ticks()
        params = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
        llm.generate([[i + 1, 3, 5, 7] for i in range(64)], params, use_tqdm=False)
        print(*(t - before.get(i, 0) for i, t in ticks().items()))
    """)
    own, *others = map(int, used.split())
    assert own > 20, "hundredths of a second: too few to tell"
    assert sum(others) <= own / 5  # BLAS libraries have threads, which spin for a tenth of a second when they are made
