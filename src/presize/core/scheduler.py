"""One step's decision, from the parts: make room, decode, prefill on, admit.

waiting --admit--> running --finish--> (gone)
   ^                  |
   +-----preempt------+      keys and values are dropped and computed again
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from presize.config import SchedulerOptions
from presize.core.admission import POLICIES, StepView
from presize.core.costs import CostEstimator
from presize.core.interruption import Interruption
from presize.core.ledger import Ledger
from presize.core.lengths import FloatArray, IntArray, LengthDistribution
from presize.core.ordering import INTERRUPTING, WaitingQueue
from presize.core.outlook import Load, Outlook, Room, outlook
from presize.core.refusal import Refusal
from presize.core.request import Request, RequestState
from presize.core.supervisor import choose_victim, protected
from presize.errors import CapacityError, ConfigError, OverloadedError


class ScheduledWork(NamedTuple):
    """``num_tokens`` of the request's uncomputed tokens go through the model in this step.

    draws: they are the last ones, so that the step ends with a new token for the request.
    """

    request: Request
    num_tokens: int
    draws: bool


@dataclass(slots=True)
class Decision:
    """What one step does. ``work`` lists decodes first.

    admitted: requests that start for the first time; resumed: those that start again after a preemption.
    """

    work: list[ScheduledWork] = field(default_factory=list)
    admitted: list[Request] = field(default_factory=list)
    resumed: list[Request] = field(default_factory=list)
    preempted: list[Request] = field(default_factory=list)
    num_decodes: int = 0
    prefill_tokens: int = 0


class Scheduler:
    """Decides for engine, simulator and vLLM alike. It knows tokens, blocks and forecasts, and no clock."""

    SCAN_LIMIT = 256  # candidates that a first-fit policy looks at in one step
    _REPEATS = 1024  # most steps of one decision

    def __init__(
        self, options: SchedulerOptions, ledger: Ledger, *, max_num_seqs: int, max_num_batched_tokens: int
    ) -> None:
        if max_num_batched_tokens < max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens is {max_num_batched_tokens}; it must be at least max_num_seqs ({max_num_seqs})"
            )
        self.options = options
        self.ledger = ledger
        self.policy = POLICIES.get(options.policy)(options, ledger)
        self.costs = CostEstimator()
        self.running: list[Request] = []
        self.waiting = WaitingQueue(options)
        self._max_num_seqs = max_num_seqs
        self._token_budget = max_num_batched_tokens
        self._admissions = 0
        self._decode: dict[Request, ScheduledWork] = {}  # of what runs: made once, used in every step
        self._refusal = Refusal()
        self._interruption = Interruption(options) if options.order in INTERRUPTING else None
        self.preemptions = {"booking": 0, "memory": 0, "order": 0}  # by cause: see `_preempt`

    def check_fits(self, request: Request) -> None:
        """CapacityError, with the numbers, if the request could never fit."""
        if request.longest > self.ledger.capacity_tokens:
            raise CapacityError(
                f"prompt of {request.prompt_tokens} tokens + max_tokens {request.max_tokens} = {request.longest} "
                f"can never fit: the KV cache holds {self.ledger.capacity_tokens} tokens; "
                "lower max_tokens or raise kv_tokens"
            )

    def add(self, request: Request) -> None:
        """Queue a request; CapacityError if it could never fit."""
        self.check_fits(request)
        request.expected_tokens = request.forecast.mean_remaining(0, request.max_tokens)
        self.waiting.push(request)
        if self.policy.first_fit or self.waiting.first(1)[0] is request:
            self._refusal.lift()

    def outlook(self, request: Request) -> Outlook:
        """When a request that is not queued yet would start, and how fast its tokens would come."""
        request.expected_tokens = request.forecast.mean_remaining(0, request.max_tokens)
        return outlook(request, self.waiting.ahead_of(request), self._room())

    def check_attainable(self, request: Request) -> None:
        """OverloadedError if the request can not have its first token within ``slo_ttft_ms``."""
        if self.options.slo_ttft_ms is None:
            return
        limit_s = self.options.slo_ttft_ms / 1000
        if (ttft_s := self.outlook(request).ttft_s) > limit_s:
            raise OverloadedError(
                f"the first token is forecast in {ttft_s:.1f} s; slo_ttft_ms allows {limit_s:.1f} s", ttft_s - limit_s
            )

    def seconds_until_started(self, count: int) -> float:
        """Forecast: until the first ``count`` of the waiting have started."""
        return self._room().seconds(Load.of(self.waiting.first(count)))

    def _room(self) -> Room:
        return Room(
            capacity=self.ledger.capacity_tokens,
            free=self.ledger.free_blocks * self.ledger.block_size,
            slots=self._max_num_seqs,
            running=len(self.running),
            costs=self.costs.costs,
        )

    def schedule(self) -> Decision:
        """Decide the next step. Blocks for the work are allocated when this returns."""
        decision = Decision()
        if self._interruption is not None and (victim := self._interruption.due(self.running)) is not None:
            self._preempt(victim, decision, "order")
        self._make_room(decision)
        self._continue_running(decision)
        self.policy.begin(StepView(tuple(self.running), self.costs.costs))
        if self.waiting and not decision.preempted and not self._refusal.steps:
            self._admit(decision)
        return decision

    def repeats(self, decision: Decision, most: int) -> IntArray:
        """Blocks held in the step of ``decision``, and in each one after it that would decide the same if no request
        ended, came or left meanwhile; (steps,), 1 <= steps <= ``most``.

        Only decodes can be repeated: as long as the pool has the blocks they grow into, no booking runs out, and the
        waiting, if there are any, need not be asked about. Call it before `complete`, which takes all those steps.
        """
        steps = min(most, self._REPEATS)
        if len(self.waiting):
            steps = min(steps, self._refusal.steps)
        only_decodes = decision.num_decodes == len(self.running) > 0
        interrupts = self._interruption is not None and self._interruption.chosen is not None
        if not only_decodes or decision.preempted or interrupts:
            steps = 1
        if steps > 1 and self.policy.binding:
            steps = int(min(steps, 1 + min(self.policy.ceiling(r) - r.total_tokens for r in self.running)))
        held = self.ledger.held_blocks
        if steps <= 1:
            return np.array([held], dtype=np.int64)
        # a request whose blocks have room for n more tokens takes a block in the (n + 1)th step from here, and then
        # every block_size steps
        size = self.ledger.block_size
        room = np.array([r.kv_capacity - r.prompt_tokens - r.output_tokens for r in self.running])
        growth = np.resize(np.bincount(room, minlength=size), steps)
        blocks: IntArray = held + np.concatenate(([0], np.cumsum(growth[:-1])))
        return blocks[: int(np.searchsorted(blocks, self.ledger.num_blocks, side="right"))]

    def complete(self, decision: Decision, seconds: float | FloatArray) -> None:
        """The step ran and took ``seconds``: count what was computed and drawn, and learn what steps cost.

        Several numbers: so many steps in a row did the same (see `repeats`), and took so long each.
        """
        each = [seconds] if isinstance(seconds, float | int) else seconds.tolist()
        for request, tokens, draws in decision.work:
            request.computed_tokens += tokens
            request.output_tokens += draws
        if len(each) > 1:
            self._repeat(decision, len(each) - 1)
        for step_s in each:
            self.costs.observe(decision.num_decodes, decision.prefill_tokens, step_s)
        self._refusal.passed(len(each))

    def _repeat(self, decision: Decision, steps: int) -> None:
        assert decision.num_decodes == len(decision.work), "only decodes are repeated"
        for request, _, _ in decision.work:
            request.computed_tokens += steps
            request.output_tokens += steps
            # the blocks of the last of the steps, whose own token needs none before the next one
            if request.prompt_tokens + request.output_tokens - 1 > request.kv_capacity:
                allocated = self._allocate(request, request.total_tokens - 1)
                assert allocated, "more steps than `repeats` allows"
        self.policy.repeated(steps)

    def revise(self, request: Request, forecast: LengthDistribution) -> None:
        """A better forecast of a request that runs: from the next step on all goes by it."""
        assert request.state is RequestState.RUNNING, "the place of one that waits does not change"
        request.foresee(forecast)
        self.policy.revised(request)
        if self._interruption is not None:
            self._interruption.revised(request)
        self._refusal.lift()

    def finish(self, request: Request) -> None:
        """A request ended, or was aborted in any state; its memory is free at once."""
        if request.state is RequestState.RUNNING:
            self.running.remove(request)
            del self._decode[request]
        elif request in self.waiting:
            self.waiting.remove(request)
        self._refusal.lift()
        self.ledger.release(request.request_id)
        request.kv_capacity = 0
        request.state = RequestState.FINISHED
        self.policy.finished(request)

    def booked_tokens(self) -> int:
        """Tokens that the policy has promised to what runs, at most the pool."""
        return min(self.policy.booked_tokens(), self.ledger.capacity_tokens) if self.running else 0

    def has_unfinished_requests(self) -> bool:
        """True while anything runs or waits."""
        return bool(self.running or len(self.waiting))

    def _make_room(self, decision: Decision) -> None:
        """Every running request gets blocks for its next tokens, oldest admission first; victims yield if need be."""
        # plain arithmetic on fields: these lines run for every running request in every step
        short = [r for r in self.running if r.prompt_tokens + r.output_tokens > r.kv_capacity]
        for request in [r for r in short if self.policy.ran_out(r)]:
            if request is not protected(self.running):
                self._preempt(request, decision, "booking")
        for request in sorted(short, key=lambda r: r.admission or 0):
            while request.state is RequestState.RUNNING:
                if self._allocate(request, request.total_tokens):
                    break
                victim = choose_victim(self.running)
                assert victim is not None, "one request alone fits, or it was refused"
                self._preempt(victim, decision, "memory")

    def _allocate(self, request: Request, tokens: int) -> bool:
        if not self.ledger.allocate(request.request_id, tokens):
            return False
        request.kv_capacity = len(self.ledger.held(request.request_id)) * self.ledger.block_size
        return True

    def _preempt(self, victim: Request, decision: Decision, cause: str) -> None:
        """cause: its booking ran out, the pool's memory did, or the order wants it."""
        self.preemptions[cause] += 1
        self.running.remove(victim)
        del self._decode[victim]
        self._refusal.lift()
        self.ledger.release(victim.request_id)
        victim.state = RequestState.PREEMPTED
        victim.preemptions += 1
        victim.recomputed_tokens += victim.computed_tokens
        victim.computed_tokens = victim.kv_capacity = 0
        self.policy.preempted(victim, self.running)
        self.waiting.push(victim)
        decision.preempted.append(victim)

    def _continue_running(self, decision: Decision) -> None:
        """Decodes first, then what is left of started prefills, within the token budget."""
        decode = self._decode
        decision.work = [decode[r] for r in self.running if r.prompt_tokens + r.output_tokens - r.computed_tokens == 1]
        decision.num_decodes = len(decision.work)
        if decision.num_decodes < len(self.running):
            for request in [r for r in self.running if r.uncomputed_tokens != 1]:
                self._prefill(request, decision)

    def _prefill(self, request: Request, decision: Decision) -> None:
        room = self._token_budget - decision.num_decodes - decision.prefill_tokens
        count = min(request.uncomputed_tokens, room)
        if count > 0:
            decision.work.append(ScheduledWork(request, count, count == request.uncomputed_tokens))
            decision.prefill_tokens += count

    def _admit(self, decision: Decision) -> None:
        """Ask about the waiting until one is refused."""
        policy = self.policy
        for request in self._candidates():
            if len(self.running) >= self._max_num_seqs or self._too_slow():
                break
            if decision.num_decodes + decision.prefill_tokens >= self._token_budget:
                return  # not refused: this step has no more time, the next one may
            if not self._fits_now(request):
                continue
            if policy.admits(request):
                self._start(request, decision)
            elif not self.running:  # something must run; the policy has not counted it in, so nobody else starts now
                self._start(request, decision)
                break
        self._refusal.stand(policy.refusal_steps)
        if self._interruption is not None and self.waiting:
            (head,) = self.waiting.first(1)
            self._interruption.choose(head, self.running, self.costs.costs)

    def _too_slow(self) -> bool:
        """True if one more decoding sequence would make a step longer than ``slo_tpot_ms``."""
        limit_ms = self.options.slo_tpot_ms
        if limit_ms is None or not self.running:
            return False
        return 1000 * self.costs.costs.decode_s(len(self.running) + 1) > limit_ms

    def _candidates(self) -> Iterator[Request]:
        """In order; after one that was not admitted only a first-fit policy looks further."""
        if self.policy.first_fit:
            yield from self.waiting.first(self.SCAN_LIMIT)
            return
        while self.waiting:
            (head,) = self.waiting.first(1)
            yield head
            if head in self.waiting:
                return

    def _fits_now(self, request: Request) -> bool:
        return self.ledger.blocks_for(request.total_tokens) <= self.ledger.free_blocks

    def _start(self, request: Request, decision: Decision) -> None:
        self.waiting.remove(request)
        allocated = self._allocate(request, request.total_tokens)
        assert allocated, "checked by _fits_now"
        if request.admission is None:
            request.admission = self._admissions
            request.foresee(request.forecast)
            self._admissions += 1
            decision.admitted.append(request)
        else:
            decision.resumed.append(request)
        self._decode[request] = ScheduledWork(request, 1, True)
        request.state = RequestState.RUNNING
        request.started_at = request.output_tokens
        self.running.append(request)
        self._prefill(request, decision)
