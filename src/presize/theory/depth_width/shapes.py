"""The shape of a decoder: from numbers, or from a model's config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from presize.errors import ConfigError, ModelError
from presize.theory.depth_width.network import MAX_DEPTH, MAX_WIDTH, check_shape

_MAX_BYTES = 2**22  # of a config.json
# what Hugging Face's configurations call it; GPT-2's names last
_NAMES = {
    "depth": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "kv_heads": ("num_key_value_heads",),
    "head_size": ("head_dim",),
    "feed_forward": ("intermediate_size", "n_inner", "ffn_dim", "d_ff"),
    "vocabulary": ("vocab_size",),
}
_REQUIRED = ("depth", "width", "heads")
_UNGATED = ("gpt", "bert", "opt", "bloom", "falcon", "phi", "mpt", "codegen")  # prefixes of model types


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers, width d_x, query heads, key/value heads, elements of a head, inner width of the feed-forward part.

    gated: the feed-forward part has three matrices, as Llama's; vocabulary: 0 if not known.
    """

    depth: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    gated: bool = False
    vocabulary: int = 0

    @classmethod
    def classic(cls, depth: int, width: int, heads: int) -> Shape:
        """The law's kind of network: every head has its keys, the inner width is 4 d_x, so 12 L d_x^2 parameters."""
        check_shape(depth, width, heads)
        return cls(depth, width, heads, heads, width // heads, 4 * width)

    @property
    def law_parameters(self) -> int:
        """12 L d_x^2: the size by which the law compares shapes."""
        return 12 * self.depth * self.width**2

    @property
    def parameters(self) -> int:
        """Weights of the layers' matrices, without embeddings, biases and norms."""
        attention = 2 * self.width * self.head_size * (self.heads + self.kv_heads)
        return self.depth * (attention + (3 if self.gated else 2) * self.width * self.feed_forward)

    @property
    def embedding_parameters(self) -> int:
        """Of one embedding matrix."""
        return self.vocabulary * self.width

    def kv_bytes(self, element_bytes: float = 2.0) -> float:
        """Bytes of keys and values a token: 2 L (KV heads) (head size) elements."""
        return 2 * self.depth * self.kv_heads * self.head_size * element_bytes


def default_head_size(width: float) -> int:
    """Elements of a head where nothing else is asked for: 64, and 128 from a width of 1,536 on."""
    return 128 if width >= 1536 else 64


def read_shape(path: Path) -> Shape:
    """The shape of the model in a directory, or of its config.json; ModelError, one sentence, if it has none."""
    file = path / "config.json" if path.is_dir() else path
    try:
        with file.open("rb") as stream:
            content = json.loads(stream.read(_MAX_BYTES))
    except OSError as error:
        raise ModelError(f"{file} can not be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("text_config"), dict):  # of models that also see or hear
        content = content["text_config"]
    if not isinstance(content, dict):
        raise ModelError(f"{file} must hold one JSON object, not a {type(content).__name__}")
    try:
        return _shape(content)
    except ConfigError as error:
        raise ModelError(f"{file}: {error}") from error


def _shape(config: Mapping[str, Any]) -> Shape:
    found = {field: _number(config, field) for field in _NAMES}
    for field in _REQUIRED:
        if not found[field]:
            raise ConfigError(f"has none of {', '.join(_NAMES[field])}")
    width, heads = found["width"], found["heads"]
    if not found["head_size"]:
        check_shape(found["depth"], width, heads)
    kind = config.get("model_type")
    ungated = isinstance(kind, str) and kind.startswith(_UNGATED) and not kind.startswith("phi3")
    return Shape(
        depth=found["depth"],
        width=width,
        heads=heads,
        kv_heads=found["kv_heads"] or heads,
        head_size=found["head_size"] or width // heads,
        feed_forward=found["feed_forward"] or 4 * width,
        gated=not ungated,
        vocabulary=found["vocabulary"],
    )


def _number(config: Mapping[str, Any], field: str) -> int:
    """0 if the configuration does not have it."""
    limit = MAX_DEPTH if field == "depth" else MAX_WIDTH
    for name in _NAMES[field]:
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
            raise ConfigError(f"{name} is {value!r}; it must be a whole number in [1, {limit}]")
        return value
    return 0
