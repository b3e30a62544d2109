"""Sends the requests at their times and gathers what becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass

from presize.load.arrivals import Times
from presize.load.client import Client
from presize.load.outcome import UNFINISHED, Outcome
from presize.load.rows import Sample

TICK_S = 0.25


@dataclass(slots=True)
class Tally:
    """A run so far. frames: with text, of all answers; peak: most requests at the same time."""

    total: int
    sent: int = 0
    done: int = 0
    failed: int = 0
    frames: int = 0
    peak: int = 0

    @property
    def in_flight(self) -> int:
        """Requests that the server has."""
        return self.sent - self.done

    def count_frame(self) -> None:
        """One more frame with text."""
        self.frames += 1


@dataclass(slots=True)
class Run:
    """Of every request that was sent, in the order of the arrivals. duration_s: to the last one's end; peak: as in
    `Tally`."""

    samples: list[Sample]
    outcomes: list[Outcome]
    duration_s: float
    peak: int


async def drive(
    client: Client,
    samples: Sequence[Sample],
    times: Times,
    tally: Tally,
    *,
    ignore_eos: bool,
    max_concurrency: int | None,
    stop: asyncio.Event,
    on_tick: Callable[[], None],
) -> Run:
    """Send every sample at its time, or when there is a place; end when all have ended, or ``stop`` is set.

    ``on_tick`` is called every TICK_S seconds.
    """
    places: AbstractAsyncContextManager[None] = nullcontext()
    if max_concurrency is not None:
        places = asyncio.Semaphore(max_concurrency)
    found: list[Outcome | None] = [None] * len(samples)
    begun_s = time.perf_counter()

    async def one(number: int) -> None:
        async with places:
            tally.sent += 1
            tally.peak = max(tally.peak, tally.in_flight)
            started_s = time.perf_counter() - begun_s
            found[number] = Outcome(started_s=started_s, failure=UNFINISHED)
            outcome = await client.ask(samples[number], ignore_eos=ignore_eos)
            outcome.scheduled_s, outcome.started_s = float(times[number]), started_s
            found[number] = outcome
            tally.done += 1
            tally.failed += outcome.failure is not None

    async def send_all() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(len(samples)):
                if (early_s := times[number] - (time.perf_counter() - begun_s)) > 0:
                    await asyncio.sleep(early_s)
                group.create_task(one(number))

    work = asyncio.ensure_future(send_all())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        while not work.done() and not stop.is_set():
            on_tick()
            await asyncio.wait((work, stopping), timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
        duration_s = time.perf_counter() - begun_s
    finally:
        stopping.cancel()
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
    pairs = [(sample, outcome) for sample, outcome in zip(samples, found, strict=True) if outcome is not None]
    return Run([sample for sample, _ in pairs], [outcome for _, outcome in pairs], duration_s, tally.peak)
