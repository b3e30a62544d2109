"""Shapes of models, for the cost of a step: built in, or from a Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from presize.errors import ConfigError, ModelError


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes in elements, ``max_positions`` in tokens. mlp_matrices: 3 for a gated MLP, else 2.

    Norms and biases, under one per cent of the weights, are not counted.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    mlp_matrices: int
    vocabulary: int
    max_positions: int
    tied: bool  # the head is the embedding

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return attention + self.mlp_matrices * self.hidden * self.intermediate

    @property
    def head_parameters(self) -> int:
        """Weights of the head, which only tokens that are drawn from pass through."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All weights that are stored."""
        return self.layers * self.layer_parameters + self.head_parameters * (1 if self.tied else 2)

    @property
    def kv_elements(self) -> int:
        """Keys and values of one token, in elements."""
        return 2 * self.layers * self.kv_heads * self.head_size


def _shape(name: str, sizes: tuple[int, int, int, int, int, int, int, int, int], *, tied: bool = False) -> ModelShape:
    layers, hidden, heads, kv_heads, head_size, intermediate, mlp, vocabulary, positions = sizes
    return ModelShape(
        name=name, layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, head_size=head_size,
        intermediate=intermediate, mlp_matrices=mlp, vocabulary=vocabulary, max_positions=positions, tied=tied,
    )  # fmt: skip


# layers, hidden, heads, KV heads, head size, MLP, its matrices, vocabulary, positions
MODELS: dict[str, ModelShape] = {
    shape.name: shape
    for shape in (
        # EleutherAI/gpt-j-6b, config.json
        _shape("gpt-j-6b", (28, 4096, 16, 16, 256, 16384, 2, 50400, 2048)),
        # EleutherAI/gpt-neox-20b, config.json
        _shape("gpt-neox-20b", (44, 6144, 64, 64, 96, 24576, 2, 50432, 2048)),
        # Touvron et al. 2023 (arXiv 2302.13971), table 2, and the released weights
        _shape("llama-7b", (32, 4096, 32, 32, 128, 11008, 3, 32000, 2048)),
        _shape("llama-13b", (40, 5120, 40, 40, 128, 13824, 3, 32000, 2048)),
        _shape("llama-33b", (60, 6656, 52, 52, 128, 17920, 3, 32000, 2048)),
        # facebook/opt-30b, config.json
        _shape("opt-30b", (48, 7168, 56, 56, 128, 28672, 2, 50272, 2048), tied=True),
        # Brown et al. 2020 (arXiv 2005.14165), table 2.1
        _shape("gpt-3-175b", (96, 12288, 96, 96, 128, 49152, 2, 50257, 2048), tied=True),
        # meta-llama/Meta-Llama-3-8B and Llama-3.1-8B, config.json
        _shape("llama-3-8b", (32, 4096, 32, 8, 128, 14336, 3, 128256, 8192)),
        _shape("llama-3.1-8b", (32, 4096, 32, 8, 128, 14336, 3, 128256, 131072)),
        # HuggingFaceTB/SmolLM2-135M-Instruct, config.json
        _shape("SmolLM2-135M-Instruct", (30, 576, 9, 3, 64, 1536, 3, 49152, 8192), tied=True),
    )
}
# field -> names in config.json (Llama's and most others' first), and the most that is believed
_NAMES: dict[str, tuple[tuple[str, ...], int]] = {
    "layers": (("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 4096),
    "hidden": (("hidden_size", "n_embd", "d_model"), 2**20),
    "heads": (("num_attention_heads", "n_head", "num_heads", "n_heads"), 2**16),
    "vocabulary": (("vocab_size",), 2**24),
    "max_positions": (("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"), 2**24),
}
_UNGATED = ("gpt", "bert", "opt", "bloom", "falcon", "phi", "mpt", "codegen")  # what such model types begin with


def model_shape(name: str) -> ModelShape:
    """A built-in model, or that of a config.json (or of a directory that has one); ConfigError if it is neither."""
    known = {known.lower(): shape for known, shape in MODELS.items()}
    if name.lower() in known:
        return known[name.lower()]
    path = Path(name)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(
            f"model is {name!r}; it must be one of {', '.join(MODELS)}, or a directory with a Hugging Face config.json"
        )
    try:
        config = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ModelError(f"can not read {path}: {error}") from error
    if isinstance(config, dict) and isinstance(config.get("text_config"), dict):  # of models that also see or hear
        config = config["text_config"]
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object")
    return _from_config(config, path)


def _from_config(config: Mapping[str, Any], path: Path) -> ModelShape:
    sizes = {field: _size(config, names, most, path) for field, (names, most) in _NAMES.items()}
    kind = str(config.get("model_type", ""))
    hidden, heads = sizes["hidden"], sizes["heads"]
    return ModelShape(
        name=path.parent.name if path.name == "config.json" else path.stem,
        layers=sizes["layers"],
        hidden=hidden,
        heads=heads,
        kv_heads=_size(config, ("num_key_value_heads",), heads, path, heads),
        head_size=_size(config, ("head_dim",), 2**16, path, max(hidden // heads, 1)),
        intermediate=_size(config, ("intermediate_size", "n_inner", "ffn_dim", "d_ff"), 2**22, path, 4 * hidden),
        mlp_matrices=2 if kind.startswith(_UNGATED) and not kind.startswith("phi3") else 3,
        vocabulary=sizes["vocabulary"],
        max_positions=sizes["max_positions"],
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _size(config: Mapping[str, Any], names: tuple[str, ...], most: int, path: Path, default: int | None = None) -> int:
    value = next((config[name] for name in names if config.get(name) is not None), default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ModelError(f"{path}: {names[0]} is {value!r}; it must be a whole number in [1, {most:,}]")
    return value
