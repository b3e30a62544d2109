"""`presize generate` from end to end with a stand-in engine: rows, options, errors, exit codes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from presize.cli.main import main
from presize.cli.summary import FIELDS

Write = Callable[..., Path]
Rows = Callable[[Path], dict[Any, dict[str, Any]]]
ROWS: list[dict[str, Any]] = [{"id": f"r{i}", "prompt": f"question {i}"} for i in range(8)]


def test_rows_and_summary(run: Any, write_jsonl: Write, out: Path, capsys: Any, by_id: Rows) -> None:
    assert run(write_jsonl(*ROWS)) == 0
    rows = by_id(out)
    assert list(rows["r3"]) == [
        "id", "text", "finish_reason", "prompt_tokens", "output_tokens", "predicted_tokens", "preemptions", "ttft_s",
        "latency_s",
    ]  # fmt: skip
    assert rows["r3"]["text"] == "answer 0 to question 3"
    assert rows["r3"] | {"output_tokens": 0} == {
        "id": "r3", "text": "answer 0 to question 3", "finish_reason": "stop", "prompt_tokens": 2, "output_tokens": 0,
        "predicted_tokens": 7, "preemptions": 0, "ttft_s": 0.25, "latency_s": 1.0,
    }  # fmt: skip
    captured = capsys.readouterr()
    figures = orjson.loads(captured.out.splitlines()[-1])
    assert list(figures) == list(FIELDS)
    assert (figures["requests"], figures["failed"], figures["itl_p99_s"]) == (8, 0, None)
    assert "tokens/s" in captured.err
    assert captured.out.count("\n") == 1


def test_the_summary_fields_are_frozen() -> None:
    assert list(FIELDS) == [
        "requests",
        "failed",
        "output_tokens",
        "seconds",
        "tokens_per_second",
        "preemptions",
        "recomputed_tokens",
        "kv_utilization_mean",
        "batch_mean",
        "latency_mean_s",
        "latency_p99_s",
        "ttft_mean_s",
        "itl_p99_s",
        "longest_stall_s",
    ]


def test_a_bad_row_fails_alone(run: Any, write_jsonl: Write, out: Path, capsys: Any, by_id: Rows) -> None:
    source = write_jsonl({"id": "a", "prompt": "x"}, b"{", {"id": "b", "prompt": "refuse"}, {"id": "c", "prompt": "y"})
    assert run(source) == 1
    rows = by_id(out)
    assert rows["b"] == {"id": "b", "line": 3, "error": "needs 100 KV tokens; there are 10"}
    assert "not JSON" in rows["2"]["error"]
    assert "text" in rows["a"]
    assert "text" in rows["c"]
    captured = capsys.readouterr()
    assert orjson.loads(captured.out)["failed"] == 2
    assert "presize: line 3 (id b): needs 100 KV tokens" in captured.err


def test_many_errors_are_not_all_printed(run: Any, write_jsonl: Write, capsys: Any) -> None:
    assert run(write_jsonl(*[b"{"] * 9, {"prompt": "x"})) == 1
    captured = capsys.readouterr()
    assert captured.err.count("not JSON") == 5
    assert "4 more rows failed" in captured.err


def test_flags_reach_the_engine_and_rows_override_them(loader: Any, run: Any, write_jsonl: Write) -> None:
    source = write_jsonl({"prompt": "a"}, {"prompt": "b", "temperature": 0.5})
    assert run(source, "--temperature", "0.25", "--stop", "x", "--stop", "y", "--kv-tokens", "4096", "--chat") == 0
    (engine,) = loader.engines
    assert engine.options.kv_tokens == 4096
    assert [(r[1], r[2].temperature, r[2].stop) for r in engine.seen] == [
        ("<chat> a", 0.25, ("x", "y")),
        ("<chat> b", 0.5, ("x", "y")),
    ]


def test_several_answers_and_logprobs(run: Any, write_jsonl: Write, out: Path, lines_of: Any) -> None:
    assert run(write_jsonl({"prompt": "x", "n": 2, "logprobs": 1, "max_tokens": 1})) == 0
    (row,) = lines_of(out)
    token = {"id": 0, "logprob": -0.5, "top": {"0": -0.5, "99": -1.5}}
    assert row["logprobs"] == [token]
    assert [list(choice) for choice in row["choices"]] == [
        ["index", "text", "finish_reason", "output_tokens", "logprobs"]
    ] * 2
    assert [choice["index"] for choice in row["choices"]] == [0, 1]
    assert row["text"] == row["choices"][0]["text"]


def test_whole_number_ids_stay_numbers(run: Any, write_jsonl: Write, out: Path, lines_of: Any) -> None:
    source = write_jsonl({"id": 7, "prompt": "x"})
    assert run(source) == 0
    assert lines_of(out)[0]["id"] == 7
    before = out.read_bytes()
    assert run(source, "--resume") == 0
    assert out.read_bytes() == before


def test_standard_input_and_output(
    loader: Any, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any, write_jsonl: Write
) -> None:
    data = write_jsonl({"prompt": "caf\u00e9"}).read_bytes()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert main(["generate", "-", "--output", "-"]) == 0
    row, figures = (orjson.loads(line) for line in capsysbinary.readouterr().out.splitlines())
    assert row["text"] == "answer 0 to caf\u00e9"
    assert figures["requests"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, p: a.__setitem__(0, str(p / "none.jsonl")), "can not be read: No such file"),
        (lambda a, p: a.__setitem__(0, str(p)), "can not be read: Is a directory"),
        (lambda a, p: a.__setitem__(2, str(p / "none" / "out")), "can not be written: No such file"),
        (lambda a, p: a.__setitem__(2, str(p)), "can not be written: Is a directory"),
        (lambda a, p: a.__setitem__(2, a[0]), "is the input itself"),
        (lambda a, p: a.extend(["--resume", "--overwrite"]), "not allowed with"),
        (lambda a, p: a.__setitem__(slice(2, 3), ["-", "--resume"]), "need a file"),
        (lambda a, p: a.extend(["--top-p", "0"]), "top_p is 0"),
        (lambda a, p: (p / "in.jsonl").write_bytes(b""), "has no rows"),
        (lambda a, p: (p / "in.jsonl").write_bytes(b"\n \n"), "has no rows"),
    ],
)
def test_usage_errors_come_before_the_model(
    change: Any, words: str, loader: Any, write_jsonl: Write, tmp_path: Path, capsys: Any
) -> None:
    args = [str(write_jsonl(*ROWS)), "--output", str(tmp_path / "out.jsonl")]
    change(args, tmp_path)
    assert main(["generate", *args]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("presize: error: ")
    assert error.count("\n") == 1
    assert not loader.engines
