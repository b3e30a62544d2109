"""A predictor that learns on: what it learns is bounded, comes in one move, and never holds the engine up."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from online_parts import PLAIN, finish, header, lengths, linear, make_base, opened, queries, serve

from presize.config import DEFAULT_MODEL, SchedulerOptions
from presize.core.lengths import LengthDistribution
from presize.errors import ConfigError, ModelError
from presize.predict import choose
from presize.predict.base import Query
from presize.predict.calibration import Calibration
from presize.predict.guard import Guarded
from presize.predict.hidden import Hidden
from presize.predict.learned import Learned
from presize.predict.online import Online, learner
from presize.predict.online.bound import MAX_SHIFT
from presize.predict.online.drift import MAX_WEIGHT, WINDOW
from presize.predict.online.home import NOT_BETTER
from presize.predict.online.reservoir import Reservoir
from presize.predict.store import read_header, save

QUERY = Query("q", [3, 4, 5], 10_000)
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "p")


def instead(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """The retraining runs ``code`` with `target`, the candidate's directory."""
    full = f"import pathlib, sys; target = pathlib.Path(sys.argv[1]) / sys.argv[2]; {code}"
    monkeypatch.setattr(learner, "_COMMAND", (sys.executable, "-c", full))


def medians(online: Online) -> int:
    return online.predict([QUERY])[0].quantile(0.5)


def plain(online: Online) -> LengthDistribution:
    """Not widened."""
    prompts, sides = [np.array(QUERY.prompt_token_ids)], np.zeros((1, 4), dtype=np.float32)
    return LengthDistribution.from_survival(online.learner.version.served.curves(prompts, sides)[0])


# --- what it forecasts ----------------------------------------------------------------------------------------------


def test_it_starts_as_the_base(tmp_path: Path, base: Path) -> None:
    online = opened(tmp_path / "on", base)
    (here,), (there,) = online.predict([QUERY]), Learned.load(base).predict([QUERY])
    assert (here.survival == there.survival).all()
    assert here.limit == there.limit == 10_000
    assert online.predict([]) == []
    online.close()


def test_a_better_version_is_taken_over_with_its_calibration(tmp_path: Path, base: Path) -> None:
    online = opened(tmp_path / "on", base)
    serve(online, 600, 150.0)
    online.learner.turn()
    finish(online)
    counts = online.counts
    assert (counts.answers, counts.taken_over, counts.dropped, counts.failed) == (600, 1, 0, 0)
    assert medians(online) == pytest.approx(150, rel=0.12)
    stored = read_header(tmp_path / "on" / "current")
    assert stored.calibration != read_header(base).calibration
    assert stored.metrics["log_crps"] < stored.metrics["log_crps_before"]
    assert stored.metrics["coverage_90"] == pytest.approx(0.9, abs=0.08)
    assert Learned.load(tmp_path / "on" / "current", "here").calibration == stored.calibration
    online.close()


def test_a_version_that_is_no_better_is_dropped(tmp_path: Path, base: Path) -> None:
    online = opened(tmp_path / "on", base)
    before = online.learner.version
    serve(online, 600, 100.0)
    online.learner.turn()
    finish(online)
    assert (online.counts.taken_over, online.counts.dropped, online.counts.failed) == (0, 1, 0)
    assert online.learner.version is before
    assert not list((tmp_path / "on").glob("candidate-*"))
    online.close()


def test_a_restart_goes_on_where_it_was(tmp_path: Path, base: Path) -> None:
    online = opened(tmp_path / "on", base)
    serve(online, 600, 150.0)
    online.learner.turn()
    finish(online)
    curve, counts = plain(online), online.counts
    online.close()
    again = opened(tmp_path / "on", base)
    assert (plain(again).survival == curve.survival).all()
    assert again.counts == counts
    assert len(again.learner.home.reservoir) == 600
    serve(again, 400, 150.0, seed=1)
    again.learner.turn()
    assert again.learner.retraining is None, "the answers since the last retraining count, not since the start"
    again.close()


# --- the bound ------------------------------------------------------------------------------------------------------


