"""Checkpoints that are damaged, incomplete, cut in pieces or of another kind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from presize.config import EngineOptions
from presize.engine.engine import Engine
from presize.engine.model_config import read_config
from presize.engine.sampling_params import SamplingParams
from presize.errors import ConfigError, ModelError, PresizeError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return tiny.save(tiny.make_model("llama"), tmp_path / "model")


def load(directory: Path, **options: Any) -> Engine:
    values = {"model": str(directory), "dtype": "float32", "device": "cpu", "threads": 1, "kv_tokens": 256, **options}
    return Engine.load(EngineOptions(**values))


def refused(directory: Path, match: str, error: type[PresizeError] = ModelError, **options: Any) -> None:
    """Loading raises ``error``, and its text is one line."""
    with pytest.raises(error, match=match) as caught:
        load(directory, **options)
    assert "\n" not in str(caught.value)


def change_weights(directory: Path, **changes: Any) -> None:
    """Replace tensors by name, dots written as double underscores; None removes one."""
    file = directory / "model.safetensors"
    tensors = load_file(file) | {name.replace("__", "."): value for name, value in changes.items()}
    save_file({name: value for name, value in tensors.items() if value is not None}, file)


def change_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def answer(engine: Engine, ids: list[int]) -> list[int]:
    engine.add_request("x", ids, SamplingParams(temperature=0, max_tokens=12, ignore_eos=True))
    while not (outputs := engine.step()):
        pass
    return outputs[0].outputs[0].token_ids


@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "model.layers.1.self_attn.k_proj.weight", "model.norm.weight", "lm_head.weight"],
)
def test_a_missing_tensor_and_one_of_another_shape_are_named(directory, name):
    key = name.replace(".", "__")
    wide = (7, *load_file(directory / "model.safetensors")[name].shape)
    change_weights(directory, **{key: torch.zeros(wide)})
    refused(directory, rf"'{name}' is \({wide[0]}, {wide[1]},?.*config\.json asks for")
    change_weights(directory, **{key: None})
    refused(directory, f"no tensor '{name}'")


def test_a_bias_that_the_configuration_promises_must_be_there(directory):
    change_config(directory, attention_bias=True)
    refused(directory, r"no tensor 'model\.layers\.0\.self_attn\.q_proj\.bias'")


@pytest.mark.parametrize("kept", [0, 5, 200, 0.5, -1])
def test_a_truncated_file_is_refused(directory, kept):
    file = directory / "model.safetensors"
    size = file.stat().st_size
    os.truncate(file, kept if kept in (0, 5, 200) else int(size * kept) if kept > 0 else size - 1)
    refused(directory, "can not read the weights in")


def test_files_that_are_missing_or_no_json_are_refused(directory):
    (directory / "model.safetensors").unlink()
    refused(directory, "no weights")
    for text in ("", "{", "[1]", '{"weight_map": 5}', '{"weight_map": {"a": "absent.safetensors"}}', "{}", "\x00"):
        (directory / "model.safetensors.index.json").write_text(text)
        refused(directory, "weights|index")
    (directory / "config.json").write_text("{")
    refused(directory, r"config\.json")


def test_a_checkpoint_in_several_files_gives_the_same_tokens(directory, tmp_path):
    model = tiny.make_model("llama")
    parts = tiny.save(model, tmp_path / "parts", max_shard_size="60KB")
    files = sorted(parts.glob("*.safetensors"))
    assert len(files) > 2
    assert answer(load(parts), [5, 6, 7]) == answer(load(directory), [5, 6, 7])
    files[1].unlink()
    refused(parts, "can not read the weights in")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "gpt2"}, "'gpt2' is not supported; .*llama"),
        ({"model_type": "unheard-of"}, r"config\.json"),
        ({"model_type": None}, r"config\.json"),
        ({"hidden_act": "gelu"}, "'gelu' is not supported"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic' is not supported"),
        ({"rope_parameters": {"rope_type": "nonsense", "rope_theta": 1e4}}, "rotary|rope"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_key_value_heads": 1}, r"k_proj\.weight' is \(32, 64\); config\.json asks for \(16, 64\)"),
        ({"num_attention_heads": 0}, r"config\.json"),
        ({"num_hidden_layers": 3}, "no tensor 'model.layers.2"),
        ({"vocab_size": 301}, r"asks for \(301, 64\)"),
    ],
    ids=lambda value: str(next(iter(value.items()))) if isinstance(value, dict) else "",
)
def test_a_configuration_that_can_not_be_run_is_refused_in_a_sentence(directory, changes, match):
    change_config(directory, **changes)
    refused(directory, match)


def test_query_heads_that_do_not_share_key_heads_evenly_are_refused(directory):
    tiny.save(tiny.make_model("llama", num_key_value_heads=3), directory)
    refused(directory, "heads")


def test_quantised_weights_are_refused_instead_of_read_without_their_scales(directory):
    file = directory / "model.safetensors"
    tensors = load_file(file)
    for name in [n for n in tensors if n.endswith("_proj.weight")]:
        scale = tensors[name].abs().max() / 448
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale.reshape(1, 1)
    save_file(tensors, file)
    change_config(directory, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    refused(directory, "quanti")


@pytest.mark.parametrize("broken", ["{", "[]", '{"version": "1.0"}', None])
def test_a_tokenizer_that_can_not_be_loaded_is_refused(directory, broken):
    file = directory / "tokenizer.json"
    file.unlink() if broken is None else file.write_text(broken)
    refused(directory, "tokenizer")


def test_text_whose_tokens_the_model_does_not_have_is_refused_alone(directory):
    model = tiny.make_model("llama", vocab_size=200)
    tiny.save(model, directory)
    assert max(tiny.tokenizer()("the")["input_ids"]) >= 200
    engine = load(directory)
    with pytest.raises(PresizeError, match="199"):
        engine.add_request("bad", "the", SamplingParams())
    assert answer(engine, [5, 6, 7])


def test_options_that_do_not_fit_the_model_are_refused(directory):
    refused(directory, "max_model_len is 513.*512", ConfigError, max_model_len=513)
    refused(directory, "GiB", ConfigError, kv_tokens=2**31, dtype="bfloat16")
    refused(directory, "max_num_batched_tokens", ConfigError, max_num_batched_tokens=100, max_num_seqs=101)
    if not torch.cuda.is_available():
        refused(directory, "--device cpu", ConfigError, device="cuda")


def test_the_end_of_a_text_is_read_from_the_generation_config_first(directory):
    change_config(directory, eos_token_id=7)
    assert read_config(directory).eos_token_ids == (0,)
    file = directory / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert read_config(directory).eos_token_ids == (5, 6)
    file.unlink()
    assert read_config(directory).eos_token_ids == (7,)
