"""`presize explain`: a forecast, a table or colours, one JSON object, and no traceback."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from presize.cli.explain import headline, picture, show
from presize.cli.main import main
from presize.core.lengths import GRID, LengthDistribution
from presize.engine.tokenizer import Tokenizer
from presize.predict.attention import PLACES, Attention
from presize.predict.calibration import Calibration
from presize.predict.explain import Explanation, Word
from presize.predict.features import Features
from presize.predict.linear import RESIDUALS, Linear
from presize.predict.store import Header, save

PROMPT = "the story about a hat"
TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
Run = Callable[..., tuple[int, str, dict[str, Any]]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's directory, as far as its tokenizer."""
    directory = tmp_path_factory.mktemp("model")
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>", "<|user|>", "<|assistant|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    inner.train_from_iterator(["the story about a hat and a cat", "a story story story"] * 4, trainer)
    PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=TEMPLATE).save_pretrained(directory)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").touch()
    return directory


def linear(tokenizer: Tokenizer) -> Linear:
    """ " story" is long, " hat" is short."""
    weights = {tokenizer.encode(" story")[0]: 2.0, tokenizer.encode(" hat")[0]: -1.0}
    spread = np.clip(0.5 - RESIDUALS, 0.0, 1.0)
    keys = sorted(weights)
    return Linear({
        "keys": np.array(keys), "rarity": np.ones(2), "weights": np.array([weights[key] for key in keys]),
        "side": np.zeros(4), "intercept": np.array([4.0]), "centres": np.array([0.0, 9.0]),
        "residuals": np.stack([spread, spread]),
    })  # fmt: skip


def attention(tokenizer: Tokenizer) -> Attention:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "tokens": (301, 4), "pairs": (16, 4), "places": (2, PLACES, 4), "project": (4, 12), "output": (4, 4),
        "queries": (2, 4), "hidden": (12, 5), "hidden_bias": (5,), "decode": (5, 50), "decode_bias": (50,),
    }  # fmt: skip
    weights = {name: rng.normal(0, 0.7, size) for name, size in shapes.items()}
    return Attention({"vocabulary": np.arange(300), **weights})


