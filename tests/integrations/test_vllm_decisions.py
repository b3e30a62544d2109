"""What Presize decides inside a real vLLM scheduler: order, admission, victims, what is learned; and when it is off."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vllm; scripts/test_vllm makes an environment with it and runs these tests")

import vllm
from driving import BLOCK, World, make_request, make_scheduler
from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from presize import predict
from presize.errors import ConfigError, ModelError
from presize.integrations.vllm import contract
from presize.integrations.vllm.queue import PresizeQueue


def test_the_installed_vllm_keeps_the_contract() -> None:
    assert contract.version_of(vllm.__version__) in contract.TRIED
    assert list(contract.breaches()) == []


@pytest.mark.parametrize("name", [name for name, wanted in contract.METHODS.items() if wanted])
def test_a_method_with_other_parameters_is_seen(name: str) -> None:
    other = type("Other", (AsyncScheduler,), {name: lambda self: None})
    assert any(f"Scheduler.{name}(self) does not begin" in breach for breach in contract.breaches(scheduler=other))


def test_a_request_without_a_field_is_seen() -> None:
    class Other:
        def __init__(self) -> None:
            self.request_id = ""

    assert "Request.num_output_placeholders is missing" in contract.breaches(request=Other)


def test_it_imports_nothing_of_the_engine() -> None:
    code = "import sys, presize.integrations.vllm.advisor; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "presize.integrations.vllm" in loaded
    assert not [name for name in loaded if name.startswith(("presize.engine", "presize.server", "presize.cli"))]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"polcy": "payback"}, "unknown option 'polcy'.*known: enabled, .*policy"),
        ({"policy": "nonsense"}, "unknown policy 'nonsense'; known: .*payback"),
        ({"order": "nonsense"}, "unknown order 'nonsense'; known: fcfs"),
        ({"risk": -1}, "risk is -1"),
        ({"policy": "s3"}, "policy s3 books memory"),
        ({"policy": "worst-case"}, "policy worst-case books memory"),
        ({"predictor": "oracle"}, "presize_output_tokens"),
        ({"predictor": "nowhere"}, "predictor is 'nowhere'"),
        ({"learn_online": "/tmp/x"}, "learn_online needs a directory"),
        ({"enabled": "no"}, "enabled is 'no'"),
        ({"off_file": 3}, "off_file is 3; it must be text"),
    ],
)
def test_bad_options_are_refused(given: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make_scheduler(tmp_path, given)


def test_a_predictor_of_other_tokens_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the shipped one is taken for the model it is for, the test with that model says."""
    (shipped,) = Path(predict.__file__).parent.glob("shipped/*")
    other = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 1})
    monkeypatch.setattr("vllm.tokenizers.cached_tokenizer_from_config", lambda config: other)
    with pytest.raises(ModelError, match="whose tokenizer is another one"):
        make_scheduler(tmp_path, {"predictor": str(shipped)})


def run(tmp_path: Path, presize: dict[str, Any] | None, lengths: dict[str, int], **options: Any) -> World:
    world = World(make_scheduler(tmp_path, presize, **options), lengths)
    world.add(make_request(name, 20, arrival=float(i), hint=lengths[name]) for i, name in enumerate(lengths))
    world.run()
    world.check_nothing_lost()
    return world


LENGTHS = {str(i): [150, 5, 90, 30][i % 4] for i in range(40)}


@pytest.mark.parametrize("presize", [{"enabled": False}, None])
def test_switched_off_it_is_vllms_own(presize: dict[str, Any] | None, tmp_path: Path) -> None:
    world = run(tmp_path, presize, LENGTHS, blocks=24)
    stock = run(tmp_path, None, LENGTHS, blocks=24)
    assert (world.order, world.preempted, world.steps) == (stock.order, stock.preempted, stock.steps)


