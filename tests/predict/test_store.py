"""A predictor on disk: it comes back whole and is replaced whole, and nothing else there is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import QUERIES, attention, curves_of, header, linear

from presize.errors import ConfigError, ModelError
from presize.predict.learned import Learned
from presize.predict.linear import Linear
from presize.predict.store import HEADER, WEIGHTS, check_target, load, save


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A linear predictor."""
    save(tmp_path / "predictor", header(), linear())
    return tmp_path / "predictor"


@pytest.mark.parametrize(("kind", "make", "off"), [("attention", attention, 2e-3), ("linear", linear, 1e-6)])
def test_what_is_saved_comes_back(kind: str, make: Callable[[], Any], off: float, tmp_path: Path) -> None:
    directory, model = tmp_path / "not" / "there yet", make()
    save(directory, header(kind), model)
    found, _ = load(directory, "abc")
    assert found == header(kind)
    before = Learned(model, header().features, header().calibration).survival(QUERIES)
    np.testing.assert_allclose(curves_of(directory), before, atol=off)
    assert np.ptp(before, axis=0).max() > 0.1, "else any curve would do"
    assert sorted(path.name for path in directory.iterdir()) == [HEADER, WEIGHTS], "nothing that could be run"
    assert [path.name for path in directory.parent.iterdir()] == ["there yet"]


def test_a_predictor_or_an_empty_directory_is_replaced_by_another_kind(stored: Path) -> None:
    save(stored, header("attention"), attention())
    assert load(stored)[0].kind == "attention"
    empty = stored.parent / "empty"
    empty.mkdir()
    save(empty, header(), linear())
    assert load(empty)[0].kind == "linear"
    assert sorted(path.name for path in stored.parent.iterdir()) == ["empty", "predictor"]


def test_a_link_stays_a_link(stored: Path) -> None:
    link = stored.parent / "latest"
    link.symlink_to(stored)
    save(link, header("attention"), attention())
    assert link.is_symlink()
    assert load(stored)[0].kind == "attention"


def fail(*args: Any, **kwargs: Any) -> Any:
    raise OSError(28, "No space left on device")


def interrupt(*args: Any, **kwargs: Any) -> Any:
    raise KeyboardInterrupt


def break_rename(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The ``number``-th rename fails, the others work."""
    real, calls = Path.rename, iter(range(100))
    monkeypatch.setattr(Path, "rename", lambda *args: fail() if next(calls) == number else real(*args))


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "header": lambda patch: patch.setattr(Path, "write_text", fail),
    "weights": lambda patch: patch.setattr("safetensors.numpy.save_file", fail),
    "interrupted": lambda patch: patch.setattr("safetensors.numpy.save_file", interrupt),
    "files": lambda patch: patch.setattr(Linear, "files", fail),
    "first rename": lambda patch: break_rename(patch, 0),
    "second rename": lambda patch: break_rename(patch, 1),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_if_replacing_fails_the_old_one_is_whole_and_nothing_is_left(
    fault: str, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = curves_of(stored)
    with monkeypatch.context() as patch:
        FAULTS[fault](patch)
        with pytest.raises((OSError, KeyboardInterrupt)):
            save(stored, header(), linear(intercept=1.0))
    np.testing.assert_array_equal(curves_of(stored), before)
    assert list(stored.parent.iterdir()) == [stored]


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"second rename"}))
def test_if_making_fails_nothing_is_left(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[fault](monkeypatch)
    with pytest.raises((OSError, KeyboardInterrupt)):
        save(tmp_path / "new", header(), linear())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("beside_a_predictor", [False, True])
def test_a_directory_that_holds_anything_else_is_not_touched(beside_a_predictor: bool, stored: Path) -> None:
    target = stored if beside_a_predictor else stored.parent
    (target / "thesis.txt").write_text("years of work")
    for attempt in (lambda: check_target(target), lambda: save(target, header(), linear())):
        with pytest.raises(ConfigError, match="another directory"):
            attempt()
    assert (target / "thesis.txt").read_text() == "years of work"


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        save(tmp_path / "file", header(), linear())
    assert (tmp_path / "file").read_text() == "mine"


def test_a_predictor_of_another_tokenizer_is_refused_and_told_what_to_do(stored: Path) -> None:
    with pytest.raises(ModelError, match=r"learned for some model.*presize collect.*presize learn"):
        load(stored, "another")
