"""A predictor that nobody waits for: what it says comes in the end, and what it does wrong is counted."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from presize.core.lengths import GRID, LengthDistribution
from presize.predict import Predictor, Query
from presize.predict.background import Background

LONG = 20.0  # seconds that a test waits before it fails


class Parrot(Predictor):
    """Forecasts the number in the id, and lets a test look on: ``gate`` holds it up, ``log`` is what it was told."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.log: list[object] = []

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        assert self.gate.wait(LONG)
        self.log.append(len(queries))
        return [LengthDistribution.exactly(int(query.request_id)) for query in queries]

    def observe(self, query: Query, output_tokens: int, *, censored: bool) -> None:
        self.log.append((query.request_id, output_tokens, censored))


def query(number: int) -> Query:
    return Query(str(number), [1, 2], 1000)


def settled(background: Background) -> None:
    """Wait until all that was given to it is done."""
    done = threading.Event()
    background._jobs.put(done.set)
    assert done.wait(LONG)


@pytest.fixture
def parrot() -> Iterator[Parrot]:
    parrot = Parrot()
    yield parrot
    parrot.gate.set()


def test_every_query_is_answered_once_in_order(parrot: Parrot) -> None:
    background = Background(parrot)
    for number in range(1, 300):
        background.ask(query(number))
    settled(background)
    got = [(name, curve.limit) for _ in range(5) for name, curve in background.answers(100)]
    assert got == [(str(number), number) for number in range(1, 300)]
    assert background.pending == 0
    assert sum(count for count in parrot.log if isinstance(count, int)) == 299


def test_what_is_learned_keeps_its_place_among_what_is_asked(parrot: Parrot) -> None:
    background = Background(parrot)
    parrot.gate.clear()
    background.ask(query(1))
    background.observe(query(9), 12, censored=True)
    background.ask(query(2))
    parrot.gate.set()
    settled(background)
    assert parrot.log == [1, ("9", 12, True), 1]


def test_beyond_a_limit_queries_are_dropped_while_it_hangs(parrot: Parrot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Background, "MOST", 10)
    background = Background(parrot)
    parrot.gate.clear()
    for number in range(1, 26):
        background.ask(query(number))
    assert (background.pending, background.dropped) == (10, 15)
    parrot.gate.set()
    settled(background)
    assert len(list(background.answers(100))) == 10


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: [],
        lambda: [None],
        lambda: [LengthDistribution(np.full(GRID.size, np.nan))],
        lambda: [LengthDistribution(np.linspace(0.0, 1.0, GRID.size))],
        lambda: [LengthDistribution(np.full(GRID.size, 2.0))],
        lambda: [LengthDistribution(np.ones(3))],
        lambda: 1 / 0,
    ],
)
def test_nonsense_is_counted_and_not_handed_on(
    wrong: Callable[[], object], parrot: Parrot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    background = Background(parrot)
    with monkeypatch.context() as patch:
        patch.setattr(parrot, "predict", lambda queries: wrong())
        for number in (1, 2):
            background.ask(query(number))
            settled(background)
    background.ask(query(3))
    settled(background)
    assert [name for name, _ in background.answers(10)] == ["3"]
    assert background.failures == 2
    assert len(caplog.records) == 1


def test_its_thread_ends_with_it(parrot: Parrot) -> None:
    before = threading.active_count()
    background = Background(parrot)
    settled(background)
    gone = weakref.ref(background)
    threads = [thread for thread in threading.enumerate() if thread.name == "presize-predictor"]
    del background
    gc.collect()
    for thread in threads:
        thread.join(LONG)
    assert gone() is None
    assert threading.active_count() <= before
