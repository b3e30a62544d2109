"""`presize learn` and `presize evaluate` on a tiny model's directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from presize.cli.main import main
from presize.predict.base import Query
from presize.predict.learned import Learned

FIGURES = [
    "n", "kendall_tau", "mae", "median_absolute_error", "log_r2", "crps", "pinball", "coverage_50", "coverage_90",
    "bucket_accuracy_10",
]  # fmt: skip
Run = Callable[..., int]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's directory."""
    return tiny.save(tiny.make_model("llama"), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one token more."""
    directory = tiny.save(tiny.make_model("llama"), tmp_path_factory.mktemp("other"))
    path = directory / "tokenizer.json"
    content = json.loads(path.read_bytes())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 5000, "content": "<|new|>"})
    path.write_text(json.dumps(content))
    return directory


def rows(count: int = 160, seed: int = 0, **changes: Any) -> list[dict[str, Any]]:
    """A "the" in the prompt makes an answer ten times as long."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        long = bool(rng.integers(2))
        words = rng.choice(["cat", "mat", "hat", "one", "two", "three", "in", "on"], rng.integers(2, 9)).tolist()
        prompt = " ".join(["the", *words] if long else words)
        length = int(rng.integers(200, 300) if long else rng.integers(20, 30))
        found.append({"id": i, "prompt": prompt, "output_tokens": length, "max_tokens": 400, **changes})
    return found


@pytest.fixture
def learn(model: Path, tmp_path: Path, write_jsonl: Any) -> Run:
    """``learn(rows, *flags)`` is the exit status of `presize learn`; the predictor is in tmp_path / "out"."""

    def run(log: Sequence[Any], *flags: str, output: str = "out") -> int:
        source = write_jsonl(*log, name="log.jsonl")
        where = ["--output", str(tmp_path / output), "--model", str(model)]
        return main(["learn", str(source), *where, "--predictor", "linear", "--held-out", "0.3", *flags])

    return run


@pytest.fixture(scope="module")
def stored(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a predictor, by name."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    arguments = ["--output", str(folder / "p"), "--predictor", "linear", "--model", str(model)]
    assert main(["learn", str(folder / "log.jsonl"), *arguments]) == 0
    return {path.name: path.read_bytes() for path in (folder / "p").iterdir()}


@pytest.fixture
def predictor(stored: dict[str, bytes], tmp_path: Path) -> Path:
    """A copy of it."""
    directory = tmp_path / "predictor"
    directory.mkdir()
    for name, content in stored.items():
        (directory / name).write_bytes(content)
    return directory


def test_the_last_line_is_json_with_the_figures_and_the_predictor_is_there(
    learn: Run, capsys: Any, tmp_path: Path
) -> None:
    assert learn(rows(), "--licence", "CC0-1.0") == 0
    captured = capsys.readouterr()
    figures = json.loads(captured.out.splitlines()[-1])
    assert list(figures) == [*FIGURES, "train_seconds"]
    assert 20 < figures["n"] < 80
    assert figures["kendall_tau"] > 0.4
    assert 0 <= figures["train_seconds"] < 300
    assert "absolute error" in captured.err
    header = json.loads((tmp_path / "out" / "predictor.json").read_bytes())
    assert header["licence"] == "CC0-1.0"
    assert header["training"]["rows"] == 160


def test_what_was_learned_is_evaluated_on_another_log(predictor: Path, capsys: Any, write_jsonl: Any) -> None:
    log = write_jsonl(*rows(60, seed=1), name="fresh.jsonl")
    assert main(["evaluate", str(predictor), str(log)]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(figures) == [*FIGURES, "us_per_prompt", "us_single", "train_seconds"]
    assert figures["n"] == 60
    assert figures["kendall_tau"] > 0.4
    assert figures["log_r2"] > 0.7
    assert figures["us_single"] > 0


def sentence(capsys: Any) -> str:
    """The error, which must be one line and the only one."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("presize: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


CUT = [{**row, "censored": True} for row in rows(100)]
BAD_LOGS: dict[str, tuple[list[Any], str]] = {
    "empty": ([], "has no answers; `presize collect` writes such a log"),
    "blank lines": ([b"", b" "], "has no answers"),
    "one row": (rows(1), "came to their own end: 1; at least 50"),
    "only cut-off rows": (CUT, "came to their own end: 0; at least 50"),
    "a bad line": ([*rows(100), {"prompt": "x"}], "log.jsonl, line 101: output_tokens is None"),
    "another model's": ([{**rows(1)[0], "prompt_tokens": 999}], "log.jsonl, line 1: the log says"),
    "not JSON": ([b"prompt,length"], "log.jsonl, line 1 is not JSON"),
    "not UTF-8": ([b'{"prompt": "\xff"}'], "log.jsonl, line 1 is not UTF-8: byte 13 is wrong"),
    "half a line": ([*rows(60), b'{"prompt": "the c'], "line 61 is not JSON: Invalid control character at column 18"),
    "lists without an end": ([b"[" * 100_000], "log.jsonl, line 1 is not JSON: maximum recursion depth"),
    "one prompt": ([{**row, "prompt": "a cat"} for row in rows(100)], "held out: 1 of 1, at a share of 0.3"),
    "few prompts": ([{**row, "prompt": f"a {i % 9}"} for i, row in enumerate(rows(99))], "at least 5 are needed"),
}


@pytest.mark.parametrize("case", sorted(BAD_LOGS))
def test_a_bad_log_is_one_sentence_and_leaves_nothing(case: str, learn: Run, capsys: Any, tmp_path: Path) -> None:
    log, words = BAD_LOGS[case]
    assert learn(log) != 0
    assert words in sentence(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_lines_without_an_answer_are_passed_over_and_counted(learn: Run, capsys: Any) -> None:
    assert learn([*rows(), {"id": "x", "line": 7, "error": "the prompt is empty"}]) == 0
    assert "presize: 1 line of " in capsys.readouterr().err


def test_a_log_that_is_not_there_is_one_sentence(model: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["learn", str(tmp_path / "no.jsonl"), "--output", str(tmp_path / "out"), "--model", str(model)]) != 0
    assert "no.jsonl" in sentence(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_predictor_is_replaced_only_when_told_to(learn: Run, predictor: Path, capsys: Any) -> None:
    before = {path.name: path.read_bytes() for path in predictor.iterdir()}
    assert learn(rows(), output="predictor") == 2
    assert "--overwrite" in sentence(capsys)
    assert {path.name: path.read_bytes() for path in predictor.iterdir()} == before
    assert learn(rows(), "--overwrite", "--licence", "new", output="predictor") == 0
    assert b'"new"' in (predictor / "predictor.json").read_bytes()


@pytest.mark.parametrize(
    "names", [["thesis.txt"], ["predictor.json", "thesis.txt"], ["config.json", "model.safetensors"]]
)
def test_a_directory_with_other_files_is_never_replaced(
    names: list[str], learn: Run, capsys: Any, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    for name in names:
        (tmp_path / "out" / name).write_text("mine")
    assert learn(rows(), "--overwrite") == 2
    assert "another directory" in sentence(capsys)
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == dict.fromkeys(names, "mine")


def damage_nan(directory: Path) -> None:
    arrays = load_file(directory / "weights.safetensors")
    arrays["weights"] = arrays["weights"] * np.float32("nan")
    save_file(arrays, directory / "weights.safetensors")


def damage_cut(directory: Path) -> None:
    content = (directory / "weights.safetensors").read_bytes()
    (directory / "weights.safetensors").write_bytes(content[: len(content) // 2])


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "NaN weights": (damage_nan, "not finite"),
    "truncated weights": (damage_cut, "weights.safetensors can not be read"),
    "no weights": (lambda d: (d / "weights.safetensors").unlink(), "weights.safetensors can not be read"),
    "no header": (lambda d: (d / "predictor.json").unlink(), "holds no predictor"),
    "half a header": (lambda d: (d / "predictor.json").write_text("{"), "predictor.json can not be read"),
    "no directory": (lambda d: [*map(Path.unlink, d.iterdir()), d.rmdir()], "holds no predictor"),
}


@pytest.mark.parametrize("case", sorted(DAMAGES))
def test_a_damaged_predictor_is_one_sentence_for_both_verbs(
    case: str, predictor: Path, learn: Run, capsys: Any, tmp_path: Path
) -> None:
    damage, words = DAMAGES[case]
    damage(predictor)
    assert learn(rows(), "--predictor", "attention", "--teacher", str(predictor)) == 1
    assert words in sentence(capsys)
    assert not (tmp_path / "out").exists()
    assert main(["evaluate", str(predictor), str(tmp_path / "log.jsonl")]) == 1
    assert words in sentence(capsys)


def test_a_predictor_for_another_tokenizer_is_one_sentence_for_both_verbs(
    predictor: Path, other_model: Path, learn: Run, capsys: Any, tmp_path: Path
) -> None:
    flags = ["--model", str(other_model)]
    assert learn(rows(), "--predictor", "attention", "--teacher", str(predictor), *flags) == 1
    assert "tokenizer is another one" in sentence(capsys)
    assert not (tmp_path / "out").exists()
    assert main(["evaluate", str(predictor), str(tmp_path / "log.jsonl"), *flags]) == 1
    assert "tokenizer is another one" in sentence(capsys)


def test_a_learned_predictor_can_teach(predictor: Path, learn: Run, capsys: Any, write_jsonl: Any) -> None:
    more = write_jsonl({"prompt": "the hat"}, {"messages": [{"role": "user", "content": "one"}]}, name="more.jsonl")
    flags = ["--predictor", "attention", "--teacher", str(predictor), "--prompts", str(more), "--variants", "200"]
    assert learn(rows(), *flags) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["n"] > 20


@pytest.mark.parametrize("text", ["c", "\N{GRINNING FACE}" * 40, "the cat \N{FAMILY} " * 8000, "\0", " "], ids=len)
def test_whatever_the_prompt_the_curve_is_valid(text: str, predictor: Path, model: Path) -> None:
    from presize.engine.tokenizer import Tokenizer

    ids = Tokenizer(model).encode(text)
    learned = Learned.load(predictor)
    (survival,) = learned.survival([Query("q", ids, 300)])
    assert survival[0] == 1
    assert (np.diff(survival) <= 0).all()
    assert (survival >= 0).all()
    (curve,) = learned.predict([Query("q", ids, 300)])
    assert 5 < curve.quantile(0.5) <= 300


def test_strange_prompts_in_a_log_are_learned_from_and_evaluated(
    learn: Run, capsys: Any, tmp_path: Path, write_jsonl: Any
) -> None:
    strange = [{"prompt": text, "output_tokens": 50} for text in ("c", "\N{GRINNING FACE}" * 40, "the cat " * 12_500)]
    assert learn(rows() + strange * 3) == 0
    assert main(["evaluate", str(tmp_path / "out"), str(write_jsonl(*strange, name="strange.jsonl"))]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["n"] == 3
