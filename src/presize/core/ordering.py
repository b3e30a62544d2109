"""Who is looked at first. An order is a key that never changes while a request waits, smallest first.

Ageing is built into the key: ``arrival - seconds_worth_of_length`` style keys keep the relative order of two waiting
requests for ever, so the queue needs no re-sorting, and a request is overtaken by no request that arrives later
than the length part of its own key: nobody starves.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator

from presize.config import SchedulerOptions
from presize.core.request import Request
from presize.registry import Registry

OrderKey = Callable[[Request, SchedulerOptions], float]
ORDERS: Registry[OrderKey] = Registry("order")


@ORDERS.register("fcfs")
def fcfs(request: Request, options: SchedulerOptions) -> float:
    """First come, first served; a preempted request keeps its place."""
    return request.arrival_s


@ORDERS.register("gittins")
def gittins(request: Request, options: SchedulerOptions) -> float:
    """Most likely to be over soon first (Gittins index of what is left), aged by waiting time."""
    return request.arrival_s + options.aging * request.forecast.gittins_rank(request.output_tokens, request.max_tokens)


@ORDERS.register("gittins-preemptive")
def gittins_preemptive(request: Request, options: SchedulerOptions) -> float:
    """The same, and a running request makes way for one that is forecast to be over so much sooner that it pays."""
    return gittins(request, options)


@ORDERS.register("longest-first")
def longest_first(request: Request, options: SchedulerOptions) -> float:
    """Longest forecast first, S^3's order for a closed batch (decreasing first fit), aged by waiting time."""
    return request.arrival_s - options.aging * request.forecast.mean_remaining(0, request.max_tokens)


INTERRUPTING = frozenset(["gittins-preemptive"])  # orders in which a running request can lose its place


class WaitingQueue:
    """Waiting requests, sorted by (priority, key, order of first entry). Lower priority values go first, as in vLLM."""

    def __init__(self, options: SchedulerOptions) -> None:
        self._options = options
        self._key = ORDERS.get(options.order)
        self._entries: list[tuple[int, float, int, Request]] = []
        self._place: dict[str, tuple[int, float, int, Request]] = {}
        self._count = 0

    def push(self, request: Request) -> None:
        """Put a new or a preempted request in its place."""
        if request.entry is None:
            self._count += 1
            request.entry = self._count
        # the third field is unique, so requests themselves are never compared; a preempted one keeps its place among
        # those that came at the same time
        entry = (request.priority, self._key(request, self._options), request.entry, request)
        self._place[request.request_id] = entry
        insort(self._entries, entry)

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it stands."""
        entry = self._place.pop(request.request_id)
        del self._entries[bisect_left(self._entries, entry)]

    def first(self, count: int) -> list[Request]:
        """The first ``count`` requests in order; they stay in the queue."""
        return [entry[3] for entry in self._entries[:count]]

    def ahead_of(self, request: Request) -> Iterator[Request]:
        """Those that would go before ``request`` if it were put in now."""
        place = bisect_left(self._entries, (request.priority, self._key(request, self._options), self._count + 1))
        return (entry[3] for entry in self._entries[:place])

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Request]:
        return (entry[3] for entry in self._entries)

    def __contains__(self, request: Request) -> bool:
        return request.request_id in self._place
