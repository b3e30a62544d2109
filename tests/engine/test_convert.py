"""Conversion of .gguf files, by transformers itself."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from presize.engine import convert
from presize.errors import ModelError


def write_tiny_gguf(path: Path, pre: str):
    """A llama of one layer with Q8_0 weights; returns the values that ffn_down holds."""
    import gguf
    import numpy as np
    from tokenizers import pre_tokenizers

    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "\u010a\u010a", "<|end|>"]
    hidden, inner, rng = 32, 64, np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges(["\u010a \u010a"])
    writer.add_eos_token_id(len(tokens) - 1)
    shapes = {
        "token_embd": (len(tokens), hidden),
        "blk.0.attn_q": (hidden, hidden),
        "blk.0.attn_k": (16, hidden),
        "blk.0.attn_v": (16, hidden),
        "blk.0.attn_output": (hidden, hidden),
        "blk.0.ffn_gate": (inner, hidden),
        "blk.0.ffn_up": (inner, hidden),
        "blk.0.ffn_down": (hidden, inner),
    }
    for name, shape in shapes.items():
        blocks = gguf.quants.quantize(rng.normal(size=shape).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)


def test_conversion_keeps_every_value_and_splits_digits_first(tmp_path, capfd):
    import numpy as np
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer
    from transformers.utils import logging

    source, target = tmp_path / "tiny.gguf", tmp_path / "out"
    values = write_tiny_gguf(source, "smollm")
    before, stages = (logging.get_verbosity(), logging.is_progress_bar_enabled()), []
    capfd.readouterr()
    convert.convert_gguf(source, target, lambda stage, done, total: stages.append(stage))
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert stages == ["converting"]
    weights = load_file(target / "model.safetensors")
    np.testing.assert_array_equal(weights["model.layers.0.mlp.down_proj.weight"], values)
    assert {w.dtype for w in weights.values()} == {np.dtype(np.float32)}
    config = json.loads((target / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in weights
    assert "quantization_config" not in config
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    assert tokenizer.encode("\n\n1<|end|>").tokens == ["\u010a\u010a", "1", "<|end|>"]
    assert tokenizer.decode(tokenizer.encode("\n\n1 x").ids) == "\n\n1 x"
    assert len({file.stat().st_mode for file in target.iterdir()}) == 1


def test_too_little_disk_for_float32_is_said_before_anything_is_written(tmp_path, monkeypatch):
    write_tiny_gguf(tmp_path / "tiny.gguf", "default")
    free = namedtuple("usage", "free")(1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(ModelError, match=r"needs .* GB of disk and .*PRESIZE_CACHE"):
        convert.convert_gguf(tmp_path / "tiny.gguf", tmp_path / "out", lambda *_: None)
    assert not (tmp_path / "out").exists()


def test_what_is_no_gguf_is_refused_by_name(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"not a model" * 100)
    with pytest.raises(ModelError, match=r"x\.gguf is not a GGUF file or is damaged"):
        convert.convert_gguf(tmp_path / "x.gguf", tmp_path / "out", lambda *_: None)


def test_an_architecture_that_transformers_does_not_read_is_refused_by_name(tmp_path):
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "unheard-of")
    writer.add_tensor("x.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"x\.gguf can not be converted: \w+: .") as caught:
        convert.convert_gguf(tmp_path / "x.gguf", tmp_path / "out", lambda *_: None)
    assert "\n" not in str(caught.value)
