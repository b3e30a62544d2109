"""When a request will start and how fast its tokens will come, from the forecasts of all that is before it.

The queue is taken as a fluid. A request that holds c tokens and gives m more holds c m + m^2 / 2 token-steps of memory
until it ends, and the pool gives `capacity` of them a step, so what is ahead of a newcomer is through after as many
steps as its token-steps fill the pool. Slots (max_num_seqs) go the same way. What is free now counts for the time that
the newcomer would stay. Exact for a full pool and many requests; an upper bound when little is ahead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from presize.core.costs import StepCosts
from presize.core.request import Request


@dataclass(frozen=True, slots=True)
class Outlook:
    """Seconds: queue_s until it starts, ttft_s until its first token, tpot_s for each token after that."""

    queue_s: float
    ttft_s: float
    tpot_s: float


@dataclass(slots=True)
class Load:
    """What some requests still need. token_steps: of memory; tokens: to give; prefill: to compute first."""

    token_steps: float = 0.0
    tokens: float = 0.0
    prefill: int = 0
    requests: int = 0

    @classmethod
    def of(cls, requests: Iterable[Request]) -> Load:
        """Of all of them together."""
        load = cls()
        for request in requests:
            rest = max(request.expected_tokens - request.output_tokens, 1.0)
            load.token_steps += rest * (request.total_tokens + rest / 2)
            load.tokens += rest
            load.prefill += request.uncomputed_tokens
            load.requests += 1
        return load


@dataclass(frozen=True, slots=True)
class Room:
    """The device: all of its tokens of memory and slots, those that are free, and the cost of a step."""

    capacity: int
    free: int
    slots: int
    running: int
    costs: StepCosts

    def seconds(self, load: Load, stay: float = 0.0) -> float:
        """Until ``load`` is through, what is free counting for ``stay`` steps."""
        memory = max(load.token_steps - self.free * stay, 0.0) / self.capacity
        slots = max(load.tokens - (self.slots - self.running) * stay, 0.0) / self.slots
        steps = max(memory, slots)
        return steps * self.costs.decode_s(max(self.running, 1)) + self.costs.prefill_s * load.prefill if steps else 0.0


def outlook(request: Request, ahead: Iterable[Request], room: Room) -> Outlook:
    """Of a request that does not run yet, with those of the waiting that go before it."""
    before = Load.of(ahead)
    own = Load.of([request])
    both = Load(before.token_steps + own.token_steps, before.tokens + own.tokens, before.prefill, before.requests)
    queue_s = room.seconds(both, stay=own.tokens)
    running = min(room.running + before.requests + 1, room.slots)
    # while others wait, each that ends is replaced by one that is prefilled beside the decodes
    turnover = running / own.tokens * before.prefill / before.requests if before.requests else 0.0
    prefill_s = room.costs.prefill_s
    return Outlook(
        queue_s=queue_s,
        ttft_s=queue_s + prefill_s * own.prefill + room.costs.decode_s(room.running + 1),
        tpot_s=room.costs.decode_s(running) + turnover * prefill_s,
    )
