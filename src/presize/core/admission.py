"""May this waiting request start now? One small class a policy; `payback` is the default and Presize's own.

The scheduler calls `begin` once a step and then `admits` for each candidate in order; a candidate that is admitted
is counted in by the policy itself. Blocks for what is known of the candidate (its prompt) are checked by the
scheduler for all policies, and when nothing runs the head of the queue is always admitted, so no policy can stall.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from presize.config import SchedulerOptions
from presize.core.costs import StepCosts
from presize.core.ledger import Ledger, Pool
from presize.core.occupancy import OccupancyForecast
from presize.core.request import Request
from presize.errors import ConfigError
from presize.registry import Registry

POLICIES: Registry[type[AdmissionPolicy]] = Registry("policy")


@dataclass(frozen=True, slots=True)
class StepView:
    """What a policy may look at in one step."""

    running: Sequence[Request]
    costs: StepCosts


class AdmissionPolicy(ABC):
    """Base.

    first_fit: a candidate that does not fit is passed over, not waited for. binding: a booking may run out, `ceiling`
    says when. refusal_steps: how long a refusal stands if nothing happens that could change it; 1 for policies whose
    answer changes by itself from step to step.
    """

    first_fit = False
    binding = False
    refusal_steps = 16

    def __init__(self, options: SchedulerOptions, ledger: Pool) -> None:
        self.options = options
        self.ledger = ledger
        self.view = StepView((), StepCosts(1.0, 0.0, 0.0))

    def begin(self, view: StepView) -> None:
        """A new step, also if nobody waits: what runs, once room was made for it."""
        self.view = view

    @abstractmethod
    def admits(self, request: Request) -> bool:
        """True, and the request is counted in, if it may start now."""

    def repeated(self, steps: int) -> None:
        """The last step was repeated so many times without `begin`, as nothing was to be decided."""

    def ceiling(self, request: Request) -> float:
        """Tokens up to which the request, which runs, may grow before a booking that binds it runs out."""
        return math.inf

    def ran_out(self, request: Request) -> bool:
        """True if the request has used up a booking that binds it and must yield."""
        return request.total_tokens > self.ceiling(request)

    def preempted(self, request: Request, running: Sequence[Request]) -> None:
        """The request lost its blocks; ``running`` is what runs on."""

    def finished(self, request: Request) -> None:
        """The request ended; its output length is known."""

    def revised(self, request: Request) -> None:
        """The request, which runs, has another forecast or prompt: what was made of the old one is void."""

    def booked_tokens(self) -> int:
        """Tokens promised to what ran or was admitted in the last step, held ones included."""
        return self.ledger.held_blocks * self.ledger.block_size

    def _needed(self, request: Request) -> int:
        return self.ledger.blocks_for(request.total_tokens)


class BookingPolicy(AdmissionPolicy):
    """Promises a request blocks before it needs them, which a pool of somebody else's can not; ConfigError for one."""

    ledger: Ledger

    def __init__(self, options: SchedulerOptions, ledger: Pool) -> None:
        if not isinstance(ledger, Ledger):
            raise ConfigError(
                f"policy {options.policy} books memory that is not used yet, and this engine's pool takes no bookings; "
                "name another, such as payback"
            )
        super().__init__(options, ledger)

    def booked_tokens(self) -> int:
        return (self.ledger.num_blocks - self.ledger.unbooked_blocks) * self.ledger.block_size


@POLICIES.register("worst-case")
class WorstCase(BookingPolicy):
    """Book prompt + max_tokens (or ``reserve_tokens`` if that is more): nothing can ever be preempted.

    Source: Orca (OSDI 2022), which books the longest sequence; TensorRT-LLM's GUARANTEED_NO_EVICT. S^3's baseline.
    """

    def admits(self, request: Request) -> bool:
        tokens = max(request.longest, self.options.reserve_tokens or 0)
        if self.ledger.blocks_for(tokens) > self.ledger.unbooked_blocks:
            return False
        self.ledger.reserve(request.request_id, tokens)
        return True


@POLICIES.register("on-demand")
class OnDemand(AdmissionPolicy):
    """Book nothing: what is known must fit. Source: vLLM's default (PagedAttention, SOSP 2023)."""

    _kept_free = 0
    _free = 0

    def begin(self, view: StepView) -> None:
        super().begin(view)
        self._free = self.ledger.free_blocks - self._kept_free

    def admits(self, request: Request) -> bool:
        if self._needed(request) > self._free:
            return False
        self._free -= self._needed(request)
        return True