def test_it_can_be_switched_off_and_on_while_it_serves(tmp_path: Path) -> None:
    """Off from the start it is vLLM's own to the step; on again, the short ones that are left go first."""
    stock = World(make_scheduler(tmp_path, None, blocks=24), LENGTHS)
    world = World(make_scheduler(tmp_path, {"order": "gittins", "aging": 1e6}, blocks=24), LENGTHS)
    advisor = world.scheduler.advisor
    advisor._switch.off = True
    for each in (stock, world):
        each.add(make_request(name, 20, arrival=float(i), hint=LENGTHS[name]) for i, name in enumerate(LENGTHS))
        while len(each.order) < 12:
            each.step()
    assert (world.order, world.preempted, world.steps) == (stock.order, stock.preempted, stock.steps)
    assert advisor.resting

    advisor._switch.off = False
    begun = len(world.order)
    while len(world.order) < begun + 4:
        world.step()
    assert [LENGTHS[name] for name in world.order[begun:]] == [5] * 4
    advisor._switch.off = True
    world.run()
    world.check_nothing_lost()
    assert world.scheduler.advisor is advisor
    assert {name: len(made) for name, made in world.made.items()} == LENGTHS


def test_the_switch_is_a_file(tmp_path: Path) -> None:
    from presize.integrations.vllm.switch import Switch

    path = tmp_path / "off"
    switch = Switch(path)
    try:
        assert not switch.off
        for there in (True, False):
            path.touch() if there else path.unlink()
            while switch.off != there:
                threading.Event().wait(0.001)
    finally:
        switch.close()
    path.touch()
    assert Switch(path).off
    assert not Switch(None).off


def test_an_untried_version_is_left_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "__version__", "0.99.1")
    scheduler = make_scheduler(tmp_path, {})
    assert scheduler.advisor is None
    assert not isinstance(scheduler.waiting, PresizeQueue)


def test_a_broken_contract_is_left_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "breaches", lambda: iter(["Scheduler.schedule is missing"]))
    assert make_scheduler(tmp_path, {}).advisor is None


def test_with_room_for_all_it_is_vllm_to_the_step(tmp_path: Path) -> None:
    world, stock = (run(tmp_path, presize, LENGTHS, blocks=400) for presize in ({}, None))
    assert (world.order, world.steps, world.preempted) == (stock.order, stock.steps, [])


def test_gittins_takes_the_short_ones_first(tmp_path: Path) -> None:
    world = run(tmp_path, {"order": "gittins", "aging": 1e6}, LENGTHS, blocks=24)
    short = [name for name in world.order if LENGTHS[name] == 5]
    assert world.order[: len(short)] == short
    assert run(tmp_path, {}, LENGTHS, blocks=24).order == list(LENGTHS)


def test_known_lengths_all_but_end_preemptions(tmp_path: Path) -> None:
    """The forecast counts half a block for a request's last one, so with a few requests in step it may miss by some."""
    stock, ours = (run(tmp_path, presize, LENGTHS, blocks=24) for presize in (None, {"payback": 1e6}))
    assert len(stock.preempted) > 20
    assert len(ours.preempted) < len(stock.preempted) / 10


def test_the_oldest_admission_is_never_preempted(tmp_path: Path) -> None:
    scheduler = make_scheduler(tmp_path, {"policy": "on-demand"}, blocks=24)
    world = World(scheduler, LENGTHS)
    world.add(make_request(name, 20, arrival=float(i)) for i, name in enumerate(LENGTHS))
    while scheduler.has_unfinished_requests() or world.flight:
        tracked = [t for t in scheduler.advisor.tracked.values() if t.request in scheduler.running]
        oldest = min((t for t in tracked if t.admission is not None), key=lambda t: t.admission, default=None)
        before = len(world.preempted)
        world.step()
        assert oldest is None or oldest.request_id not in world.preempted[before:]
    assert len(world.preempted) > 10


def test_who_outruns_its_forecast_pays_first(tmp_path: Path) -> None:
    """A client that says "one token" for a long answer does not make the others pay."""
    scheduler = make_scheduler(tmp_path, {"policy": "on-demand"}, blocks=16)
    world = World(scheduler, dict.fromkeys("012345", 190))
    world.add(
        make_request(name, 60, arrival=float(i), hint=1 if name == "2" else 190) for i, name in enumerate("012345")
    )
    while not world.preempted:
        world.step()
    assert world.preempted[0] == "2"
    world.run()
    world.check_nothing_lost()


