"""A world for the scheduler: a step loop that knows the true lengths and checks every promise at every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from presize.config import SchedulerOptions
from presize.core.ledger import Ledger
from presize.core.lengths import GRID, LengthDistribution
from presize.core.request import Request, RequestState
from presize.core.scheduler import Decision, Scheduler


@dataclass(frozen=True)
class Job:
    """One request of the world. ``abort_at``: the step at which its client leaves, wherever it then is."""

    prompt: int
    length: int
    max_tokens: int
    arrival: int = 0
    abort_at: int | None = None
    priority: int = 0


@dataclass(frozen=True)
class World:
    """Jobs and a machine; every job fits."""

    jobs: tuple[Job, ...]
    num_blocks: int
    block_size: int
    max_num_seqs: int
    token_budget: int
    fixed_s: float = 0.02  # what a step and a prefilled token cost decides how payback packs
    prefill_s: float = 0.001


@st.composite
def worlds(draw: st.DrawFn, aborts: bool = False) -> World:
    """Short pools, so that memory runs out often; up to ten requests."""
    block_size = draw(st.sampled_from([1, 4, 16]))
    jobs = []
    for _ in range(draw(st.integers(1, 10))):
        length = draw(st.integers(1, 40))
        jobs.append(
            Job(
                draw(st.integers(1, 40)),
                length,
                length + draw(st.just(0) | st.integers(0, 40)),
                draw(st.integers(0, 30)),
                draw(st.none() | st.integers(0, 120)) if aborts else None,
                draw(st.sampled_from([0, 0, 0, 1, -1])),
            )
        )
    smallest = math.ceil(max(job.prompt + job.max_tokens for job in jobs) / block_size)
    max_num_seqs = draw(st.integers(1, 10))
    return World(
        tuple(jobs),
        smallest + draw(st.integers(0, smallest)),
        block_size,
        max_num_seqs,
        max_num_seqs + draw(st.integers(0, 60)),
        draw(st.sampled_from([1e-4, 0.02, 1.0])),
        draw(st.sampled_from([1e-5, 1e-3, 0.1])),
    )


Forecaster = Callable[[int, Sequence[Job]], LengthDistribution]


def _random(number: int, jobs: Sequence[Job]) -> LengthDistribution:
    rng = np.random.default_rng(number)
    return LengthDistribution.from_survival(rng.random(GRID.size), int(rng.integers(1, 200)))


# what may stand where a predictor should be: the truth, its opposite, and nonsense
FORECASTERS: dict[str, Forecaster] = {
    "truth": lambda number, jobs: LengthDistribution.exactly(jobs[number].length),
    "reversed": lambda number, jobs: LengthDistribution.exactly(
        max(j.length for j in jobs) + 1 - jobs[number].length  # the longest looks shortest
    ),
    "one": lambda number, jobs: LengthDistribution.exactly(1),
    "huge": lambda number, jobs: LengthDistribution.exactly(2**40),
    "nan": lambda number, jobs: LengthDistribution.from_survival(np.full(GRID.size, np.nan)),
    "zero": lambda number, jobs: LengthDistribution.from_survival(np.zeros(GRID.size)),
    "random": _random,
}


@dataclass
class Run:
    """Runs a world to its end. ``trace`` is what each step did, to compare two runs."""

    world: World
    options: SchedulerOptions
    forecaster: Forecaster
    before_step: Callable[[Scheduler], object] = lambda scheduler: None
    trace: list[list[tuple[str, int]]] = field(default_factory=list)
    preemptions: int = 0

    def __post_init__(self) -> None:
        world = self.world
        self.scheduler = Scheduler(
            self.options,
            Ledger(world.num_blocks, world.block_size),
            max_num_seqs=world.max_num_seqs,
            max_num_batched_tokens=world.token_budget,
        )
        self.requests = [
            Request(str(i), j.prompt, j.max_tokens, self.forecaster(i, world.jobs), float(j.arrival), j.priority)
            for i, j in enumerate(world.jobs)
        ]
        self.scheduled = dict.fromkeys(self.requests, 0)  # tokens that went through the model
        self.aborted: set[Request] = set()
        self.ranks: dict[Request, int] = {}  # the order of first admissions

    def to_the_end(self) -> Run:
        """Step until nothing is left to do; a world that does not end is an error."""
        work = sum(j.prompt + j.length for j in self.world.jobs)
        last_arrival = max(j.arrival for j in self.world.jobs)
        for step in range(last_arrival + 1 + work * (1 + len(self.requests))):
            self._arrive_and_leave(step)
            if step >= last_arrival and not self.scheduler.has_unfinished_requests():
                break
            self.before_step(self.scheduler)
            self._step()
        assert not self.scheduler.has_unfinished_requests(), "livelock"
        self._check_end()
        return self

    def _arrive_and_leave(self, step: int) -> None:
        for job, request in zip(self.world.jobs, self.requests, strict=True):
            if job.arrival == step:
                self.scheduler.add(request)
            gone = job.abort_at is not None and step == max(job.abort_at, job.arrival)
            if gone and request.state is not RequestState.FINISHED:
                self.aborted.add(request)
                self.scheduler.finish(request)
                assert request not in self.scheduler.waiting
                self._check_memory()

    def _step(self) -> None:
        scheduler = self.scheduler
        before = {request: request.admission for request in scheduler.running}
        unfinished = scheduler.has_unfinished_requests()
        decision = scheduler.schedule()
        self._check_preempted(decision, before)
        self._check_work(decision)
        assert bool(decision.work) == unfinished, "a step without work while somebody waits"
        self._check_memory()
        computed = {w.request: w.request.computed_tokens for w in decision.work}
        world = self.world
        scheduler.complete(decision, world.fixed_s + world.prefill_s * decision.prefill_tokens)
        for work in decision.work:
            request = work.request
            assert request.computed_tokens == computed[request] + work.num_tokens
            self.scheduled[request] += work.num_tokens
            if request.output_tokens == world.jobs[int(request.request_id)].length:
                scheduler.finish(request)
        self.trace.append([(w.request.request_id, w.num_tokens) for w in decision.work])

    def _check_preempted(self, decision: Decision, before: dict[Request, int | None]) -> None:
        self.preemptions += len(decision.preempted)
        for victim in decision.preempted:
            assert victim.admission > min(before.values()), "the oldest was preempted"
            assert victim.computed_tokens == 0
            assert victim.state is RequestState.PREEMPTED

    def _check_work(self, decision: Decision) -> None:
        world, running = self.world, self.scheduler.running
        sizes = [w.num_tokens for w in decision.work]
        assert sum(sizes) <= world.token_budget
        assert len(running) <= world.max_num_seqs
        assert decision.num_decodes + decision.prefill_tokens == sum(sizes)
        requests = [w.request for w in decision.work]
        assert len(set(requests)) == len(requests)
        assert not self.aborted & set(requests)
        for request in running:
            assert request.admission == self.ranks.setdefault(request, len(self.ranks)), "a rank is for good"
        for work in decision.work:
            assert work.request in running
            assert 1 <= work.num_tokens <= work.request.uncomputed_tokens
            assert work.draws == (work.num_tokens == work.request.uncomputed_tokens)
        # nobody who decodes is made to wait by somebody else's prompt
        assert {r for r in running if r.uncomputed_tokens == 1} <= set(requests)

    def _check_memory(self) -> None:
        ledger = self.scheduler.ledger
        ledger.check_integrity()
        for request in self.requests:
            held = len(ledger.held(request.request_id)) * ledger.block_size
            if request.state is RequestState.RUNNING:
                assert held >= request.computed_tokens
            else:
                assert held == 0
        for work in self.scheduler.running:
            assert work.state is RequestState.RUNNING

    def _check_end(self) -> None:
        ledger = self.scheduler.ledger
        assert ledger.free_blocks == ledger.unbooked_blocks == self.world.num_blocks
        assert self.scheduler.running == []
        for job, request in zip(self.world.jobs, self.requests, strict=True):
            assert request.state is RequestState.FINISHED
            if request in self.aborted:
                continue
            assert request.output_tokens == job.length
            # all but the last token were computed once, and what a preemption threw away was computed again
            assert request.computed_tokens == job.prompt + job.length - 1
            assert self.scheduled[request] == request.computed_tokens + request.recomputed_tokens
