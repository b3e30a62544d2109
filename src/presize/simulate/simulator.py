"""One engine on a virtual clock. It decides by `core`, forecasts by `predict`, and takes a step's time from a model.

Between two events (an answer that ends, a request that comes, a question of admission) all steps decide the same, so
they are taken at once; the results are those of going step by step, to the last digit.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from presize.config import BLOCK_SIZE, SchedulerOptions
from presize.core.ledger import Ledger
from presize.core.lengths import FloatArray, IntArray, LengthDistribution
from presize.core.request import Request, RequestState
from presize.core.scheduler import Decision, Scheduler
from presize.errors import CapacityError, OverloadedError
from presize.figures import Figures
from presize.predict.base import Predictor, Query
from presize.simulate.costs import Chunk, StepCosts
from presize.simulate.series import Series

_NO_PROMPT: Sequence[int] = ()
_ANY = LengthDistribution.exactly(1)  # until the predictor has spoken


@dataclass(slots=True, eq=False)
class Life:
    """A request's outcome. Seconds on the virtual clock, NaN for what did not happen; refused: why it never ran."""

    number: int
    query: Query
    natural_tokens: int  # how long the answer is if nothing cuts it off
    forecast_tokens: float = 0.0
    first_token_s: float = math.nan
    last_token_s: float = math.nan
    tokens_at_start: int = 0  # that it had when it was last put to run


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request; seconds since it came."""

    number: int
    ttft_s: float
    latency_s: float
    tokens: int
    preemptions: int

    @property
    def tpot_s(self) -> float:
        """Seconds a token after the first; 0 for an answer of one token."""
        return (self.latency_s - self.ttft_s) / (self.tokens - 1) if self.tokens > 1 else 0.0


@dataclass(slots=True)
class Jump:
    """Steps in a row that do the same: (steps,) blocks held, seconds each, and the clock at the end of each."""

    decision: Decision
    held: IntArray
    seconds: FloatArray
    ends: FloatArray


@dataclass(slots=True)
class Engine:
    """A scheduler, a predictor, and a device that is a formula. ``step_by_step``: never take several steps at once."""

    options: SchedulerOptions
    costs: StepCosts
    predictor: Predictor
    num_blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    step_by_step: bool = False
    unfinished: int = 0
    forecast_tokens: float = 0.0
    refused: int = 0
    now: float = 0.0
    scheduler: Scheduler = field(init=False)
    figures: Figures = field(init=False)
    series: Series = field(default_factory=Series)
    outcomes: list[Outcome] = field(default_factory=list)
    _jump: Jump | None = None
    _starting: bool = False  # idle until now: whoever else comes at the same moment is in the first step, too
    _lives: dict[Request, Life] = field(default_factory=dict)
    _fresh: list[Request] = field(default_factory=list)  # run, and have drawn no token since they were put to run
    # (number of the step that draws the last token, tie-break, request, preemptions when that was worked out)
    _ends: list[tuple[int, int, Request, int]] = field(default_factory=list)
    _steps: int = 0

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(
            self.options,
            Ledger(self.num_blocks, BLOCK_SIZE),
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
        )
        self.figures = Figures(self.scheduler.ledger.capacity_tokens)

    @property
    def event(self) -> tuple[float, bool]:
        """(when `advance` is to be called, whether not before all that come at that moment); infinity if never."""
        if self._jump is not None:
            return float(self._jump.ends[-1]), False
        return (self.now, True) if self._starting else (math.inf, False)

    def submit(self, number: int, at_s: float, prompt: int, natural: int, max_tokens: int) -> None:
        """A request comes at ``at_s``, not before the last one did; it is queued, or refused and counted."""
        self._stop_before(at_s)
        query = Query(str(number), _NO_PROMPT, max_tokens)
        request = Request(query.request_id, prompt, max_tokens, _ANY, at_s)
        (request.forecast,) = self.predictor.predict([query])
        try:
            self.scheduler.check_fits(request)
            self.scheduler.check_attainable(request)
        except (CapacityError, OverloadedError):
            self.refused += 1
            return
        self.scheduler.add(request)
        life = Life(number, query, natural, prompt + request.expected_tokens)
        self._lives[request] = life
        self.unfinished += 1
        self.forecast_tokens += life.forecast_tokens
        if self._jump is None:
            self.now, self._starting = max(self.now, at_s), True

    def advance(self) -> None:
        """Take the steps that were decided, and decide the next ones, if there are any."""
        assert self.event[0] < math.inf, "an idle engine has no steps to take"
        jump, self._jump, self._starting = self._jump, None, False
        if jump is not None:
            self._take(jump)
        if self.scheduler.has_unfinished_requests():
            self._decide()
        else:
            self.scheduler.ledger.check_integrity()

    def _stop_before(self, at_s: float) -> None:
        """Undecide the steps that have not begun at ``at_s``, so that a newcomer is looked at in the next one."""
        jump = self._jump
        if jump is None or len(jump.seconds) == 1:
            return
        begun = 1 + int(np.searchsorted(jump.ends[:-1], at_s, side="right"))
        if begun == len(jump.seconds):
            return
        # the last one that has begun is still under way, and is decided again: it comes out the same
        if begun > 1:
            self._take(Jump(jump.decision, jump.held[: begun - 1], jump.seconds[: begun - 1], jump.ends[: begun - 1]))
            self._decide(most=1)
        else:
            self._jump = Jump(jump.decision, jump.held[:1], jump.seconds[:1], jump.ends[:1])

    def _decide(self, most: int | None = None) -> None:
        decision = self.scheduler.schedule()
        for request in decision.preempted:
            life = self._lives[request]
            if request in self._fresh:
                self._fresh.remove(request)
            else:
                life.last_token_s = self.now
        for request in (*decision.admitted, *decision.resumed):
            self._lives[request].tokens_at_start = request.output_tokens
            self._fresh.append(request)
        self.figures.preempted(len(decision.preempted))
        count = decision.num_decodes
        context = sum([w.request.prompt_tokens + w.request.output_tokens for w in decision.work[:count]])
        if decision.prefill_tokens:
            chunks = [Chunk(w.num_tokens, w.request.computed_tokens, w.draws) for w in decision.work[count:]]
            held = np.array([self.scheduler.ledger.held_blocks])
            seconds = np.array([self.costs.mixed(count, context, chunks)])
        else:
            if most is None:
                most = 1 if self.step_by_step else self._until_the_next_end()
            held = self.scheduler.repeats(decision, most)
            seconds = self.costs.decode(count, context, len(held))
        ends = np.cumsum(np.concatenate(([self.now], seconds)))[1:]
        self._jump = Jump(decision, held, seconds, ends)

    def _until_the_next_end(self) -> int:
        """Steps in which no answer ends but in the last."""
        if self._fresh:  # also one of which a single token of the prompt was left, which counts as a decode
            return 1
        while self._ends:
            step, _, request, preemptions = self._ends[0]
            if request.state is RequestState.RUNNING and request.preemptions == preemptions:
                return max(step - self._steps, 1)
            heapq.heappop(self._ends)
        return 1

    def _take(self, jump: Jump) -> None:
        decision, steps = jump.decision, len(jump.seconds)
        started, self.now = self.now, float(jump.ends[-1])
        seconds = jump.seconds.tolist()
        self.scheduler.complete(decision, seconds[0] if steps == 1 else jump.seconds)
        self._steps += steps
        draws = sum(w.draws for w in decision.work) if decision.prefill_tokens else decision.num_decodes
        used = (jump.held * BLOCK_SIZE).tolist()
        self.figures.steps(used, seconds, started, self.now, len(decision.work), draws)
        first_end = float(jump.ends[0])
        began = self._first_tokens(first_end, steps)
        self.figures.gaps(seconds[:1], draws - began)
        self.figures.gaps(seconds[1:], draws)
        self.series.add(self.now, used[-1], len(self.scheduler.running), len(self.scheduler.waiting))
        self._retire()

    def _first_tokens(self, end_s: float, steps: int) -> int:
        """Times of those who drew their first token since they were put to run, in the first of ``steps``; how many."""
        began = []
        for request in self._fresh:
            life = self._lives[request]
            if request.output_tokens > life.tokens_at_start:
                began.append(request)
                if math.isnan(life.first_token_s):
                    life.first_token_s = end_s
                else:
                    self.figures.gaps([end_s - life.last_token_s])
                total = min(life.natural_tokens, request.max_tokens)
                last = self._steps + total - request.output_tokens
                heapq.heappush(self._ends, (last, life.number, request, request.preemptions))
        if began:
            self._fresh = [request for request in self._fresh if request not in began]
        return len(began)

    def _retire(self) -> None:
        """Free the memory of those who drew their last token, and learn from them, as the engine does."""
        ended = False
        while self._ends and self._ends[0][0] <= self._steps:
            _, number, request, preemptions = heapq.heappop(self._ends)
            if request.state is not RequestState.RUNNING or request.preemptions != preemptions:
                continue
            ended = True
            life = self._lives.pop(request)
            self.scheduler.finish(request)
            self.predictor.observe(
                life.query, request.output_tokens, censored=life.natural_tokens > request.output_tokens
            )
            latency_s, ttft_s = self.now - request.arrival_s, life.first_token_s - request.arrival_s
            self.figures.ended(request.recomputed_tokens, latency_s, ttft_s)
            self.outcomes.append(Outcome(number, ttft_s, latency_s, request.output_tokens, request.preemptions))
            self.unfinished -= 1
            self.forecast_tokens -= life.forecast_tokens
        if ended:
            self.predictor.refresh(np.array([r.output_tokens for r in self.scheduler.running], dtype=np.int64))
