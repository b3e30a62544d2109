"""`presize bench offline` with a stand-in engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from presize.cli.bench import median_run
from presize.cli.main import main
from presize.cli.summary import FIELDS

Write = Callable[..., Path]
ROWS = [{"prompt": f"question {i}"} for i in range(6)]


def bench(source: Path, *flags: str) -> int:
    return main(["bench", "offline", str(source), *flags])


def test_one_object_for_each_policy(loader: Any, write_jsonl: Write, capsys: Any) -> None:
    assert bench(write_jsonl(*ROWS), "--policies", "payback,worst-case", "--predictor", "max-tokens") == 0
    captured = capsys.readouterr()
    results = orjson.loads(captured.out.splitlines()[-1])
    assert list(results) == ["payback", "worst-case"]
    assert all(list(figures) == list(FIELDS) for figures in results.values())
    assert {figures["requests"] for figures in results.values()} == {6}
    (engine,) = loader.engines
    assert engine.restarts == [("payback", "fcfs", "max-tokens"), ("worst-case", "fcfs", "max-tokens")]
    assert engine.options.policy == "payback"
    assert "worst-case" in captured.err


def test_the_policy_of_the_engine_is_the_default(loader: Any, write_jsonl: Write, capsys: Any) -> None:
    assert bench(write_jsonl(*ROWS), "--policy", "watermark") == 0
    assert list(orjson.loads(capsys.readouterr().out)) == ["watermark"]


def test_orders_and_interleaved_rounds(loader: Any, write_jsonl: Write, capsys: Any) -> None:
    flags = ["--policies", "payback,watermark", "--orders", "fcfs, gittins", "--repeats", "2", "--warmup", "0"]
    assert bench(write_jsonl(*ROWS), *flags) == 0
    names = ["payback/fcfs", "payback/gittins", "watermark/fcfs", "watermark/gittins"]
    assert list(orjson.loads(capsys.readouterr().out)) == names
    restarts = loader.engines[0].restarts
    assert [f"{policy}/{order}" for policy, order, _ in restarts] == names * 2
    assert len(loader.engines[0].seen) == 4 * 2 * len(ROWS)


def test_the_warm_up_is_short_and_not_counted(loader: Any, write_jsonl: Write, capsys: Any) -> None:
    assert bench(write_jsonl(*ROWS), "--warmup", "2", "--min-tokens", "20", "--n", "3") == 0
    seen = loader.engines[0].seen
    assert [(params.max_tokens, params.n) for _, _, params in seen[:3]] == [(8, 1), (8, 1), (512, 3)]
    assert orjson.loads(capsys.readouterr().out)["payback"]["requests"] == 6


def test_the_result_is_saved_with_its_circumstances(
    loader: Any, write_jsonl: Write, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "result.json"
    assert bench(write_jsonl(*ROWS), "--save-result", str(path), "--repeats", "3") == 0
    record = orjson.loads(path.read_bytes())
    assert record["results"] == orjson.loads(capsys.readouterr().out)
    assert len(record["runs"]["payback"]) == 3
    assert {"date", "system", "hardware", "versions", "options", "input"} <= set(record)
    assert record["versions"]["presize"]
    assert record["hardware"]["cores"] >= 1
    assert record["options"]["policy"] == "payback"


def test_failed_rows_are_counted_and_shown_once(loader: Any, write_jsonl: Write, capsys: Any) -> None:
    assert bench(write_jsonl(*ROWS, b"{", {"prompt": "refuse"}), "--repeats", "2", "--policies", "s3,payback") == 1
    captured = capsys.readouterr()
    assert orjson.loads(captured.out)["payback"]["failed"] == 2
    assert captured.err.count("needs 100 KV tokens") == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--policies", "paybak"], "known: "),
        (["--policies", "paybak"], "did you mean payback?"),
        (["--policies", ""], "unknown policy ''"),
        (["--orders", "x"], "known: fcfs"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--repeats", "x"], "invalid int value"),
        (["--warmup", "-1"], "--warmup is -1"),
        (["--save-result", os.path.join("none", "x.json")], "can not be written"),
        (["--predictor", "x"], "predictor is 'x'"),
    ],
)
def test_usage_errors_come_before_the_model(
    flags: list[str], words: str, loader: Any, write_jsonl: Write, capsys: Any
) -> None:
    assert bench(write_jsonl(*ROWS), *flags) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not loader.engines


def test_the_median_run_is_one_that_took_place() -> None:
    runs = [{"tokens_per_second": speed, "mark": speed} for speed in (3.0, 9.0, 1.0, 2.0)]
    assert median_run(runs)["mark"] == 2.0
    assert median_run(runs[:3])["mark"] == 3.0
