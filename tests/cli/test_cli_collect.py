"""`presize collect`: the log of lengths."""

from __future__ import annotations

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
