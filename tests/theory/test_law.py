"""The empirical law against the paper's table; shapes from configurations; what a shape costs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.errors import ConfigError, ModelError
from presize.theory.depth_width.law import (
    judge,
    optimal_shape,
    optimum,
    shape_of,
    transition_parameters,
    transition_width,
)
from presize.theory.depth_width.serving import Device, candidates, costs, frontier
from presize.theory.depth_width.shapes import Shape, read_shape

# bytes, bytes/s, FLOP/s of bfloat16, by NVIDIA's data sheets
A100, L4 = Device(80e9, 2.039e12, 312e12), Device(24e9, 0.3e12, 121e12)

# trained depth, width; projected depth, width: the paper's table, five rows
TABLE = [
    (12, 768, 23, 555, "too shallow"),
    (24, 2048, 42, 1550, "too shallow"),
    (40, 5140, 60, 4200, "too shallow"),
    (96, 12288, 80, 13500, "too deep"),
]


@pytest.mark.parametrize(("depth", "width", "best_depth", "best_width", "verdict"), TABLE)
def test_the_papers_table(depth: int, width: int, best_depth: int, best_width: int, verdict: str) -> None:
    found = judge(depth, width)
    assert abs(found.best.depth - best_depth) <= found.best.depth_error
    low, high = found.best.width_range
    assert 0.99 * low <= best_width <= 1.01 * high
    assert found.verdict == verdict


def test_a_trillion_parameters() -> None:
    best = optimum(12 * 95 * 30_100**2)
    assert abs(best.depth - 95) <= best.depth_error
    assert best.width == pytest.approx(30_100, rel=0.01)


@pytest.mark.parametrize(
    ("depth", "width", "parameters"),
    [(4, 193, 1.8e6), (6, 215, 3.3e6), (12, 300, 1.30e7), (24, 585, 9.8e7), (36, 1138, 5.6e8), (48, 2215, 2.8e9),
     (80, 13082, 1.6e11), (95, 30077, 1.03e12)],
)  # fmt: skip
def test_values_of_the_law(depth: int, width: int, parameters: float) -> None:
    assert transition_width(depth) == pytest.approx(width, rel=5e-3)
    assert transition_parameters(depth) == pytest.approx(parameters, rel=0.03)


@given(st.floats(1e5, 1e14))
def test_the_optimum_solves_the_law(parameters: float) -> None:
    best = optimum(parameters)
    assert 12 * best.depth * best.width**2 == pytest.approx(parameters, rel=1e-9)
    assert math.log(best.width) == pytest.approx(5.039 + 0.0555 * best.depth, abs=1e-6)


def test_errors_of_depth_are_those_of_drawing_the_constants() -> None:
    """0.6, 0.9, 1.3, 1.8 and 2.1 layers at the sizes of the table."""
    errors = [optimum(12 * depth * width**2).depth_error for depth, width, *_ in TABLE]
    assert errors == pytest.approx([0.6, 0.9, 1.3, 1.8], abs=0.06)


def test_what_is_extrapolated_says_so() -> None:
    assert optimum(1e8).notes == ()
    assert [note.split(":")[0] for note in optimum(1e12).notes] == ["extrapolated", "extrapolated"]
    assert "6e+08" in optimum(1.3e9).notes[0]


def test_a_small_embedding_caps_the_width() -> None:
    free, capped = optimum(1e8), optimum(1e8, embedding_rank=200)
    assert (free.width > 200, capped.width) == (True, 200)
    assert 12 * capped.depth * 200**2 == pytest.approx(1e8)
    assert "caps the width" in capped.notes[0]
    assert optimum(1e8, embedding_rank=50_000) == free


@given(st.floats(1e6, 1e12))
def test_the_rounded_shape_is_whole_heads_near_the_size(parameters: float) -> None:
    shape = optimal_shape(parameters)
    assert shape.heads * shape.head_size == shape.width
    assert shape.depth == round(optimum(parameters).depth) or shape.depth == 1
    assert shape.law_parameters == pytest.approx(parameters, rel=0.35)
    assert shape.parameters == shape.law_parameters


def test_near_the_law_is_balanced() -> None:
    assert judge(76, 13824).verdict == "balanced"  # Jurassic-1
    assert judge(80, 13056).verdict == "balanced"
    assert judge(32, 4096).verdict == "too shallow"  # Llama-2 7B
    assert judge(24, 600).kv_ratio == pytest.approx(math.sqrt(24 / judge(24, 600).best.depth))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: judge(0, 4), "depth is 0"),
        (lambda: judge(1, 2), "48 parameters; the law can be asked about 1e"),
        (lambda: optimum(0), r"parameters is 0; it must be in \[100000, 1e\+14\]"),
        (lambda: optimum(math.nan), "parameters is nan"),
        (lambda: optimum(1e8, 0), "embedding_rank is 0"),
        (lambda: shape_of(1e8, 0), "depth is 0"),
        (lambda: shape_of(1e8, 5, 0), "head_size is 0"),
        (lambda: transition_width(0), "depth is 0"),
        (lambda: Shape.classic(2, 5, 2), "does not divide"),
        (lambda: costs(Shape.classic(2, 4, 2), L4, 0, 0), "context is 0"),
        (lambda: costs(Shape.classic(1000, 2**18, 2), L4, 2**20, 0), "more than 4096 devices"),
    ],
)
def test_bad_arguments_are_one_sentence(call: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        call()


def config(tmp_path: Path, **values: Any) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(values))
    return tmp_path


def test_a_llama_configuration(tmp_path: Path) -> None:
    shape = read_shape(
        config(tmp_path, model_type="llama", hidden_size=576, num_hidden_layers=30, num_attention_heads=9,
               num_key_value_heads=3, intermediate_size=1536, vocab_size=49152)
    )  # fmt: skip
    assert (shape.depth, shape.width, shape.heads, shape.kv_heads, shape.head_size) == (30, 576, 9, 3, 64)
    assert shape.parameters == 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
    assert shape.kv_bytes() == 2 * 2 * 30 * 3 * 64


def test_a_gpt2_configuration_and_a_file_instead_of_a_directory(tmp_path: Path) -> None:
    folder = config(tmp_path, model_type="gpt2", n_embd=768, n_layer=12, n_head=12, vocab_size=50257)
    shape = read_shape(folder / "config.json")
    assert shape == Shape(12, 768, 12, 12, 64, 3072, gated=False, vocabulary=50257)
    assert shape.parameters == 12 * 12 * 768**2


def test_transformers_itself_counts_the_same(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    for made in (
        GPT2Config(n_embd=32, n_layer=3, n_head=2, vocab_size=64),
        LlamaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    intermediate_size=48, vocab_size=64),
    ):  # fmt: skip
        made.save_pretrained(tmp_path)
        model = AutoModelForCausalLM.from_config(made)
        weights = [p for n, p in model.named_parameters() if p.dim() == 2 and not n.endswith(EMBEDDINGS)]
        assert read_shape(tmp_path).parameters == sum(p.numel() for p in weights)


EMBEDDINGS = ("wte.weight", "wpe.weight", "embed_tokens.weight", "lm_head.weight")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "must hold one JSON object, not a list"),
        ("{", "is not JSON"),
        ("{}", "has none of num_hidden_layers"),
        ('{"num_hidden_layers": 0, "hidden_size": 4, "num_attention_heads": 2}', r"num_hidden_layers is 0; it must be"),
        ('{"n_layer": 2, "n_embd": 5, "n_head": 2}', "heads is 2, which does not divide the width 5"),
        ('{"n_layer": true, "n_embd": 5, "n_head": 2}', "n_layer is True"),
    ],
)
def test_configurations_that_can_not_be(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=words):
        read_shape(tmp_path)
    with pytest.raises(ModelError, match="can not be read: No such file"):
        read_shape(tmp_path / "missing")


def test_the_roofline_by_hand() -> None:
    """Two layers, 4 wide, bfloat16: 384 weights, so 768 bytes; 32 bytes of KV a token."""
    found = costs(Shape.classic(2, 4, 2), A100, 1000, layer_s=1e-3)
    assert found.kv_bytes == 32
    assert (found.devices, found.sequences) == (1, math.floor((0.9 * 80e9 - 768) / 32_000))
    assert found.alone_s == pytest.approx((768 + 32_000) / 2.039e12 + 2e-3)
    assert found.step_s == pytest.approx((768 + found.sequences * 32_000) / 2.039e12 + 2e-3)
    assert found.tokens_per_s == pytest.approx(found.sequences / found.step_s)


def test_a_network_that_is_too_large_for_one_device_takes_a_power_of_two() -> None:
    found = costs(Shape.classic(96, 12288, 96), A100, 2048, 0.0)
    assert found.devices == 8  # 348 GB of weights
    free = 8 * 72e9 - 2 * Shape.classic(96, 12288, 96).parameters
    assert found.sequences == math.floor(free / (2048 * found.kv_bytes))


@given(st.floats(1e6, 1e12), st.sampled_from([A100, L4]), st.integers(128, 32_768))
def test_candidates_straddle_the_optimum_and_deeper_costs_more(parameters: float, device: Device, context: int) -> None:
    found = candidates(parameters, device, context, 20e-6)
    assert sum(c.best for c in found) == 1
    assert any(c.frontier for c in found)
    ratios = [c.judgement.log_ratio for c in found]
    assert ratios == sorted(ratios)
    best = next(c for c in found if c.best)
    assert found[0].judgement.log_ratio <= best.judgement.log_ratio <= found[-1].judgement.log_ratio
    for candidate in found:
        beaten = [o for o in found if o.distance <= candidate.distance
                  and o.costs.tokens_per_s >= candidate.costs.tokens_per_s and o is not candidate]  # fmt: skip
        assert candidate.frontier == (not beaten)


def test_the_frontier_by_hand() -> None:
    assert frontier([0.0, 1.0, 1.0, 2.0], [1.0, 2.0, 1.5, 2.0]) == [True, True, False, False]
