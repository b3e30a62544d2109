"""`presize shape`: the table, the judgement, the picture, the errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from presize.cli.main import main
from presize.theory.depth_width.law import judge, optimum

GPT2 = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}


def test_candidates_for_a_size(capsys: Any, tmp_path: Path) -> None:
    picture = tmp_path / "plane.png"
    flags = ["--params", "1.3e9", "--device", "A100-80G", "--context", "2048", "--save-plot", str(picture)]
    assert main(["shape", *flags]) == 0
    out, err = capsys.readouterr()
    figures = json.loads(out)
    assert figures["optimum"]["depth"] == pytest.approx(optimum(1.3e9).depth)
    (best,) = [c for c in figures["candidates"] if c["best"]]
    assert (best["depth"], best["verdict"], best["frontier"]) == (42, "balanced", True)
    assert {c["verdict"] for c in figures["candidates"]} == {"too shallow", "balanced", "too deep"}
    assert "42.2 +- 0.9 layers" in err
    assert "extrapolated" in err
    assert "nearest to the optimum" in err
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_network_that_is_there(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    assert main(["shape", "--model", str(tmp_path), "--save-plot", str(tmp_path / "p.svg")]) == 0
    out, err = capsys.readouterr()
    figures = json.loads(out)
    assert figures["model"]["verdict"] == judge(12, 768).verdict == "too shallow"
    assert figures["parameters"] == 12 * 12 * 768**2
    assert "Verdict: too shallow" in err


def test_the_vocabulary_of_a_model_caps_its_width(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**GPT2, "vocab_size": 256}))
    assert main(["shape", "--model", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "the embedding's rank 256 caps the width" in err
    assert json.loads(out)["optimum"]["width"] == 256


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "give either --params"),
        (["--params", "1e8", "--model", "x"], "give either --params"),
        (["--params", "10"], "params is '10'; it must be a number from 100000"),
        (["--params", "1e8", "--device", "H1000"], "device is 'H1000'; it must be one of A100-40G"),
        (["--params", "1e8", "--context", "1"], "context is '1'"),
        (["--params", "1e13", "--device", "L4"], "need more than"),
        (["--params", "1e8", "--save-plot", "x.gif"], "its name must end in .png, .svg or .pdf"),
        (["--model", "nowhere"], "model is 'nowhere'; it must be one of gpt-j-6b"),
        (["--model", "x", "--head-size", "64"], "--head-size is for --params"),
    ],
)
def test_what_is_wrong_is_one_sentence(flags: list[str], words: str, capsys: Any) -> None:
    assert main(["shape", *flags]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