@pytest.fixture(scope="module", params=["linear", "attention"])
def predictor(request: pytest.FixtureRequest, served: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("predictor") / request.param
    tokenizer = Tokenizer(served)
    features = Features((1,), (0, 2), (2.0, float(np.log(300)), 0.0, 0.0), (0.0,) * 4)
    model = {"linear": linear, "attention": attention}[request.param](tokenizer)
    header = Header(
        kind=request.param, model=str(served), tokenizer=tokenizer.fingerprint(), features=features,
        calibration=Calibration(),
    )  # fmt: skip
    save(directory, header, model)
    return directory


@pytest.fixture
def explained(predictor: Path, capsys: Any) -> Run:
    """``explained(prompt, *flags)`` is the status, what is shown, and the object of the last line."""

    def run(prompt: str, *flags: str) -> tuple[int, str, dict[str, Any]]:
        status = main(["explain", str(predictor), prompt, *flags])
        captured = capsys.readouterr()
        assert captured.err == ""
        shown, _, last = captured.out.rstrip("\n").rpartition("\n")
        return status, shown, json.loads(last)

    return run


def test_the_forecast_the_words_and_one_object(explained: Run, predictor: Path) -> None:
    status, shown, found = explained(PROMPT)
    assert status == 0
    first, _, *table = shown.splitlines()
    numbers = [int(n) for n in re.findall(r"(\d+)(?! %)\b", re.sub(r"\d+ %", "", first))]
    assert numbers[0] == found["median"]
    assert numbers[3:5] == [found["low_90"], found["high_90"]]
    assert found["low_90"] <= numbers[1] <= found["median"] <= numbers[2] <= found["high_90"] <= 300
    assert list(found) == ["median", "low_90", "high_90", "words"]
    assert [word["word"] for word in found["words"]] == PROMPT.split()
    rows = [line.split() for line in table if line.strip()]
    assert [row[0] for row in rows][2:] == PROMPT.split()
    assert ("attention" in rows[0]) == (predictor.name == "attention")
    assert "\x1b" not in shown
    if predictor.name == "attention":
        assert sum(word["attention"] for word in found["words"]) == pytest.approx(1.0, abs=1e-3)
    else:
        effects = {word["word"]: word["effect_tokens"] for word in found["words"]}
        assert all(word["attention"] is None for word in found["words"])
        assert effects["story"] == max(effects.values()) > 5
        assert effects["hat"] == min(effects.values()) < -5
        assert next(row for row in rows if row[0] == "story")[1].startswith("+")
        assert next(row for row in rows if row[0] == "hat")[1].startswith("-")


@pytest.mark.parametrize(
    "prompt", ["🙂", "👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿", "one\n\n\ttwo\r\nthree", "\x1b[31mred \x07", "--not a flag", "[bold]x[/] :smile:"]
)
def test_prompts_of_all_kinds(explained: Run, prompt: str) -> None:
    status, shown, found = explained(prompt)
    assert status == 0
    assert [word["word"] for word in found["words"]] == prompt.split()
    assert "\x1b" not in shown
    assert "\x07" not in shown
    if "[" in prompt and "\x1b" not in prompt:
        assert all(word in shown for word in prompt.split())


def test_the_options_reach_the_forecast(explained: Run) -> None:
    assert explained(PROMPT, "--max-tokens", "4", "--temperature", "1")[2]["high_90"] <= 4
    raw, chat = explained(PROMPT, "--raw")[2], explained(PROMPT)[2]
    assert raw["words"] == chat["words"]  # the template's tokens are left out, so the model sees the same


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input_is_a_prompt_without_its_last_line_end(explained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = explained(PROMPT)[2]
    stdin(monkeypatch, PROMPT.encode() + b"\n")
    assert explained("-")[2] == expected
    stdin(monkeypatch, PROMPT.encode() + b"\r\n")
    assert explained("-")[2] == expected


def test_a_megabyte_on_standard_input(explained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, b"the story about a hat, " * 45_000)
    status, shown, found = explained("-")
    assert status == 0
    assert len(found["words"]) == 200
    assert "224,800 words in the middle left out: the first 100 and last 100 are explained." in shown


@pytest.mark.parametrize(
    ("prompt", "status", "words"),
    [
        ("", 2, "the prompt is empty"),
        (" \n ", 2, "the prompt is empty"),
        ("caf\udce9", 2, "not text in UTF-8"),
        ("x --max-tokens 0", 2, "max_tokens is '0'; it must be a whole number from 1 to 1048576"),
        ("x --temperature nan", 2, "temperature is 'nan'; it must be a number from 0 to 100"),
        ("x --model /nowhere", 1, "'/nowhere' is no model"),
    ],
)
def test_errors_are_one_sentence(predictor: Path, prompt: str, status: int, words: str, capsys: Any) -> None:
    arguments = prompt.split(" ") if "--" in prompt else [prompt]
    assert main(["explain", str(predictor), *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_errors_of_what_is_there(
    predictor: Path, served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert main(["explain", str(tmp_path), "x"]) == 1
    assert "holds no predictor" in capsys.readouterr().err
    stdin(monkeypatch, b"\xff\xfe")
    assert main(["explain", str(predictor), "-"]) == 2
    assert "not text in UTF-8" in capsys.readouterr().err
    monkeypatch.setattr("presize.cli.explain._MAX_BYTES", 9)
    stdin(monkeypatch, b"0123456789")
    assert main(["explain", str(predictor), "-"]) == 2
    assert "more than 9 bytes" in capsys.readouterr().err
    plain = tmp_path / "no template"
    Inner.from_file(str(served / "tokenizer.json")).save(str(tmp_path / "tokenizer.json"))
    PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json")).save_pretrained(plain)
    (plain / "config.json").write_text("{}")
    (plain / "model.safetensors").touch()
    assert main(["explain", str(predictor), "x", "--model", str(plain)]) == 1
    assert "no chat template" in (error := capsys.readouterr().err)
    assert "--raw" in error
    assert main(["explain", str(predictor), "x", "--model", str(plain), "--raw"]) == 0


CURVE = LengthDistribution.from_survival(np.exp(-GRID / 100.0), 400)
FOUND = Explanation(CURVE, (Word("up", "", 0.5, 9.0), Word("down", "\n\n", 0.3, -9.0), Word("flat", " ", 0.2, 0.01)), 0)


def on(found: Explanation, **options: Any) -> str:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, color_system="truecolor", width=80, **options)
    show(console, found)
    return shown.getvalue()


def test_on_a_terminal_orange_is_longer_and_blue_is_shorter() -> None:
    text = on(FOUND)
    assert "\x1b[1;38;2;255;90;0mup" in text
    assert "\n\n\x1b[1;38;2;40;120;255mdown" in text
    assert "\x1b[38;2;150;150;150mflat" in text


def test_without_colour_there_is_no_colour() -> None:
    assert "\x1b[38" not in on(FOUND, no_color=True)
    assert "38;2" not in on(FOUND, no_color=True)


def test_on_a_terminal_the_table_has_the_largest_effects() -> None:
    words = tuple(Word(f"w{i}", " ", None, float(i)) for i in range(60))
    text = on(Explanation(CURVE, words, 3))
    assert "3 words in the middle left out: the first 30 and last 30 are explained." in text
    assert "[...] " in text
    assert text.count("+59.0") == text.count("+40.0") == 1
    assert "+39.0" not in text


def test_the_headline_and_the_picture() -> None:
    assert headline(CURVE) == (
        "Forecast: median 70 tokens; 50 % of answers have 29 to 139, 90 % have 6 to 301; 2 % are cut off at 400."
    )
    assert headline(LengthDistribution.exactly(1)).startswith("Forecast: median 1 token; 50 %")
    low, bars, high, *_ = picture(CURVE).split()
    assert (low, high) == ("2", "400")
    assert "█" in bars
