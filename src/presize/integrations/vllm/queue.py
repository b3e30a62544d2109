"""vLLM's queue of waiting requests, in the order of Presize, that opens only for whom admission lets in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request as VllmRequest

from presize.core.ordering import WaitingQueue
from presize.integrations.vllm.tracked import Tracked


class PresizeQueue(RequestQueue):
    """Sorted by `WaitingQueue`; every operation is a search in it.

    gate: set while vLLM goes through the waiting. Then the queue's truth, which vLLM asks for once before it looks at
    the head, is whether the head may start: False ends the loop, and the requests stay. `len` always counts them.
    tracked, running: of the advisor; whoever is queued runs no more. Between `hand_over` and `take_back` the queue is
    ``stock``.
    """

    def __init__(
        self, order: WaitingQueue, tracked: Mapping[str, Tracked], running: dict[VllmRequest, Tracked]
    ) -> None:
        self.order = order
        self.gate: Callable[[Tracked], bool] | None = None
        self._tracked = tracked  # by request id
        self._running = running
        self._inside: dict[str, Tracked] = {}  # the waiting ones; they may have left `tracked` when vLLM removes them
        self._stock: RequestQueue | None = None

    def hand_over(self, stock: RequestQueue) -> None:
        """Go on as ``stock``, which is empty, with all that wait."""
        if self._stock is not None:
            return
        # no more than this: after an error of ours nothing else here is to be relied on
        for tracked in sorted(self._inside.values(), key=lambda t: t.arrival_s):
            stock.add_request(tracked.request)
        self._stock = stock

    def take_back(self) -> None:
        """Go on by oneself."""
        waiting, self._stock = list(self._stock or ()), None
        for tracked in self._inside.values():
            self.order.remove(tracked)
        self._inside.clear()
        for request in waiting:
            self.add_request(request)

    def head(self) -> Tracked:
        """The next one; IndexError if there is none."""
        if not self._inside:
            raise IndexError("the queue is empty")
        (entry,) = self.order.first(1)
        return self._inside[entry.request_id]

    def requeue(self, tracked: Tracked) -> None:
        """Its key has changed; a request that does not wait here is left alone."""
        if tracked in self.order:
            self.order.remove(tracked)
            self.order.push(tracked)

    def add_request(self, request: VllmRequest) -> None:
        self._running.pop(request, None)
        if self._stock is not None:
            self._stock.add_request(request)
            return
        tracked = self._inside[request.request_id] = self._tracked[request.request_id]
        tracked.queued()
        self.order.push(tracked)

    def prepend_request(self, request: VllmRequest) -> None:
        """A preempted request goes where its key says."""
        if self._stock is None:
            self.add_request(request)
            return
        self._running.pop(request, None)
        self._stock.prepend_request(request)

    def prepend_requests(self, requests: Iterable[VllmRequest]) -> None:
        if self._stock is not None:
            self._stock.prepend_requests(requests)
            return
        for request in requests:
            self.add_request(request)

    def peek_request(self) -> VllmRequest:
        return self.head().request if self._stock is None else self._stock.peek_request()

    def pop_request(self) -> VllmRequest:
        if self._stock is not None:
            return self._stock.pop_request()
        request = self.head().request
        self.remove_request(request)
        return request

    def remove_request(self, request: VllmRequest) -> None:
        if self._stock is not None:
            self._stock.remove_request(request)
        else:
            self.order.remove(self._inside.pop(request.request_id))

    def remove_requests(self, requests: Iterable[VllmRequest]) -> None:
        """vLLM may name requests that are not in here."""
        if self._stock is not None:
            self._stock.remove_requests(requests)
            return
        for request in requests:
            if request.request_id in self._inside:
                self.remove_request(request)

    def __bool__(self) -> bool:
        if self._stock is None and self._inside and self.gate is not None:
            return self.gate(self.head())
        return len(self) > 0

    def __len__(self) -> int:
        return len(self._inside) if self._stock is None else len(self._stock)

    def __iter__(self) -> Iterator[VllmRequest]:
        if self._stock is not None:
            return iter(self._stock)
        return (self._inside[entry.request_id].request for entry in self.order)
