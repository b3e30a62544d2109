"""Which engine a request goes to. A router sees counts and forecasts, never a true length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from presize.registry import Registry


class Loaded(Protocol):
    """What a router may know of an engine.

    unfinished: requests that run or wait there; forecast_tokens: KV tokens that they will hold in the end by the
    forecasts made when they came.
    """

    unfinished: int
    forecast_tokens: float


Router = Callable[[int, Sequence[Loaded]], int]  # the request's number and the engines -> place of the one
ROUTERS: Registry[Router] = Registry("router")


@ROUTERS.register("round-robin")
def round_robin(number: int, engines: Sequence[Loaded]) -> int:
    """One after the other."""
    return number % len(engines)


@ROUTERS.register("least-requests")
def least_requests(number: int, engines: Sequence[Loaded]) -> int:
    """The one with the fewest requests."""
    return min(range(len(engines)), key=lambda place: engines[place].unfinished)


@ROUTERS.register("least-forecast")
def least_forecast(number: int, engines: Sequence[Loaded]) -> int:
    """The one whose requests will hold the fewest KV tokens."""
    return min(range(len(engines)), key=lambda place: engines[place].forecast_tokens)