@POLICIES.register("watermark")
class Watermark(OnDemand):
    """On demand, but a share of the blocks stays free at admission. Source: vLLM's ``watermark`` (#44594, 2026)."""

    def __init__(self, options: SchedulerOptions, ledger: Pool) -> None:
        super().__init__(options, ledger)
        self._kept_free = int(options.watermark * ledger.num_blocks)


@POLICIES.register("ratio")
class Ratio(AdmissionPolicy):
    """Charge what runs a share of the answer it may still give, a newcomer all of it.

    Source: SGLang 0.5 ``new_token_ratio``: a running request is charged min(max_tokens - output, 4096) * ratio, a new
    one min(max_tokens, 4096). The ratio starts at 0.7, decays over 600 steps to 0.14 of that, and jumps after a
    preemption to (decoded + 20 n) / (sum of max_tokens + 1) over the n running requests.
    """

    refusal_steps = 1
    _START, _FLOOR, _DECAY_STEPS, _CLIP, _LOOKAHEAD = 0.7, 0.7 * 0.14, 600, 4096, 20

    def __init__(self, options: SchedulerOptions, ledger: Pool) -> None:
        super().__init__(options, ledger)
        self._start = self._START
        self._steps = 0  # since the ratio was at its start
        self._charged: float | None = None  # of this step, once it is asked for

    @property
    def _ratio(self) -> float:
        decay = (self._START - self._FLOOR) / self._DECAY_STEPS
        return max(self._start - self._steps * decay, self._FLOOR)

    def begin(self, view: StepView) -> None:
        super().begin(view)
        self._steps += 1
        self._charged = None

    def repeated(self, steps: int) -> None:
        self._steps += steps

    def _charge(self) -> float:
        if self._charged is None:
            ratio = self._ratio
            self._charged = sum(
                r.total_tokens + min(r.max_tokens - r.output_tokens, self._CLIP) * ratio for r in self.view.running
            )
        return self._charged

    def admits(self, request: Request) -> bool:
        charge = request.total_tokens + min(request.max_tokens - request.output_tokens, self._CLIP)
        if self._charge() + charge > self.ledger.capacity_tokens:
            return False
        self._charged = self._charge() + charge
        return True

    def preempted(self, request: Request, running: Sequence[Request]) -> None:
        decoded = sum(r.output_tokens for r in running)
        longest = sum(r.max_tokens for r in running)
        self._start = min((decoded + self._LOOKAHEAD * len(running)) / (longest + 1), 1.0)
        self._steps = 0

    def booked_tokens(self) -> int:
        return int(self._charge())


@POLICIES.register("payback")
class Payback(AdmissionPolicy):
    """Admit if the forecast never overflows, or not before the request has repaid its prefill.

    With the candidate in, tau is the first step at which mean + risk * sd of the forecast exceeds the pool. Running
    one more sequence saves, each step, its share of the step's fixed cost; an overflow costs at most one preemption,
    that is one prefill again. So: admit if tau >= payback * prefill_seconds / (fixed_seconds / running).
    Where prefill is dear the rule never over-commits; where it is cheap it does; and a preempted request with a long
    history finds it harder to return than a new short one, which ends thrashing.
    """

    def __init__(self, options: SchedulerOptions, ledger: Pool) -> None:
        super().__init__(options, ledger)
        self._forecast = OccupancyForecast(ledger.block_size, ledger.capacity_tokens)
        self._current = False
        self._count = 0

    def begin(self, view: StepView) -> None:
        super().begin(view)
        self._count = len(view.running)
        self._current = False

    def admits(self, request: Request) -> bool:
        forecast = self._forecast
        if not self._current:
            forecast.update(self.view.running)
            self._current = True
        share = forecast.share(request)
        tau = forecast.first_overflow(self.ledger.capacity_tokens, self.options.risk, share)
        costs = self.view.costs
        repaid_after = costs.prefill_s * request.total_tokens * max(self._count, 1) / costs.fixed_s
        if tau < max(self.options.payback * repaid_after, 1):
            return False
        forecast.add(share)
        self._count += 1
        return True

    def revised(self, request: Request) -> None:
        self._forecast.revised(request)

    def booked_tokens(self) -> int:
        forecast = self._forecast
        if not self._current:  # one of its own: an update of that would renew rows in other steps than admission does
            forecast = OccupancyForecast(self.ledger.block_size, self.ledger.capacity_tokens)
            forecast.update(self.view.running)
        return forecast.peak(self.options.risk)
