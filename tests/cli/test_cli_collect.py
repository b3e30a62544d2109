"""`presize collect`: the log of lengths."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from presize.cli.main import main

ROWS: list[dict[str, Any]] = [{"id": f"r{i}", "prompt": f"question {i}"} for i in range(5)]
DRAWS = ("--samples", "3", "--temperature", "0.7")


@pytest.fixture
def collect(loader: Any, out: Path) -> Callable[..., int]:
    """``collect(path, *flags)`` is the exit status of `presize collect`."""
    return lambda source, *flags: main(["collect", str(source), "--output", str(out), *flags])


def test_a_line_for_each_answer_with_its_question_and_what_cut_it_off(
    collect: Any, write_jsonl: Any, out: Path, lines_of: Any
) -> None:
    talk = [{"role": "user", "content": "hello"}]
    rows = [{"id": "a", "prompt": "x", "max_tokens": 2, "ignore_eos": True}, {"id": 7, "messages": talk}]
    assert collect(write_jsonl(*rows), "--samples", "2", "--temperature", "0.7") == 0
    lines = sorted(lines_of(out), key=lambda line: (str(line["id"]), line["sample"]))
    assert [(line["id"], line["sample"], line["samples"]) for line in lines] == [
        (7, 0, 2), (7, 1, 2), ("a", 0, 2), ("a", 1, 2),
    ]  # fmt: skip
    assert [line.get("messages") for line in lines] == [talk, talk, None, None]
    assert [line.get("prompt") for line in lines] == [None, None, "x", "x"]
    cut = {"output_tokens": 2, "finish_reason": "length", "censored": True, "max_tokens": 2, "temperature": 0.7}
    assert all(lines[-1][name] == value for name, value in cut.items())
    assert lines[0]["censored"] is False
    assert not any("text" in line for line in lines)


def test_draws_that_would_all_be_the_same_are_refused(collect: Any, write_jsonl: Any, out: Path, capsys: Any) -> None:
    assert collect(write_jsonl(*ROWS), "--samples", "3") == 2
    assert "--temperature" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--samples", "0"], "flag --samples: samples is '0'; it must be a whole number from 1"),
        (["--n", "two"], "flag --n: n is 'two'"),
        (["--samples", "2", "--n", "2"], "flags --n and --samples mean the same; give one of them"),
    ],
)
def test_a_wrong_number_of_samples_is_told_of_the_flag_that_was_typed(
    flags: list[str], words: str, collect: Any, write_jsonl: Any, out: Path, capsys: Any
) -> None:
    assert collect(write_jsonl(*ROWS), *flags) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_resume_after_a_cut_at_any_byte_draws_what_is_missing(
    collect: Any, write_jsonl: Any, out: Path, lines_of: Any
) -> None:
    source = write_jsonl(*ROWS)
    assert collect(source, *DRAWS) == 0
    whole = out.read_bytes()
    wanted = sorted((line["id"], line["sample"]) for line in lines_of(out))
    assert len(wanted) == 3 * len(ROWS)
    for cut in range(0, len(whole) + 1, 5):
        out.write_bytes(whole[:cut])
        assert collect(source, *DRAWS, "--resume") == 0
        assert sorted((line["id"], line["sample"]) for line in lines_of(out)) == wanted


@pytest.mark.parametrize("stop_at", range(1, 6))
def test_answers_that_a_stop_cuts_off_are_kept_as_censored_and_drawn_anew_by_resume(
    stop_at: int, loader: Any, collect: Any, write_jsonl: Any, out: Path, lines_of: Any
) -> None:
    """The first three rows run from the first step on, with 1 to 5 tokens each; the others wait for their places."""
    rows = [{**row, "ignore_eos": True, "max_tokens": 3 + i} for i, row in enumerate(ROWS)]
    source = write_jsonl(*rows)

    def interrupt(steps: int) -> None:
        if steps == stop_at:
            signal.raise_signal(signal.SIGINT)

    loader.prepare = lambda engine: setattr(engine, "on_step", interrupt)
    assert collect(source, *DRAWS) == 130
    lines = lines_of(out)
    steps = stop_at - 1  # the interrupted one gave nothing
    lengths = {"r0": min(steps, 3), "r1": min(steps, 4), "r2": steps, "r3": max(steps - 3, 0), "r4": max(steps - 4, 0)}
    assert {(line["id"], line["sample"]): line["output_tokens"] for line in lines} == {
        (name, sample): length for name, length in lengths.items() if length for sample in range(3)
    }
    for line in lines:
        assert line["censored"]
        assert (line["finish_reason"] == "abort") == (line["output_tokens"] < line["max_tokens"])

    loader.prepare = lambda engine: None
    assert collect(source, *DRAWS, "--resume") == 0
    lines = lines_of(out)
    assert len(lines) == 3 * len(ROWS)
    assert {(line["id"], line["sample"]): line["output_tokens"] for line in lines} == {
        (f"r{i}", sample): 3 + i for i in range(5) for sample in range(3)
    }
