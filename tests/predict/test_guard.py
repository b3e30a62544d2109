"""A predictor that fails or is late is replaced by the history, counted, and logged once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from presize.config import SchedulerOptions
from presize.core.lengths import LengthDistribution
from presize.predict import KaplanMeier, Predictor, Query, guard
from presize.predict.guard import Guarded

OPTIONS = SchedulerOptions()
QUERIES = [Query(str(i), [1, 2, 3], 1000) for i in range(3)]


class Scripted(Predictor):
    """Does what ``answer`` does."""

    def __init__(self, answer: Callable[[Sequence[Query]], list[LengthDistribution]]) -> None:
        self._answer = answer

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        return self._answer(queries)

    def observe(self, query: Query, output_tokens: int, *, censored: bool) -> None:
        raise OSError("no disk")


def fives(queries: Sequence[Query]) -> list[LengthDistribution]:
    return [LengthDistribution.exactly(5) for _ in queries]


def nothing(queries: Sequence[Query]) -> list[LengthDistribution]:
    raise ZeroDivisionError


def history_of(lengths: list[int]) -> list[int]:
    """Medians of what the history forecasts after these answers."""
    history = KaplanMeier(OPTIONS)
    for length in lengths:
        history.observe(QUERIES[0], length, censored=False)
    history.refresh(np.zeros(0, dtype=np.int64))
    return [curve.quantile(0.5) for curve in history.predict(QUERIES)]


def medians(predictor: Predictor) -> list[int]:
    return [curve.quantile(0.5) for curve in predictor.predict(QUERIES)]


def test_a_predictor_that_works_is_passed_through() -> None:
    guarded = Guarded(Scripted(fives), OPTIONS)
    assert medians(guarded) == [5, 5, 5]
    assert (guarded.failures, guarded.late) == (0, 0)


@pytest.mark.parametrize("answer", [nothing, lambda queries: fives(queries)[1:]], ids=["raises", "short"])
def test_one_that_fails_is_replaced_counted_and_logged_once(
    answer: Callable[[Sequence[Query]], list[LengthDistribution]], caplog: pytest.LogCaptureFixture
) -> None:
    guarded = Guarded(Scripted(answer), OPTIONS)
    with caplog.at_level(logging.WARNING, logger="presize"):
        assert medians(guarded) == medians(guarded) == history_of([])
    assert guarded.failures == 2
    assert len(caplog.records) == 1


def test_one_that_is_late_is_replaced_until_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go_on, started = threading.Event(), threading.Event()

    def slow(queries: Sequence[Query]) -> list[LengthDistribution]:
        started.set()
        go_on.wait()
        return fives(queries)

    monkeypatch.setattr(guard, "BUDGET_S", 0.0)
    monkeypatch.setattr(guard, "BUDGET_PER_QUERY_S", 0.0)
    guarded = Guarded(Scripted(slow), OPTIONS)
    with caplog.at_level(logging.WARNING, logger="presize"):
        assert medians(guarded) == history_of([])
        started.wait()
        assert medians(guarded) == history_of([])  # not even asked
    assert guarded.late == 2
    assert len(caplog.records) == 1
    monkeypatch.setattr(guard, "BUDGET_S", 60.0)
    go_on.set()
    assert guarded._running is not None
    guarded._running.done.wait()
    assert medians(guarded) == [5, 5, 5]


def test_the_history_learns_even_where_the_predictor_can_not() -> None:
    guarded = Guarded(Scripted(nothing), OPTIONS)
    for _ in range(50):
        guarded.observe(QUERIES[0], 40, censored=False)
    guarded.refresh(np.zeros(0, dtype=np.int64))
    assert medians(guarded) == history_of([40] * 50)
