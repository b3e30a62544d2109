"""`presize optim report`: figures as JSON, a picture, and sentences for what can not be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from presize.cli.main import main

SCRIPT = """
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4))
batches = (torch.randn(3, 8) for _ in range(10))
def loss(model, batch):
    return (model(batch) - batch[:, :4]).square().mean()
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(SCRIPT)
    return str(path)


def test_a_script_is_reported_on_and_drawn(script: str, tmp_path: Path, capsys: Any) -> None:
    picture = tmp_path / "report.png"
    flags = ["--samples", "8", "--rows", "4", "--heads", "2", "--rank", "1", "--rank", "2", "--save-plot", str(picture)]
    assert main(["optim", "report", script, *flags]) == 0
    out, err = capsys.readouterr()
    layers = json.loads(out)["layers"]
    assert [layer["name"] for layer in layers] == ["0", "2"]
    assert layers[0]["errors"]["blocks by row"]["blocks"] == 0
    assert 0 < layers[0]["errors"]["shared basis by head, rank 2"]["full"] <= 1
    assert "the whole matrix" in err
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--samples", "11"], "samples is 11; there are only 10 batches"),
        (["--rows", "6", "--heads", "4"], "heads is 4; it must divide rows, which is 6"),
        (["--rank", "0"], "rank is 0"),
        (["--text", "some.txt"], "--text goes with a model"),
        (["--save-plot", "nowhere/x.png"], "there is no directory"),
    ],
)
def test_what_can_not_be_is_one_sentence(script: str, flags: list[str], words: str, capsys: Any) -> None:
    assert main(["optim", "report", script, *flags]) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert out == ""


def test_targets_that_are_not_there_are_named(tmp_path: Path, capsys: Any) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("model = 3\n")
    for target, words in (
        (str(tmp_path / "none.py"), "there is no file"),
        (str(empty), "does not define batches, loss"),
        (str(tmp_path), "--text is missing"),
    ):
        assert main(["optim", "report", target]) == 2
        assert words in capsys.readouterr().err
