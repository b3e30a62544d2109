"""Which running request makes way for one that waits, so that short answers need not wait for long ones to end.

An order alone decides who starts next; who has started keeps its memory until it ends. Where some answers are a hundred
times as long as others, a few long ones fill the pool. Shortest-remaining-time-first interrupts them, and so does the
Gittins index policy, the same for unknown lengths (Scully and Harchol-Balter, 2020). Here that costs a prefill, for
which TRAIL (Shahout et al., 2024) limits interruptions by age; this weighs the cost itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from presize.config import SchedulerOptions
from presize.core.costs import StepCosts
from presize.core.ordering import ORDERS
from presize.core.request import Request, RequestState
from presize.core.supervisor import protected

R = TypeVar("R", bound=Request)


class Interruption:
    """Chooses whom to interrupt, and asks a request's place in the order again once its answer has grown by an eighth.

    The cost of an interruption is that of a prefill of all the request's tokens, counted in tokens: those that all who
    run would draw in that time.
    """

    _REPAID = 1.5  # a request must have drawn this many times its cost since it started: bounds what goes into prefill
    _GROWTH = 8

    def __init__(self, options: SchedulerOptions) -> None:
        self._options = options
        self._key = ORDERS.get(options.order)
        self._known: dict[Request, tuple[int, float]] = {}  # output tokens up to which it holds, place
        self.chosen: Request | None = None  # makes way in the next step

    def choose(self, head: Request, running: Sequence[Request], costs: StepCosts) -> None:
        """``head``, the first of the waiting, was refused: whoever is its `victim` makes way in the next step."""
        self.chosen = self.victim(head, running, costs)

    def due(self, running: Sequence[R]) -> R | None:
        """Who makes way now, a step after it was chosen; None if it has ended, or if those before it have meanwhile."""
        chosen, self.chosen = self.chosen, None
        if chosen is None or chosen.state is not RequestState.RUNNING or chosen is protected(running):
            return None
        return next(request for request in running if request is chosen)

    def victim(self, head: Request, running: Sequence[R], costs: StepCosts) -> R | None:
        """The running request that stands furthest behind ``head``, the first of the waiting, with the cost of its
        interruption put in its favour; None if none does.

        Never the request that was admitted first, so something always progresses, and none of a better priority.
        """
        if len(running) < 2:
            return None
        keep = protected(running)
        self._known = {r: self._known[r] for r in running if r in self._known}
        prefill = costs.prefill_s * len(running) / costs.decode_s(len(running))  # cost of one token
        found, bound = None, self._key(head, self._options)
        for request in running:
            cost = prefill * request.total_tokens
            if (
                request is not keep
                and request.priority >= head.priority
                and request.output_tokens - request.started_at >= self._REPAID * cost
                and (place := self._place(request) - self._options.aging * cost) > bound
            ):
                found, bound = request, place
        return found

    def revised(self, request: Request) -> None:
        """The request, which runs, has another forecast."""
        self._known.pop(request, None)

    def _place(self, request: Request) -> float:
        """The request's key, as if it waited."""
        until, place = self._known.get(request, (-1, 0.0))
        if request.output_tokens > until:
            place = self._key(request, self._options)
            self._known[request] = request.output_tokens + request.output_tokens // self._GROWTH, place
        return place