def test_lower_priority_values_go_first(tmp_path: Path) -> None:
    scheduler = make_scheduler(tmp_path, {"order": "gittins"}, blocks=16, policy="priority")
    world = World(scheduler, LENGTHS)
    world.add(make_request(name, 20, priority=-int(name)) for name in LENGTHS)
    world.run()
    assert world.order[:5] == ["39", "38", "37", "36", "35"]


def test_ends_are_learned_and_cut_offs_as_cut_offs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = make_scheduler(tmp_path, {}, blocks=64)
    seen: dict[str, tuple[int, bool]] = {}
    monkeypatch.setattr(
        scheduler.advisor.forecasts, "observe",
        lambda query, tokens, *, censored: seen.setdefault(query.request_id, (tokens, censored)),
    )  # fmt: skip
    world = World(scheduler, {"0": 12, "1": 500, "2": 500})
    world.add(make_request(name, 20, max_tokens=40) for name in "012")
    for _ in range(8):
        world.step()
    world.abort(["2"])
    world.run()
    assert seen["0"] == (12, False)
    assert seen["1"] == (40, True)
    assert seen["2"][1] is True


@pytest.mark.parametrize("hint", ["soon", -3, 0, 1e30, True, [5], float("nan")])
def test_a_hint_that_is_no_length_is_passed_over(hint: object, tmp_path: Path) -> None:
    world = World(make_scheduler(tmp_path, {}), {"0": 30})
    world.add([make_request("0", 20, hint=hint)])
    world.run()
    world.check_nothing_lost()
    assert len(world.made["0"]) == 30


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_steps_in_flight_and_kinds_of_cache(depth: int, groups: int, tmp_path: Path) -> None:
    scheduler = make_scheduler(tmp_path, {"order": "gittins"}, blocks=24, groups=groups)
    world = World(scheduler, LENGTHS, depth)
    world.add(make_request(name, 20) for name in LENGTHS)
    world.run()
    world.check_nothing_lost()
    assert scheduler.advisor is not None
    assert all(len(world.made[name]) == length for name, length in LENGTHS.items())


def test_a_shared_prefix_counts_once(tmp_path: Path) -> None:
    """With a prompt of 8 blocks in common, more run at once than the sum of their tokens would allow.

    Not as many as would fit: what a candidate would share is not known before it runs.
    """
    prompt = [11] * 256
    lengths = dict.fromkeys(map(str, range(12)), 20)
    alone, shared = (
        World(make_scheduler(tmp_path, {}, blocks=32, caching=caching), lengths) for caching in (False, True)
    )
    for world in (alone, shared):
        world.add([make_request("0", list(prompt), hint=20)])
        for _ in range(4):
            world.step()
        world.add(make_request(name, [*prompt, int(name)], hint=20) for name in list(lengths)[1:])
        world.run()
        world.check_nothing_lost()
    assert alone.most_running == 3
    assert shared.most_running > alone.most_running


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_what_runs_is_counted_as_vllm_counts_it(depth: int, tmp_path: Path) -> None:
    """Counts are derived from the computed tokens alone; vLLM's own are the reference, in every step."""
    scheduler = make_scheduler(tmp_path, {"policy": "on-demand"}, blocks=24, seqs=48, budget=64)
    advisor, compared = scheduler.advisor, 0
    take_stock = advisor._take_stock

    def checked() -> Any:
        nonlocal compared
        running, short = take_stock()
        pool = scheduler.kv_cache_manager.block_pool
        assert [t.request for t in running] == scheduler.running
        totals = [r.num_tokens + r.num_output_placeholders for r in scheduler.running]
        assert [t.total_tokens for t in running] == totals
        growth = [
            -(-n // BLOCK) - -(-r.num_computed_tokens // BLOCK) for n, r in zip(totals, scheduler.running, strict=True)
        ]
        assert short == min(sum(growth), len(running) + 2) - pool.get_num_free_blocks()
        assert advisor.pool.foreign == 0
        compared += len(running)
        return running, short

    advisor._take_stock = checked
    world = World(scheduler, LENGTHS, depth)
    world.add(make_request(name, 20 + int(name), arrival=float(name)) for name in LENGTHS)
    world.run()
    assert scheduler.advisor is advisor
    assert len(world.preempted) > 10
    assert compared > 1000
