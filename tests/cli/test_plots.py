"""The picture of forecasts against answers: a valid file or none, and shares that are what they claim."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from presize.cli import plots
from presize.cli.main import main
from presize.cli.picture_file import check_picture
from presize.cli.plots import LEVELS, observed_shares, save_forecasts
from presize.core.lengths import GRID, LengthDistribution
from presize.errors import ConfigError

MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml", "pdf": b"%PDF-"}
Case = tuple[list[LengthDistribution], Any, Any]


def answers(count: int, limit: int = 400, seed: int = 0) -> Case:
    """Exponential lengths, each with the forecast that is right; cut off at ``limit``."""
    rng = np.random.default_rng(seed)
    means = rng.uniform(5, 500, count)
    lengths = np.ceil(rng.exponential(means)).astype(np.int64)
    curves = [LengthDistribution.from_survival(np.exp(-GRID / mean), limit) for mean in means]
    return curves, np.minimum(lengths, limit), lengths > limit


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "PNG"])
def test_the_file_is_what_its_name_says(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plot.{suffix}"
    path.write_bytes(b"an older one")
    save_forecasts(path, *answers(60))
    assert path.read_bytes().startswith(MAGIC[suffix.lower()])
    assert os.listdir(tmp_path) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644


EDGES = {
    "one answer": answers(1),
    "all cut off": answers(30, limit=1),
    "none cut off": answers(30, limit=2**20),
    "many": answers(2500),
    "the same length": ([LengthDistribution.exactly(7)] * 5, np.full(5, 7), np.zeros(5, dtype=bool)),
    "no length at all": ([LengthDistribution.exactly(1)] * 3, [1, 1, 1], [False, True, False]),
    "the longest": ([LengthDistribution.exactly(2**20)] * 3, [1, 9, 2**20], [False, False, True]),
}


@pytest.mark.parametrize("name", list(EDGES))
def test_every_log_makes_a_picture(tmp_path: Path, name: str) -> None:
    save_forecasts(tmp_path / "plot.png", *EDGES[name])
    pixels = matplotlib.image.imread(io.BytesIO((tmp_path / "plot.png").read_bytes()))
    assert pixels.shape[:2] == (780, 1650)
    left, right = pixels[:, :825, :3], pixels[:, 825:, :3]
    assert left.std() > 0.02  # something is drawn in either panel
    assert right.std() > 0.02


def test_no_global_state_of_pyplot_is_touched(tmp_path: Path) -> None:
    import matplotlib

    before, pyplot = matplotlib.get_backend(auto_select=False), "matplotlib.pyplot" in sys.modules
    save_forecasts(tmp_path / "plot.png", *answers(20))
    assert matplotlib.get_backend(auto_select=False) == before
    assert ("matplotlib.pyplot" in sys.modules) == pyplot


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plot.gif", "must end in .png, .svg or .pdf"),
        ("plot", "must end in .png, .svg or .pdf"),
        (".png", "must end in .png, .svg or .pdf"),
        ("missing/plot.png", "there is no directory"),
        ("file.png/plot.png", "there is no directory"),
        ("folder.png", "is a directory"),
    ],
)
def test_a_wrong_path_is_one_sentence(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file.png").touch()
    (tmp_path / "folder.png").mkdir()
    for attempt in (check_picture, lambda path: save_forecasts(path, *answers(3))):
        with pytest.raises(ConfigError, match="save_plot is ") as caught:
            attempt(tmp_path / name)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file.png", "folder.png"]


def test_a_directory_that_can_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(ConfigError, match="can not be written to"):
        check_picture(tmp_path / "plot.png")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs matplotlib: pip install .presize\[learn\]"):
        check_picture(tmp_path / "plot.png")


@pytest.mark.parametrize("step", ["replace", "chmod"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plot.png"
    path.write_bytes(b"an older one")

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(ConfigError, match=r"can not be written: No space left on device$"):
        save_forecasts(path, *answers(5))
    assert os.listdir(tmp_path) == ["plot.png"]
    assert path.read_bytes() == b"an older one"


def test_the_observed_shares_are_counts_where_nothing_is_cut_off() -> None:
    levels = np.array([0.9, 0.1, 0.2, 0.2])
    shares = observed_shares(levels, np.zeros(4, dtype=bool), np.array([0.05, 0.1, 0.15, 0.2, 0.5, 0.95]))
    assert shares.tolist() == pytest.approx([0.0, 0.25, 0.25, 0.75, 0.75, 1.0])


def test_an_answer_that_was_cut_off_is_only_known_to_be_longer() -> None:
    levels, cut = np.array([0.1, 0.3, 0.5, 0.7]), np.array([False, True, False, True])
    shares = observed_shares(levels, cut, np.array([0.2, 0.4, 0.6, 0.8]))
    assert shares[:3].tolist() == pytest.approx([0.25, 0.25, 1 - 0.75 / 2])
    assert np.isnan(shares[3])  # nobody was watched that far


def test_right_forecasts_lie_on_the_diagonal_although_many_are_cut_off() -> None:
    curves, lengths, censored = answers(4000, limit=150)
    assert 0.2 < censored.mean() < 0.6
    shares = observed_shares(plots.levels_of(curves, lengths, censored), censored, LEVELS)
    assert np.nanmax(np.abs(shares - LEVELS)) < 0.03


def test_evaluate_checks_the_path_before_the_long_work(
    tmp_path: Path, write_jsonl: Callable[..., Path], capsys: Any
) -> None:
    log = write_jsonl({"prompt": "x", "output_tokens": 1})
    assert main(["evaluate", str(tmp_path / "no predictor"), str(log), "--save-plot", "plot.gif"]) == 2
    assert "save_plot is 'plot.gif'; its name must end in .png, .svg or .pdf" in capsys.readouterr().err
