"""A log's prompts go through the served model once each; from the log to a probe in use, by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from presize.cli.main import main
from presize.engine import states
from presize.engine.states import states_of_prompts, with_states
from presize.errors import ConfigError
from presize.predict import Query
from presize.predict.log import Log, Observation

BFLOAT16 = 0.2  # how far off its arithmetic may be, which is used where the machine has it; states are of size 1


def quiet(stage: str, done: int, total: int) -> None:
    """A progress report that nobody reads."""


@torch.inference_mode()
def by_transformers(model: Any, ids: list[int]) -> np.ndarray:
    return model.model(torch.tensor([ids])).last_hidden_state[0, -1].numpy()


def test_every_prompt_is_read_once_and_all_its_answers_know_its_state(checkpoint, random_prompts, monkeypatch):
    model, directory = checkpoint("llama")
    prompts = random_prompts(30)
    chosen = np.random.default_rng(0).integers(30, size=70)
    log = Log([Observation(Query(str(i), np.array(prompts[p]), 9), 5, False) for i, p in enumerate(chosen)], errors=2)
    reports: list[tuple[str, int, int]] = []
    monkeypatch.setattr(states, "_ADDED", 7)
    found = with_states(log, str(directory), lambda *report: reports.append(report))
    for p, row in zip(chosen, found.rows, strict=True):
        assert row.query.state is not None
        np.testing.assert_allclose(row.query.state, by_transformers(model, prompts[p]), atol=BFLOAT16)
    assert found.errors == 2
    assert [row.output_tokens for row in found.rows] == [5] * 70
    distinct = len({tuple(prompts[p]) for p in chosen})
    assert reports[-1] == ("reading the prompts", distinct, distinct)


@pytest.mark.parametrize(
    ("prompt", "reason"), [([5] * 512, "512 tokens"), ([1, 2, 4000], "holds 4000; token ids go from 0 to 299")]
)
def test_a_prompt_that_the_model_can_not_read_is_named(checkpoint, prompt, reason):
    log = Log([Observation(Query("good", [1], 9), 5, False), Observation(Query("the bad one", prompt, 9), 5, False)])
    with pytest.raises(ConfigError, match=f"'the bad one'.*{reason}"):
        with_states(log, str(checkpoint("llama")[1]), quiet)


def test_a_prompt_as_long_as_the_model_allows_is_read(checkpoint):
    model, directory = checkpoint("llama")
    prompt = np.random.default_rng(3).integers(3, 300, size=511)
    (row,) = with_states(Log([Observation(Query("a", prompt, 9), 1, False)]), str(directory), quiet).rows
    np.testing.assert_allclose(row.query.state, by_transformers(model, prompt.tolist()), atol=BFLOAT16)


def test_in_float32_states_are_those_of_transformers_each_time_an_engine_is_asked(
    engine_of, checkpoint, random_prompts
):
    engine, prompts = engine_of(), random_prompts(12)
    expected = np.stack([by_transformers(checkpoint("llama")[0], ids) for ids in prompts])
    for _ in range(2):
        found = states_of_prompts(engine, [Query("x", ids, 9) for ids in prompts], quiet)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in which the last word says how long the answer is; the model's state shows that word."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(240):
        word, typical = [("mat", 8), ("other", 90)][i % 2]
        prompt = f"{' '.join(rng.choice(['the', 'cat', 'sat', 'hat'], 4))} {word}"
        length = int(typical * np.exp(0.2 * rng.normal()))
        rows.append({"id": i, "prompt": prompt, "output_tokens": max(length, 1), "max_tokens": 200})
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_from_a_log_to_a_probe_in_use(checkpoint, log, tmp_path, capsys):
    directory = checkpoint("llama")[1]
    probe = tmp_path / "probe"
    command = ["learn", str(log), "--model", str(directory), "--predictor", "hidden", "--held-out", "0.3"]
    assert main([*command, "--output", str(probe)]) == 0
    learned = json.loads(capsys.readouterr().out)
    assert learned["kendall_tau"] > 0.4
    assert main(["evaluate", str(probe), str(log)]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["n"] == 240
    assert evaluated["kendall_tau"] > 0.4
    assert evaluated["us_per_prompt"] > 0
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": t}) + "\n" for t in ("the cat sat on the mat", "the other")))
    flags = ["--model", str(directory), "--max-tokens", "20", "--kv-tokens", "512", "--device", "cpu"]
    assert main(["generate", str(prompts), "--output", str(tmp_path / "out"), "--predictor", str(probe), *flags]) == 0
    capsys.readouterr()
    assert main(["explain", str(probe), "the cat"]) != 0
    assert "known only once the model has run" in " ".join(capsys.readouterr().err.split())


def test_a_log_that_is_too_small_is_refused_before_the_model_is_asked(log, checkpoint, tmp_path, capsys, monkeypatch):
    short = tmp_path / "short.jsonl"
    short.write_text("".join(log.read_text().splitlines(keepends=True)[:30]))
    monkeypatch.setattr(states, "with_states", lambda *_: pytest.fail("the model was asked"))
    command = ["learn", str(short), "--model", str(checkpoint("llama")[1]), "--predictor", "hidden"]
    assert main([*command, "--output", str(tmp_path / "probe")]) != 0
    assert "at least 50" in " ".join(capsys.readouterr().err.split())
