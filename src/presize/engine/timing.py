"""How long steps of the real engine take, and what the machine can do at its best: what a device model is fitted to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from presize.core.request import Request
from presize.engine.engine import Engine
from presize.engine.sampling_params import SamplingParams
from presize.engine.weights import Progress

_PROMPTS = (32, 256, 1024)  # tokens: short ones for the batch's own cost, long ones for that of context
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_ANSWER = 8  # tokens: steps of nearly one shape
_MOST = 4096  # tokens of a batch's longer prompts: the rest would only take longer


@dataclass(frozen=True, slots=True)
class TimedStep:
    """A step of the engine: sequences that decoded, tokens of their context, chunks of prompts (tokens, earlier ones,
    whether a token was drawn), seconds."""

    decodes: int
    context: int
    chunks: tuple[tuple[int, int, bool], ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Peaks:
    """Bytes/s read, operations/s of a large matrix product, bytes of memory; of the engine's own number type."""

    bandwidth: float
    flops: float
    memory_bytes: float


def time_steps(engine: Engine, rounds: int, report: Progress | None = None) -> list[TimedStep]:
    """Steps of batches from 1 to what the pool and ``max_num_seqs`` hold, ``rounds`` times. Only when idle."""
    engine.restart(policy="worst-case", order="fcfs", predictor="max-tokens")
    random = np.random.default_rng(0)
    room, longest = engine.scheduler.ledger.capacity_tokens, engine.runner.max_model_len
    shapes = [
        (batch, prompt)
        for prompt in _PROMPTS
        for batch in _BATCHES
        if batch * (prompt + 2 * _ANSWER + 32) <= room and batch <= engine.options.max_num_seqs
        and prompt + _ANSWER <= longest and (prompt == _PROMPTS[0] or batch * prompt <= _MOST)
    ]  # fmt: skip
    steps: list[TimedStep] = []
    for turn in range(rounds):
        for number, (batch, prompt) in enumerate(shapes):
            for row in range(batch):
                ids = random.integers(0, engine.runner.config.vocab_size, prompt).tolist()
                engine.add_tokens(
                    str(row),
                    ids,
                    SamplingParams(temperature=0, max_tokens=_ANSWER, min_tokens=_ANSWER, ignore_eos=True),
                )
            steps += _run(engine)
            if report is not None:
                report("timing steps", turn * len(shapes) + number + 1, rounds * len(shapes))
    return steps


def _run(engine: Engine) -> Iterator[TimedStep]:
    """Until the engine is idle. What a step did is seen from the requests before and after it."""
    scheduler = engine.scheduler
    requests: list[Request] = [*scheduler.running, *scheduler.waiting]
    while engine.has_unfinished_requests():
        before = [(r, r.computed_tokens, r.uncomputed_tokens) for r in requests]
        drawn = [r.output_tokens for r in requests]
        started = time.perf_counter()
        engine.step()
        seconds = time.perf_counter() - started
        done = [
            (computed, left, r.computed_tokens - computed, r.output_tokens > output)
            for (r, computed, left), output in zip(before, drawn, strict=True)
            if r.computed_tokens > computed
        ]
        decodes = [computed + 1 for computed, left, _, _ in done if left == 1]
        chunks = tuple((tokens, computed, draws) for computed, left, tokens, draws in done if left > 1)
        yield TimedStep(len(decodes), sum(decodes), chunks, seconds)


def peaks(engine: Engine, rounds: int = 5) -> Peaks:
    """Medians: reading 256 MB, and a product of two matrices of 2,048 rows and columns."""
    runner = engine.runner
    read = torch.ones(2**26, device=runner.device, dtype=torch.float32)
    matrix = torch.ones(2048, 2048, device=runner.device, dtype=runner.compute_dtype)
    bandwidth = 4 * 2**26 / _median_s(read.sum, runner.device, rounds)
    flops = 2 * 2048**3 / _median_s(lambda: matrix @ matrix, runner.device, rounds)
    if runner.device.type == "cuda":
        memory = float(torch.cuda.get_device_properties(runner.device).total_memory)
    else:
        memory = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return Peaks(bandwidth, flops, memory)


def _median_s(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):  # the first one warms up
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[1:])[rounds // 2]
