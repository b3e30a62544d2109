"""Named models against their published sizes; files that describe models and devices, good and bad."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from presize.errors import ConfigError, ModelError
from presize.simulate.device import DEVICES, Device, device_of, save_device
from presize.simulate.models import MODELS, model_shape

# billions, from each model's own paper or card
PUBLISHED = {
    "gpt-j-6b": 6.05, "gpt-neox-20b": 20.6, "llama-7b": 6.74, "llama-13b": 13.0, "llama-33b": 32.5, "opt-30b": 30.0,
    "gpt-3-175b": 175, "llama-3-8b": 8.03, "llama-3.1-8b": 8.03, "SmolLM2-135M-Instruct": 0.1345,
}  # fmt: skip
CONFIG = {
    "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize("name", list(MODELS))
def test_parameters_are_the_published_ones(name: str) -> None:
    assert MODELS[name].parameters == pytest.approx(1e9 * PUBLISHED[name], rel=0.005)


def write(folder: Path, content: Any, name: str = "config.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_hugging_face_config_gives_the_same_shape(tmp_path: Path) -> None:
    write(tmp_path, CONFIG)
    read, known = asdict(model_shape(str(tmp_path))), asdict(MODELS["llama-3-8b"])
    assert {k: v for k, v in read.items() if k != "name"} == {k: v for k, v in known.items() if k != "name"}


def test_gpt_j_has_other_names(tmp_path: Path) -> None:
    config = {
        "model_type": "gptj", "n_layer": 28, "n_embd": 4096, "n_head": 16, "n_positions": 2048, "vocab_size": 50400,
        "n_inner": None,
    }  # fmt: skip
    assert model_shape(str(write(tmp_path, config))).parameters == MODELS["gpt-j-6b"].parameters


def test_transformers_itself_counts_the_same(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OPTConfig

    for made in (
        GPT2Config(n_embd=32, n_layer=3, n_head=2, vocab_size=64),
        LlamaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    intermediate_size=48, vocab_size=64),
        OPTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=80, vocab_size=64,
                  word_embed_proj_dim=32),
    ):  # fmt: skip
        made.save_pretrained(tmp_path)
        model = AutoModelForCausalLM.from_config(made)
        weights = [p for n, p in model.named_parameters() if p.dim() == 2 and not n.endswith(_EMBEDDINGS)]
        shape = model_shape(str(tmp_path))
        assert shape.layers * shape.layer_parameters == sum(p.numel() for p in weights)


_EMBEDDINGS = ("wte.weight", "wpe.weight", "embed_tokens.weight", "embed_positions.weight", "lm_head.weight")


def test_the_text_part_of_a_model_that_also_sees(tmp_path: Path) -> None:
    write(tmp_path, {"model_type": "llava", "text_config": CONFIG})
    assert model_shape(str(tmp_path)).parameters == MODELS["llama-3-8b"].parameters


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "can not read"),
        ("[]", "not a JSON object"),
        ({**CONFIG, "num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({**CONFIG, "hidden_size": 2**40}, "hidden_size is 1099511627776"),
        ({**CONFIG, "num_key_value_heads": 64}, "num_key_value_heads is 64"),
        ({"model_type": "llama"}, "num_hidden_layers is None"),
    ],
)
def test_a_bad_config_is_told(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        model_shape(str(write(tmp_path, content)))


def test_an_unknown_model_or_device_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"model is 'gpt-9'; it must be one of gpt-j-6b.*config\.json"):
        model_shape("gpt-9")
    with pytest.raises(ConfigError, match=r"device is 'H900'; it must be one of A100-40G, A100-80G.*presize calibrate"):
        device_of("H900")


@pytest.mark.parametrize("name", list(DEVICES))
def test_every_device_says_where_its_numbers_are_from_and_can_be_kept(name: str, tmp_path: Path) -> None:
    device = DEVICES[name]
    assert len(device.source) > 20
    save_device(tmp_path / "d.json", device, {"steps": 3})
    assert device_of(str(tmp_path / "d.json")) == device
    assert [path.name for path in tmp_path.iterdir()] == ["d.json"]


GOOD = asdict(DEVICES["l4"])
NUMBERS = [f.name for f in fields(Device) if f.name not in ("name", "source")]


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", [-1.0, float("nan"), 1e30, "1", True, None])
def test_every_number_of_a_device_file_has_bounds(field: str, value: Any, tmp_path: Path) -> None:
    path = write(tmp_path, {"device": {**GOOD, field: None if value != value else value}}, "d.json")
    with pytest.raises(ConfigError, match=field):
        device_of(str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "can not be read"),
        ("[]", "no object `device`"),
        ({"device": 3}, "no object `device`"),
        ({"device": {**GOOD, "speed": 1}}, "unknown field 'speed'"),
        ({"device": {k: v for k, v in GOOD.items() if k != "flops"}}, "flops"),
        ({"device": {**GOOD, "name": 3}}, "name"),
    ],
)
def test_a_bad_device_file_is_told(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        device_of(str(write(tmp_path, content, "d.json")))


def test_what_can_not_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can not be written"):
        save_device(tmp_path / "no" / "d.json", DEVICES["l4"], {})