@settings(max_examples=settings().max_examples // 2)
@given(
    median=st.floats(0.5, 1e6),
    bend=st.floats(0.02, 50.0),
    stream=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 10_000), st.booleans()), max_size=300),
)
def test_whatever_is_learned_and_sent_forecasts_stay_within_the_bound(
    tmp_path_factory: pytest.TempPathFactory, base: Path, median: float, bend: float,
    stream: list[tuple[str, int, bool]],
) -> None:  # fmt: skip
    """Any version, as if a retraining had come to it, and any traffic: MAX_SHIFT, and MAX_WEIGHT where widened."""
    folder = tmp_path_factory.mktemp("on")
    online = opened(folder / "on", base)
    bent = Calibration((0.0, *(np.linspace(0, 1, 41)[1:-1] ** bend).tolist(), 1.0))
    save(folder / "on" / "candidate-x", header(bent), linear(median))
    online.learner._take_over(folder / "on" / "candidate-x")
    for number, (tenant, length, censored) in enumerate(stream * 2):
        query = Query(str(number), [number], 10_000, tenant=tenant)
        online.predict([query])
        online.observe(query, length, censored=censored)
    (curve,), (anchor,) = online.predict([QUERY]), Learned.load(base).predict([QUERY])
    weight = online.drift.weight
    assert 0.0 <= weight <= MAX_WEIGHT
    # without the history's part, which may be anything in [0, 1]
    least = (curve.survival - weight) / (1.0 - weight)
    most = curve.survival / (1.0 - weight)
    for level in LEVELS:
        there = anchor.quantile(level)
        assert LengthDistribution.from_survival(least).quantile(level) <= MAX_SHIFT * there
        assert LengthDistribution.from_survival(most).quantile(level) >= there / MAX_SHIFT
        if weight == 0.0:
            assert there / MAX_SHIFT <= curve.quantile(level) <= MAX_SHIFT * there
    online.close()


@pytest.mark.parametrize("length", [1, 9_000])
def test_a_tenant_that_floods_moves_the_others_by_no_more_than_the_bound(
    tmp_path: Path, base: Path, length: int
) -> None:
    """Through everything that really happens: retrainings, comparison, take-over."""
    online = opened(tmp_path / "on", base, retrain_every=400)
    anchor = Learned.load(base).predict([QUERY])[0]
    for turn in range(3):
        for query in queries(400, turn, "loud"):
            online.predict([query])
            online.observe(query, length, censored=False)
        online.learner.turn()
        finish(online)
    assert online.counts.taken_over > 0, "else nothing was withstood"
    curve = plain(online)
    for level in LEVELS:
        assert anchor.quantile(level) / MAX_SHIFT <= curve.quantile(level) <= MAX_SHIFT * anchor.quantile(level)
    online.close()


def test_a_change_widens_the_next_forecast_and_is_counted(
    tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    online = opened(tmp_path / "on", base)
    serve(online, WINDOW, 100.0)
    before = online.predict([QUERY])[0]
    serve(online, WINDOW, 250.0, seed=1)
    wide = online.predict([QUERY])[0]
    assert wide.quantile(0.95) > 1.3 * before.quantile(0.95)
    assert wide.quantile(0.05) < 1.3 * before.quantile(0.05)
    assert online.counts.drifts == 1
    assert not caplog.records, "observe itself writes nothing"
    online.learner.turn()
    assert "answer lengths have drifted" in caplog.text
    online.close()
    again = opened(tmp_path / "on", base)
    assert again.counts.drifts == 1
    again.close()


# --- retrainings that go wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("sys.exit('no memory left')", "no memory left"),
        ("import os; os.kill(os.getpid(), 9)", "exit status -9"),
        ("1 / 0", "ZeroDivisionError"),
        ("target.mkdir(); (target / 'predictor.json').write_text('{')", "can not be read"),
        ("pass", "holds no predictor"),
    ],
)
def test_a_retraining_that_fails_is_counted_and_changes_nothing(
    code: str, reason: str, tmp_path: Path, base: Path, monkeypatch: Any, caplog: Any
) -> None:
    instead(monkeypatch, code)
    online = opened(tmp_path / "on", base)
    before = online.learner.version
    for turn in range(2):
        serve(online, 500, 100.0, seed=turn)
        online.learner.turn()
        finish(online)
    assert (online.counts.failed, online.counts.taken_over, online.counts.dropped) == (2, 0, 0)
    assert online.learner.version is before
    assert reason in caplog.text
    assert caplog.text.count("learning online in") == 1, "it is said once"
    assert medians(online) == pytest.approx(100, rel=0.02)
    assert sorted(p.name for p in (tmp_path / "on").iterdir()) == [
        "base", "lock", "reservoir.safetensors", "state.json"
    ]  # fmt: skip
    online.close()


