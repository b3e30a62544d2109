"""What the decoder needs to know of a network, read from its Hugging Face configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from presize.errors import ModelError, first_line

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of a Llama-like decoder. Sizes are in elements, ``max_positions`` in tokens."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    norm_eps: float
    max_positions: int
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied_embeddings: bool
    eos_token_ids: tuple[int, ...]
    inverse_frequencies: torch.Tensor  # (head_size / 2,) of the rotary embedding
    rotary_scale: float

    @property
    def num_parameters(self) -> int:
        """Weights that every token passes through, embeddings counted once."""
        attention = self.hidden_size * self.head_size * (2 * self.num_heads + 2 * self.num_kv_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size
        return self.num_layers * layer + self.vocab_size * self.hidden_size


def read_config(directory: Path) -> ModelConfig:
    """ModelError, in one sentence, for what the decoder can not run."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, StrictDataclassError) as error:
        raise ModelError(f"can not read {directory / 'config.json'}: {first_line(error)}") from error
    if config.model_type not in SUPPORTED:
        raise ModelError(
            f"architecture {config.model_type!r} is not supported; known: {', '.join(SUPPORTED)} (the Llama family)"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError("quantised safetensors are not supported; use the unquantised model, or a .gguf file")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise ModelError(f"{heads} query heads do not share {kv_heads} key heads evenly")
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    if head_size % 4:
        raise ModelError(f"head size {head_size} is not supported; it must be a multiple of 4")
    if config.hidden_act not in ("silu", "swish"):
        raise ModelError(f"activation {config.hidden_act!r} is not supported; the decoder has silu only")
    try:
        eos = GenerationConfig.from_pretrained(directory, local_files_only=True).eos_token_id
    except OSError:
        eos = None
    eos = config.eos_token_id if eos is None else eos
    frequencies, scale = _rotary(config)
    window = config.sliding_window if getattr(config, "use_sliding_window", config.model_type == "mistral") else None
    is_qwen2 = config.model_type == "qwen2"
    attention_bias = bool(getattr(config, "attention_bias", False))
    return ModelConfig(
        architecture=config.model_type,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_size=head_size,
        norm_eps=config.rms_norm_eps,
        # beyond a sliding window the full attention used here would differ from the trained one
        max_positions=min(config.max_position_embeddings, window or config.max_position_embeddings),
        qkv_bias=is_qwen2 or attention_bias,
        output_bias=attention_bias,
        mlp_bias=bool(getattr(config, "mlp_bias", False)),
        qk_norm=config.model_type == "qwen3",
        tied_embeddings=bool(config.tie_word_embeddings),
        eos_token_ids=tuple([eos] if isinstance(eos, int) else eos or ()),
        inverse_frequencies=frequencies,
        rotary_scale=scale,
    )


def _rotary(config: Any) -> tuple[torch.Tensor, float]:
    """Inverse frequencies (D / 2,) and the factor on cos and sin, by transformers' own rules for each rotary type."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = config.rope_parameters or {}
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        powers = torch.arange(0, size, 2, dtype=torch.int64).float() / size
        return 1.0 / parameters["rope_theta"] ** powers, 1.0
    if kind not in ROPE_INIT_FUNCTIONS or kind in ("dynamic", "longrope"):
        raise ModelError(f"rotary embedding {kind!r} is not supported")
    frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return frequencies.float(), float(scale)
