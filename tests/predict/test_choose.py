"""From the option to a predictor: names, directories, what suits the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from presize.config import DEFAULT_MODEL, SchedulerOptions
from presize.errors import ConfigError, ModelError
from presize.predict import PREDICTORS, Query, choose
from presize.predict.calibration import Calibration
from presize.predict.features import Features
from presize.predict.guard import Guarded
from presize.predict.kaplan_meier import KaplanMeier
from presize.predict.linear import RESIDUALS, Linear
from presize.predict.store import Header, save

QUERY = Query("r", [1, 2, 3], 1000)


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    """A linear predictor for the tokenizer "here": answers of about 50 tokens."""
    spread = np.interp(RESIDUALS, [-0.1, 0.1], [1.0, 0.0])
    arrays = {
        "keys": np.array([1], dtype=np.int64), "rarity": np.ones(1), "weights": np.zeros(1), "side": np.zeros(4),
        "intercept": np.array([np.log(50.0)]), "centres": np.array([0.0, 1.0]), "residuals": np.stack([spread, spread]),
    }  # fmt: skip
    plain = Features((), (), (0.0,) * 4, (0.0,) * 4)
    header = Header(kind="linear", model="m", tokenizer="here", features=plain, calibration=Calibration())
    save(tmp_path / "p", header, Linear(arrays))
    return tmp_path / "p"


def test_a_model_without_a_predictor_starts_from_the_history_and_says_so() -> None:
    predictor, source = choose(SchedulerOptions(), "some/model", lambda: "here")
    assert isinstance(predictor, KaplanMeier)
    assert "some/model" in source
    assert "presize learn" in source


def test_the_default_model_with_another_tokenizer_starts_from_the_history() -> None:
    predictor, source = choose(SchedulerOptions(), DEFAULT_MODEL, lambda: "another")
    assert isinstance(predictor, KaplanMeier)
    assert source


def test_a_directory_is_loaded_behind_the_guard(learned: Path) -> None:
    predictor, source = choose(SchedulerOptions(predictor=str(learned)), "m", lambda: "here")
    assert isinstance(predictor, Guarded)
    assert source == ""
    assert 45 <= predictor.predict([QUERY])[0].quantile(0.5) <= 55


def test_a_directory_for_another_tokenizer_is_refused(learned: Path) -> None:
    with pytest.raises(ModelError, match="learned for m, whose tokenizer is another one"):
        choose(SchedulerOptions(predictor=str(learned)), "m", lambda: "there")


@pytest.mark.parametrize("name", ["kaplan-meyer", "", "/no/such/directory"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        choose(SchedulerOptions(predictor=name), "m", lambda: "here")
    assert all(known in str(error.value) for known in ["auto", *PREDICTORS])


def test_an_old_answer_fades_from_ewma_and_not_from_the_history() -> None:
    def after_a_change(name: str) -> int:
        predictor = PREDICTORS.get(name)(SchedulerOptions())
        for length in [400] * 1500 + [40] * 1000:
            predictor.observe(QUERY, length, censored=False)
        predictor.refresh(np.zeros(0, dtype=np.int64))
        return predictor.predict([QUERY])[0].quantile(0.5)

    assert after_a_change("ewma") <= 41
    assert after_a_change("kaplan-meier") > 300
