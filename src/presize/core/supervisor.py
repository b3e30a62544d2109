"""Who must yield when the pool runs short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from presize.core.request import Request

R = TypeVar("R", bound=Request)


def protected(running: Sequence[R]) -> R:
    """The request admitted first among those that run: it is never preempted, so something always progresses."""
    return min(running, key=_admission)


def choose_victim(running: Sequence[R]) -> R | None:
    """The request to preempt, or None if only the protected one runs.

    A request that has outrun its forecast pays first: its memory was booked by a promise that it broke, and a prompt
    built to look short must not make others pay. Among the rest the cheapest to bring back: the one with the fewest
    tokens to prefill again (the least-computed rule wastes least in vLLM's own study, RFC #54644), the newest
    admission on a tie.
    """
    if len(running) < 2:
        return None
    keep = protected(running)
    return min(
        (r for r in running if r is not keep),
        key=lambda r: (not r.overrun, r.total_tokens, -_admission(r)),
    )


def _admission(request: Request) -> int:
    assert request.admission is not None, "a running request was admitted"
    return request.admission
