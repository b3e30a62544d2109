"""Whatever fails, every request ends, every block comes back, and answers are what they would be."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="needs vllm; scripts/test_vllm makes an environment with it and runs these tests")

from driving import World, make_request, make_scheduler
from vllm.v1.request import RequestStatus

from presize.core.lengths import GRID, LengthDistribution
from presize.integrations.vllm.forecasts import Forecasts
from presize.predict import KaplanMeier, Predictor, Query


def whole(world: World, lengths: dict[str, int], most: int = 200) -> None:
    """Every answer has the tokens it should, and nothing is left."""
    world.check_nothing_lost()
    assert {name: len(tokens) for name, tokens in world.made.items()} == {n: min(k, most) for n, k in lengths.items()}


def some(count: int, seed: int = 0) -> dict[str, int]:
    draw = random.Random(seed)
    return {str(i): draw.choice([1, 3, 20, 60, 150, 250]) for i in range(count)}


class Bad(Predictor):
    """Gives what ``answer`` gives."""

    def __init__(self, answer: Callable[[Sequence[Query]], Any]) -> None:
        self.answer = answer

    def predict(self, queries: Sequence[Query]) -> Any:
        return self.answer(queries)


def raises(queries: Sequence[Query]) -> Any:
    raise RuntimeError("no forecast today")


BAD = {
    "raises": raises,
    "too few": lambda queries: [],
    "no curves": lambda queries: ["soon"] * len(queries),
    "nan": lambda queries: [LengthDistribution(np.full(GRID.size, np.nan))] * len(queries),
    "rising": lambda queries: [LengthDistribution(np.linspace(0, 1, GRID.size))] * len(queries),
    "short": lambda queries: [LengthDistribution(np.ones(3))] * len(queries),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_predictor_that_fails_leaves_the_curve_of_the_answers_so_far(kind: str, tmp_path: Path, options: Any) -> None:
    lengths = some(60)
    world = World(make_scheduler(tmp_path, {"order": "gittins"}, blocks=24), lengths)
    advisor = world.scheduler.advisor
    advisor.forecasts = Forecasts(KaplanMeier(options), Bad(BAD[kind]))
    world.add(make_request(name, 20) for name in lengths)
    world.run()
    whole(world, lengths)
    assert world.scheduler.advisor is advisor
    while advisor.forecasts.model.pending:
        threading.Event().wait(0.001)
    assert advisor.forecasts.model.failures > 0


def test_a_predictor_that_hangs_holds_nobody_up(tmp_path: Path, options: Any) -> None:
    lengths, go_on = some(40), threading.Event()
    world = World(make_scheduler(tmp_path, {"order": "gittins"}, blocks=24), lengths)
    hanging = Bad(lambda queries: go_on.wait(60))
    world.scheduler.advisor.forecasts = Forecasts(KaplanMeier(options), hanging)
    try:
        world.add(make_request(name, 20) for name in lengths)
        world.run()
        whole(world, lengths)
        assert world.scheduler.advisor.forecasts.model.pending == len(lengths)
    finally:
        go_on.set()


@pytest.mark.parametrize("hook", ["greet", "before_step", "may_start", "after_step", "completed", "preempted", "ended"])
def test_an_error_of_ours_leaves_all_to_vllm_and_loses_no_request(
    hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = some(60)
    world = World(make_scheduler(tmp_path, {"order": "gittins"}, blocks=24), lengths)
    advisor, calls = world.scheduler.advisor, 0
    works = getattr(advisor, hook)

    def fails_later(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise KeyError("a bug")
        return works(*args)

    monkeypatch.setattr(advisor, hook, fails_later)
    world.add(make_request(name, 20) for name in lengths)
    world.run()
    assert world.scheduler.advisor is None
    whole(world, lengths)


def test_a_pool_in_which_only_one_request_fits(tmp_path: Path) -> None:
    lengths = dict.fromkeys(map(str, range(8)), 190)
    world = World(make_scheduler(tmp_path, {}, blocks=8, max_model_len=256), lengths)
    world.add(make_request(name, 40) for name in lengths)
    world.run()
    whole(world, lengths)


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("order", ["gittins", "gittins-preemptive"])
def test_2000_requests_with_random_aborts(policy: str, caching: bool, order: str, tmp_path: Path) -> None:
    draw = random.Random(1)
    lengths = some(2000, seed=1)
    options = {"order": order, "aging": 1.0}
    scheduler = make_scheduler(tmp_path, options, blocks=64, policy=policy, caching=caching)
    world = World(scheduler, lengths)
    left = [make_request(n, draw.randrange(1, 90), priority=draw.randrange(3)) for n in lengths]
    aborted: set[str] = set()
    while left or scheduler.has_unfinished_requests() or world.flight:
        world.add(left.pop() for _ in range(min(len(left), draw.choice([0, 0, 0, 40]))))
        world.step()
        if draw.random() < 0.2:
            alive = [name for name in scheduler.requests if name not in world.ended]
            chosen = draw.sample(alive, min(len(alive), draw.choice([1, 1, 5])))
            aborted |= set(chosen)
            world.abort(chosen)
        assert world.steps < 100_000
    world.check_nothing_lost()
    assert set(world.ended) == set(lengths)
    assert scheduler.advisor is not None
    assert bool(scheduler.advisor.interrupted) == (order == "gittins-preemptive")
    assert len(aborted) > 100
    for name in set(lengths) - aborted:
        assert len(world.made[name]) == min(lengths[name], 200), name


def test_aborted_in_every_state(tmp_path: Path) -> None:
    lengths = dict.fromkeys(map(str, range(30)), 250)
    world = World(make_scheduler(tmp_path, {"policy": "on-demand"}, blocks=16), lengths)
    world.add(make_request(name, 40) for name in lengths)
    waiting, running, preempted = "29", None, None
    world.step()
    world.abort([waiting])
    while preempted is None:
        world.step()
        preempted = next((name for name in world.preempted if name not in world.ended), None)
    world.abort([preempted])
    running = world.scheduler.running[0].request_id
    world.abort([running])
    world.run()
    world.check_nothing_lost()
    assert {name for name, reason in world.ended.items() if reason == "abort"} == {waiting, running, preempted}


@pytest.mark.parametrize("order", ["fcfs", "gittins-preemptive"])
def test_a_conversation_that_waits_for_more_input_is_no_part_of_what_runs(order: str, tmp_path: Path) -> None:
    """vLLM keeps it, and its blocks, outside of the queue; others come and go meanwhile."""
    lengths = {"talk": 20, **{str(i): 10 + 7 * i for i in range(12)}}
    scheduler = make_scheduler(tmp_path, {"order": order}, blocks=16)
    world = World(scheduler, lengths)
    talk = make_request("talk", 40, resumable=True)
    world.add([talk, make_request("0", 40)])
    for turn in range(3):
        while talk.status != RequestStatus.WAITING_FOR_STREAMING_REQ:
            world.step()
        world.add([make_request(str(4 * turn + i), 40) for i in range(1, 4)])
        for _ in range(20):
            world.step()
        scheduler.add_request(make_request("talk", 30 * (turn + 1), resumable=True))
        world.add([make_request(str(4 * turn + 4), 40)] if turn < 2 else [])
    while talk.status != RequestStatus.WAITING_FOR_STREAMING_REQ:
        world.step()
    scheduler.add_request(make_request("talk", 1))  # no more to come
    world.run()
    world.check_nothing_lost()
    assert scheduler.advisor is not None
    assert {name: len(tokens) for name, tokens in world.made.items()} == {**lengths, "talk": 4 * 20}
