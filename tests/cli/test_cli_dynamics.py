"""`presize dynamics`: tables, pictures, animations, a log that is watched, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from presize.cli.main import main
from presize.theory.scan_snap.probe_log import Row


def test_syn_small_with_a_picture_and_an_animation(capsys: Any, tmp_path: Path) -> None:
    plot, gif = tmp_path / "small.png", tmp_path / "small.gif"
    flags = ["--eta-ratio", "10", "--steps", "15", "--save-plot", str(plot), "--save-gif", str(gif)]
    assert main(["dynamics", "syn-small", *flags]) == 0
    out, err = capsys.readouterr()
    figures = json.loads(out)
    assert figures["experiment"] == "syn-small"
    assert figures["steps"] == list(range(16))
    assert figures["loss"][0] == pytest.approx(np.log(34))
    assert np.sum(figures["attention"], axis=-1) == pytest.approx([1.0, 1.0])
    assert "on common tokens" in err
    assert np.asarray(Image.open(plot).convert("L")).std() > 10
    with Image.open(gif) as animation:
        frames = animation.n_frames
        assert 5 <= frames <= 16  # frames that do not differ are one
        first = np.asarray(animation.convert("L")).astype(int)
        animation.seek(frames - 1)
        assert np.abs(np.asarray(animation.convert("L")) - first).max() > 50  # something has moved


def test_syn_medium_in_part(capsys: Any, tmp_path: Path) -> None:
    plot = tmp_path / "medium.svg"
    flags = ["--classes", "2", "--eta-z", "1", "--eta-ratio", "1", "--eta-ratio", "10", "--seeds", "2"]
    assert main(["dynamics", "syn-medium", *flags, "--save-plot", str(plot)]) == 0
    out, err = capsys.readouterr()
    cells = json.loads(out)["cells"]
    assert [(c["classes"], c["eta_z"], c["eta_ratio"]) for c in cells] == [(2, 1, 1), (2, 1, 10)]
    assert cells[0]["entropy"] < cells[1]["entropy"]
    assert "ratio 10" in err
    assert plot.read_bytes().startswith(b"<?xml")


def test_wikitext_learns_a_text(capsys: Any, tmp_path: Path) -> None:
    text, plot, gif = tmp_path / "text.txt", tmp_path / "maps.png", tmp_path / "maps.gif"
    words = np.random.default_rng(0).choice(["the", "cat", "sat", ",", "on", "mat"], 16_000)
    text.write_text(" ".join(words))
    flags = [
        "--steps",
        "4",
        "--layers",
        "2",
        "--vocabulary",
        "10",
        "--rate",
        "0.5",
        "--save-plot",
        str(plot),
        "--save-gif",
        str(gif),
    ]
    assert main(["dynamics", "wikitext", "--text", str(text), *flags]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["steps"] == [0, 1, 2, 3, 4]
    assert figures["loss"][-1] < figures["loss"][0]
    assert np.shape(figures["entropy"]) == (5, 2)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert gif.read_bytes().startswith(b"GIF")


def test_a_log_that_is_watched(capsys: Any, tmp_path: Path) -> None:
    log, plot = tmp_path / "log.jsonl", tmp_path / "watch.png"
    lines = [
        Row(
            step,
            {
                "layers.0[/b]": {
                    "evenness": [0.9 - min(step, 100) / 200] * 2,
                    "sparsity": [0.1, 0.3],
                    "frequent": [0.5, 0.7],
                },
                "second": {"evenness": [0.7], "sparsity": None, "frequent": None, "distinct": None},
            },
        ).line()
        for step in range(0, 400, 10)
    ]
    log.write_text("".join(lines))
    assert main(["dynamics", "watch", str(log), "--save-plot", str(plot)]) == 0
    out, err = capsys.readouterr()
    layers = json.loads(out)["layers"]
    assert layers["layers.0[/b]"]["evenness"] == pytest.approx([0.9, 0.4])
    assert layers["layers.0[/b]"]["frequent"] == [pytest.approx(0.6)] * 2
    assert 80 <= layers["layers.0[/b]"]["scanning_ended"] <= 140
    assert layers["second"]["scanning_ended"] is None
    assert layers["second"]["distinct"] == [None, None]
    assert "layers.0[/b]" in err
    assert "not yet" in err
    assert plot.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["syn-small", "--eta-ratio", "0"], "eta_ratio is '0'; it must be a number from 0.001"),
        (["syn-small", "--optimizer", "adan"], "it must be one of sgd, adam; did you mean adam?"),
        (["syn-small", "--save-gif", "x.png"], "save_gif is 'x.png'; its name must end in .gif"),
        (["syn-small", "--save-plot", "x.gif"], "save_plot is 'x.gif'; its name must end in .png, .svg or .pdf"),
        (["syn-medium", "--classes", "3"], "classes is 3; it must be one of 2, 6, 10, 20"),
        (["syn-medium", "--classes", "2", "--eta-z", "0"], "eta_z is 0.0; it must be in (0, "),
        (["wikitext"], "give the text to learn: --text FILE"),
        (["wikitext", "--text", "nowhere.txt"], "nowhere.txt can not be read: No such file"),
        (["watch", "nowhere.jsonl"], "nowhere.jsonl can not be read: No such file"),
    ],
)
def test_what_is_wrong_is_one_sentence(flags: list[str], words: str, capsys: Any) -> None:
    assert main(["dynamics", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err


def test_texts_that_can_not_be_learned(tmp_path: Path, capsys: Any) -> None:
    for name, content, words in (
        ("a.txt", b"a few words", "the text has 3 words; at least 14,000 are needed"),
        ("b.gz", b"no gzip", "can not be read"),
        ("c.txt", b"\xff\xfe", "is not text in UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        assert main(["dynamics", "wikitext", "--text", str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err


SCRIPT = """
import sys
import torch
from torch import nn

torch.manual_seed(0)
net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
loss = nn.MSELoss()
x = torch.randn(4, 6, 8)
for _ in range(int(sys.argv[1])):
    loss(net(x), x).backward()
"""


def test_a_script_is_run_with_a_probe(capsys: Any, tmp_path: Path) -> None:
    script, log = tmp_path / "train.py", tmp_path / "a.jsonl"
    script.write_text(SCRIPT)
    flags = ["--script-args", "8", "--log", str(log), "--every", "3"]
    assert main(["dynamics", "watch", str(script), *flags]) == 0
    out, err = capsys.readouterr()
    figures = json.loads(out)
    assert (figures["looks"], figures["steps"]) == (3, [0, 6])
    assert list(figures["layers"]) == ["self_attn"]
    assert "self_attn" in err
    assert main(["dynamics", "watch", str(log)]) == 0
    assert json.loads(capsys.readouterr().out) == figures
    assert main(["dynamics", "watch", str(script), *flags]) == 2
    assert "which is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1 / 0", "train.py failed: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "train.py ended with status 3"),
        ("x = 1", "called no model with parameters in training mode"),
        ("import torch\nnet = torch.nn.Linear(2, 2)\nfor _ in range(3): net(torch.ones(1, 2))", "saw no attention"),
    ],
)
def test_a_script_that_can_not_be_watched_is_one_sentence(text: str, words: str, tmp_path: Path, capsys: Any) -> None:
    script = tmp_path / "train.py"
    script.write_text(text)
    assert main(["dynamics", "watch", str(script)]) in (1, 2)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err
    assert main(["dynamics", "watch", str(tmp_path / "log.jsonl"), "--every", "3"]) in (1, 2)
    assert "every is for a script" in capsys.readouterr().err