def test_a_retraining_that_hangs_is_given_up(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "import threading; threading.Event().wait()")
    monkeypatch.setattr(learner, "_PATIENCE_S", 0.0)
    online = opened(tmp_path / "on", base)
    serve(online, 500, 100.0)
    online.learner.turn()
    hanging = online.learner.retraining
    assert hanging is not None
    online.learner.turn()
    assert hanging.process.returncode is not None
    assert (online.counts.failed, online.learner.retraining) == (1, None)
    online.close()


def test_a_retraining_that_can_not_be_started_is_counted(tmp_path: Path, base: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(learner, "_COMMAND", (str(tmp_path / "nothing"),))
    online = opened(tmp_path / "on", base)
    serve(online, 500, 100.0)
    online.learner.turn()
    online.learner.turn()
    assert (online.counts.failed, online.learner.retraining) == (1, None)
    assert not list((tmp_path / "on").glob("candidate-*"))
    online.close()


def test_a_directory_that_can_not_be_written_is_counted(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    online = opened(tmp_path / "on", base)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Reservoir, "write", full)
    serve(online, 100, 100.0)
    online.learner.turn()
    assert online.counts.failed == 1
    assert "No space left" in caplog.text
    monkeypatch.undo()
    online.close()
    assert len(Reservoir.read(tmp_path / "on" / "reservoir.safetensors")) == 100


# --- beside the engine ----------------------------------------------------------------------------------------------


def test_nothing_waits_for_a_retraining(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child waits until it is told to go on, so whatever returns before that did not wait for it."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    instead(monkeypatch, f"open({str(gate)!r}).read(); sys.exit({NOT_BETTER})")
    begun, over = threading.Event(), threading.Event()
    begin, look = learner.Learner._begin, learner.Learner._look_after

    def begin_and_tell(self: Any) -> None:
        begin(self)
        begun.set()

    def look_and_tell(self: Any, child: Any) -> None:
        look(self, child)
        if self.retraining is None:
            over.set()

    monkeypatch.setattr(learner.Learner, "_begin", begin_and_tell)
    monkeypatch.setattr(learner.Learner, "_look_after", look_and_tell)
    monkeypatch.setattr(learner, "_POLL_S", 0.01)
    online = Online(tmp_path / "on", base, SchedulerOptions(), retrain_every=256)
    serve(online, 256 + learner.SAVE_EVERY, 100.0)
    assert begun.wait(60)
    serve(online, 1000, 100.0, seed=1)
    online.refresh(np.array([3, 4]))
    assert online.learner.retraining is not None
    assert online.learner.retraining.process.poll() is None
    gate.write_text("go on")
    assert over.wait(60)
    assert online.counts.dropped >= 1
    online.close()


def test_observe_does_not_wait_for_the_disk(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, disk = threading.Event(), threading.Event()
    write = Reservoir.write

    def slow(self: Reservoir, path: Path) -> None:
        writing.set()
        assert disk.wait(60)
        write(self, path)

    monkeypatch.setattr(Reservoir, "write", slow)
    online = Online(tmp_path / "on", base, SchedulerOptions())
    serve(online, 64, 100.0)
    assert writing.wait(60)
    serve(online, 300, 100.0, seed=1)
    assert online.predict([QUERY])
    disk.set()
    online.close()
    assert len(Reservoir.read(tmp_path / "on" / "reservoir.safetensors")) == 364


def test_versions_change_between_batches_never_within_one(tmp_path: Path, base: Path) -> None:
    """While one thread forecasts, versions come and go: each batch is of one of them."""
    online = opened(tmp_path / "on", base)
    stop, seen = threading.Event(), []

    def forecast() -> None:
        while not stop.is_set():
            seen.append({curve.quantile(0.5) for curve in online.predict([QUERY] * 8)})

    thread = threading.Thread(target=forecast)
    thread.start()
    for median in [70.0, 150.0] * 5:
        save(tmp_path / "on" / "candidate-x", header(), linear(median))
        online.learner._take_over(tmp_path / "on" / "candidate-x")
    stop.set()
    thread.join()
    assert all(len(batch) == 1 for batch in seen)
    assert online.counts.taken_over == 10
    assert medians(online) == pytest.approx(150, rel=0.02)
    online.close()


def test_close_ends_the_retraining_and_saves(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "import threading; threading.Event().wait()")
    online = Online(tmp_path / "on", base, SchedulerOptions(), background=False)
    serve(online, 500, 100.0)
    online.learner.turn()
    serve(online, 10, 100.0, seed=1)
    child = online.learner.retraining
    online.close()
    online.close()
    assert child is not None
    assert child.process.returncode is not None
    assert len(Reservoir.read(tmp_path / "on" / "reservoir.safetensors")) == 510
    serve(online, 100, 100.0, seed=2)
    assert medians(online) == pytest.approx(100, rel=0.02), "it still forecasts"


def test_the_end_of_the_process_is_a_close(tmp_path: Path, base: Path) -> None:
    code = (
        "import sys, time; sys.path[:0] = sys.argv[3:]; from pathlib import Path; from online_parts import *; "
        "from presize.predict.online import learner; "
        "learner._COMMAND = (sys.executable, '-c', 'import threading; threading.Event().wait()'); "
        "online = Online(Path(sys.argv[1]), Path(sys.argv[2]), SchedulerOptions(), retrain_every=200); "
        "serve(online, 300, 100.0)\n"
        "while online.learner.retraining is None: time.sleep(0.01)\n"
        "print(online.learner.retraining.process.pid)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "on"), str(base), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
    assert len(Reservoir.read(tmp_path / "on" / "reservoir.safetensors")) == 300


def test_a_new_one_in_the_same_process_takes_the_directory_over(tmp_path: Path, base: Path) -> None:
    """As `Engine.restart` does, which makes a new predictor while the old one is still there."""
    first = opened(tmp_path / "on", base)
    serve(first, 70, 100.0)
    second = opened(tmp_path / "on", base)
    assert len(second.learner.home.reservoir) == 70
    serve(first, 10, 100.0, seed=1)
    first.close()
    second.close()
    assert len(Reservoir.read(tmp_path / "on" / "reservoir.safetensors")) == 70


# --- from the options -----------------------------------------------------------------------------------------------


def test_it_is_off_unless_a_directory_is_named(base: Path) -> None:
    assert SchedulerOptions().learn_online is None
    predictor, _ = choose(SchedulerOptions(predictor=str(base)), "m", lambda: "here")
    assert isinstance(predictor, Guarded)
    assert isinstance(predictor.inner, Learned)


def test_a_directory_turns_it_on_behind_the_guard(tmp_path: Path, base: Path) -> None:
    options = SchedulerOptions(predictor=str(base), learn_online=str(tmp_path / "on"))
    predictor, source = choose(options, "m", lambda: "here")
    assert source == ""
    assert isinstance(predictor, Guarded)
    assert isinstance(predictor.inner, Online)
    assert 95 < predictor.predict([QUERY])[0].quantile(0.5) < 105
    for query, length in zip(queries(20), lengths(20, 100.0), strict=True):
        predictor.observe(query, length, censored=False)
    predictor.refresh(np.array([5]))
    assert (predictor.failures, predictor.late) == (0, 0)
    predictor.inner.close()
    assert predictor.inner.counts.answers == 20


@pytest.mark.parametrize("name", ["kaplan-meier", "ewma", "oracle", "max-tokens", "auto"])
@pytest.mark.parametrize("model", ["some/model", DEFAULT_MODEL])
def test_a_predictor_that_was_not_learned_is_refused(name: str, model: str, tmp_path: Path) -> None:
    options = SchedulerOptions(predictor=name, learn_online=str(tmp_path / "on"))
    with pytest.raises(ConfigError, match="learn_online needs a predictor of `presize learn`"):
        choose(options, model, lambda: "none")
    assert not (tmp_path / "on").exists()


def test_one_that_reads_hidden_states_is_refused(tmp_path: Path) -> None:
    shapes = {
        "mean": (3,),
        "scale": (3,),
        "hidden": (7, 2),
        "hidden_bias": (2,),
        "decode": (2, 40),
        "decode_bias": (40,),
    }
    probe = Hidden({name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()})
    save(tmp_path / "p", replace(header(), kind="hidden"), probe)
    options = SchedulerOptions(predictor=str(tmp_path / "p"), learn_online=str(tmp_path / "on"))
    with pytest.raises(ConfigError, match="learn_online needs a predictor that reads prompts"):
        choose(options, "m", lambda: "here")


def test_a_base_for_another_tokenizer_is_refused(tmp_path: Path, base: Path) -> None:
    options = SchedulerOptions(predictor=str(base), learn_online=str(tmp_path / "on"))
    with pytest.raises(ModelError, match="whose tokenizer is another one"):
        choose(options, "m", lambda: "there")


def test_nothing_of_it_is_logged_when_all_is_well(tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "presize")
    online = opened(tmp_path / "on", base)
    serve(online, 400, 100.0)
    online.learner.turn()
    online.close()
    assert not caplog.records
    assert online._features == PLAIN
