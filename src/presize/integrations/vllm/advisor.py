"""What Presize knows and decides beside one vLLM scheduler. Every decision is `presize.core`'s; this only translates.

A step of vLLM:   before_step -> (vLLM's schedule: victims from the end of `running`; the queue's gate asks may_start)
                  -> after_step ... completed
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np
from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import SchedulingPolicy, create_request_queue
from vllm.v1.request import Request as VllmRequest
from vllm.v1.request import RequestStatus

from presize.config import SchedulerOptions
from presize.core.admission import POLICIES, StepView
from presize.core.costs import CostEstimator
from presize.core.interruption import Interruption
from presize.core.ordering import INTERRUPTING, WaitingQueue
from presize.core.refusal import Refusal
from presize.core.request import RequestState
from presize.core.supervisor import choose_victim, protected
from presize.integrations.vllm.forecasts import Forecasts
from presize.integrations.vllm.queue import PresizeQueue
from presize.integrations.vllm.switch import Switch
from presize.integrations.vllm.tracked import Tracked, VllmPool, track

logger = init_logger("vllm.presize")  # below vllm, so that it is shown as vLLM's own lines are

_NEWS_PER_STEP = 32  # forecasts put in force in one step: each may move a request within the queue
_BLOCKED = (
    RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR,
    RequestStatus.WAITING_FOR_REMOTE_KVS,
    RequestStatus.WAITING_FOR_STREAMING_REQ,
)


class Advisor:
    """queue: what is to be vLLM's `waiting`. admits_all: admission stays vLLM's own.

    asked, refused: times that the policy looked at the head of the queue, and sent it back. interrupted: requests
    preempted for the head's sake. resting: the switch is off, and vLLM decides while this goes on learning. clock:
    seconds, for what a step costs.
    """

    def __init__(
        self,
        scheduler: AsyncScheduler,
        options: SchedulerOptions,
        forecasts: Forecasts,
        switch: Switch,
        *,
        admits_all: bool,
    ) -> None:
        self._vllm = scheduler
        self.forecasts, self._switch = forecasts, switch
        self.resting = False
        self.pool = VllmPool(scheduler.kv_cache_manager.block_pool, scheduler.block_size)
        self.policy = None if admits_all else POLICIES.get(options.policy)(options, self.pool)
        self.costs = CostEstimator()
        self.tracked: dict[str, Tracked] = {}
        self.running: dict[VllmRequest, Tracked] = {}  # those that were running in the last step
        self.queue = PresizeQueue(WaitingQueue(options), self.tracked, self.running)
        self.asked = self.refused = self.interrupted = self.bad_hints = 0
        self._refusal = Refusal()
        self._refused_head: Tracked | None = None
        self._interruption = Interruption(options) if self._may_interrupt(options) else None
        self._forced: Tracked | None = None  # started without the policy's consent in this step, as nothing ran
        self._admissions = 0
        self._ended = False  # since the last step, so that what runs has more to tell the predictor
        self._by_priority = scheduler.policy == SchedulingPolicy.PRIORITY
        self._ahead = scheduler.num_spec_tokens + scheduler.num_lookahead_tokens
        self.clock = time.perf_counter
        self._under_way: deque[tuple[SchedulerOutput, float]] = deque()
        self._last_update = 0.0

    def greet(self, request: VllmRequest) -> None:
        """A new request, about to be queued."""
        tracked, complaint = track(request, self._vllm.max_model_len, by_priority=self._by_priority)
        if complaint:
            self.bad_hints += 1
            if self.bad_hints == 1:
                logger.warning("%s; it is passed over, here and wherever it is said again", complaint)
        if not tracked.hinted:
            assert tracked.query is not None
            tracked.forecast = self.forecasts.first(tracked.query)
        self.tracked[request.request_id] = tracked

    def before_step(self) -> None:
        """Take stock of what runs, put new forecasts in force, and line up victims if the pool may run short."""
        if self._switch.off != self.resting:
            self._turn()
        self._interrupt()
        running, short = self._take_stock()
        if self._ended:
            self.forecasts.refresh(np.array([t.output_tokens for t in running], dtype=np.int64))
            self._ended = False
        for request_id, curve in self.forecasts.news(_NEWS_PER_STEP):
            self._revise(request_id, curve)
        if self.resting:
            return
        if short > 0 and len(running) > 1:
            self._line_up(running, short)
        self._forced = None
        if self.policy is not None:
            self.policy.begin(StepView(running, self.costs.costs))

    def close(self) -> None:
        """Save what was learned online."""
        self._switch.close()
        self.forecasts.close()

    def _turn(self) -> None:
        """The switch was turned."""
        self.resting = not self.resting
        self._refused_head = None
        self._refusal.lift()
        if self.resting:
            self.queue.hand_over(create_request_queue(self._vllm.policy))
        else:
            self.queue.take_back()
        logger.info("Presize %s", "rests: vLLM schedules by itself" if self.resting else "schedules again")

    def _may_interrupt(self, options: SchedulerOptions) -> bool:
        """Blocks that a connector may be sending are better left where they are."""
        if options.order not in INTERRUPTING or self.policy is None:
            return False
        if self._vllm.connector is not None:
            logger.warning("there is a KV connector, so order %s interrupts nobody", options.order)
        return self._vllm.connector is None

    def _interrupt(self) -> None:
        """Whoever was chosen in the last step makes way."""
        if self._interruption is None or (tracked := self._interruption.due(list(self.running.values()))) is None:
            return
        if not self.resting and tracked.request in self._vllm.running:  # not in a pause between two turns
            self._vllm.running.remove(tracked.request)
            self._vllm._preempt_request(tracked.request, time.monotonic())
            self.interrupted += 1

    def _take_stock(self) -> tuple[list[Tracked], int]:
        """What runs, in vLLM's order, and by how many blocks the pool may fall short of this step's growth."""
        requests, known, size = self._vllm.running, self.running, self.pool.block_size
        for request in reversed(requests):  # vLLM appends
            if len(known) == len(requests):
                break
            if request not in known:
                known[request] = self._started(request)
        # short loops over plain attributes: they run for every running request in every step
        running = [tracked for request in requests if (tracked := known.get(request)) is not None]
        if not len(running) == len(requests) == len(known):
            self._forget_paused()
            return self._take_stock()
        counts = [request.num_computed_tokens for request in requests]
        late = 0  # blocks more for requests that still prefill
        for tracked, count in zip(running, counts, strict=True):
            output = count + 1 - tracked.prompt_tokens  # what is computed ends with the token before the last
            if output < tracked.queued_output:
                output = tracked.queued_output
                late += -(-(tracked.prompt_tokens + output) // size) - -(-(count + 1) // size)
            tracked.output_tokens = output
        computed = np.array(counts, dtype=np.int64)
        held = int((-(-computed // size)).sum())
        need = int((-(-(computed + (1 + self._ahead)) // size)).sum()) - held + late
        free = self.pool.free_blocks
        self.pool.foreign = self.pool.num_blocks - free - held
        # a long prompt grows by no more than a step's tokens
        most = len(running) + self.pool.blocks_for(self._vllm.max_num_scheduled_tokens)
        return running, min(need, most) - free

    def _forget_paused(self) -> None:
        """Streamed input: a conversation whose turn is over waits for more outside of our queue, with its blocks."""
        here = set(self._vllm.running)
        for request in [r for r in self.running if r not in here]:
            self.running.pop(request).state = RequestState.WAITING

    def _started(self, request: VllmRequest) -> Tracked:
        tracked = self.tracked[request.request_id]
        tracked.queued()  # more input for a conversation may have come since
        if self.policy is not None:
            self.policy.revised(tracked)
        tracked.state = RequestState.RUNNING
        if tracked.admission is None:
            tracked.admission = self._admissions
            self._admissions += 1
            tracked.foresee(tracked.forecast)
        tracked.started_at = tracked.output_tokens
        return tracked

    def _revise(self, request_id: str, curve: Any) -> None:
        tracked = self.tracked.get(request_id)
        if tracked is None:  # it has ended meanwhile
            return
        tracked.foresee(curve)
        if tracked.state is RequestState.RUNNING:
            if self.policy is not None:
                self.policy.revised(tracked)
            if self._interruption is not None:
                self._interruption.revised(tracked)
            self._refusal.lift()
        else:
            self.queue.requeue(tracked)
            if tracked is self._refused_head:
                self._refusal.lift()

    def _line_up(self, running: list[Tracked], short: int) -> None:
        """Victims to the end of vLLM's running list, the first one last: it preempts from there.

        The oldest admission goes to the front, where it is preempted only if it is alone.
        """
        rest = list(running)
        victims: list[Tracked] = []
        while short > 0 and (victim := choose_victim(rest)) is not None:
            rest.remove(victim)
            victims.append(victim)
            short -= self.pool.blocks_for(max(victim.request.num_computed_tokens, 1))
        keep = protected(running)
        rest.remove(keep)
        self._vllm.running[:] = [t.request for t in (keep, *rest, *reversed(victims))]

    def may_start(self, tracked: Tracked) -> bool:
        """The gate of the queue: may its head start now? True also where vLLM will put it aside, or end, by itself."""
        request: VllmRequest = tracked.request
        if request.status in _BLOCKED and not self._vllm._handle_blocked_waiting_request(request):
            return True
        if request.num_stale_output_tokens and not request.drop_stale_output:
            return True
        if self.policy is None or len(self._vllm.running) >= self._vllm.max_num_active_reqs:
            return True
        if self._vllm.running:
            if self._forced is not None or (self._refusal.steps and tracked is self._refused_head):
                return False
            self.asked += 1
            if self.policy.admits(tracked):
                return True
            self.refused += 1
            self._refused_head = tracked
            self._refusal.stand(self.policy.refusal_steps)
            if self._interruption is not None:
                self._interruption.choose(tracked, list(self.running.values()), self.costs.costs)
            return False
        if not self.policy.admits(tracked):  # something must run; not counted in, so nobody else starts in this step
            self._forced = tracked
        return True

    def after_step(self, output: SchedulerOutput) -> None:
        """vLLM has decided the step; it is under way."""
        self._refusal.passed(1)
        if output.total_num_scheduled_tokens:
            self._under_way.append((output, self.clock()))

    def completed(self, output: SchedulerOutput) -> None:
        """The step's tokens are there: learn what it cost, from its start or the end of the one before it."""
        now = self.clock()
        if not output.total_num_scheduled_tokens:
            return
        while self._under_way:
            known, scheduled = self._under_way.popleft()
            if known is output:
                self._learn_cost(output, now - max(scheduled, self._last_update))
                break
        self._last_update = now

    def _learn_cost(self, output: SchedulerOutput, seconds: float) -> None:
        counts, drafts = output.num_scheduled_tokens, output.scheduled_spec_decode_tokens
        if drafts:
            decodes = [n for i, n in counts.items() if n == 1 + len(drafts.get(i, ()))]
            self.costs.observe(len(decodes), output.total_num_scheduled_tokens - sum(decodes), seconds)
        else:
            singles = list(counts.values()).count(1)
            self.costs.observe(singles, output.total_num_scheduled_tokens - singles, seconds)

    def preempted(self, request: VllmRequest) -> None:
        """The request is about to lose its blocks and to be queued again."""
        tracked = self.tracked[request.request_id]
        tracked.state = RequestState.PREEMPTED
        tracked.preemptions += 1
        self._refusal.lift()
        if self.policy is not None:
            others = [self.tracked[r.request_id] for r in self._vllm.running if r is not request]
            self.policy.preempted(tracked, others)

    def ended(self, request: VllmRequest) -> None:
        """The request ended or was aborted, in any state."""
        tracked = self.tracked.pop(request.request_id, None)
        if tracked is None:
            return
        self.running.pop(request, None)
        tracked.state = RequestState.FINISHED
        tracked.output_tokens = request.num_output_tokens
        self._refusal.lift()
        if self.policy is not None:
            self.policy.finished(tracked)
        assert tracked.query is not None
        if tracked.output_tokens:
            natural = request.status == RequestStatus.FINISHED_STOPPED
            self.forecasts.observe(tracked.query, tracked.output_tokens, censored=not natural)
            self._ended = True
