"""From the safetensors files of a Hugging Face directory to a decoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from presize.engine.decoder import Decoder, Layer
from presize.engine.model_config import ModelConfig
from presize.errors import ModelError

Progress = Callable[[str, int, int], None]  # stage, done, total
_PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
_HEAD_NORMS = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}


class Checkpoint:
    """Named tensors of a directory, read one at a time; ModelError if one is missing or has another shape."""

    def __init__(self, directory: Path, dtype: torch.dtype, compute_dtype: torch.dtype, device: torch.device) -> None:
        from safetensors import SafetensorError, safe_open

        self._dtype, self._compute_dtype, self._device = dtype, compute_dtype, device
        self._files: dict[str, Any] = {}
        try:
            for name in _file_names(directory):
                handle = safe_open(directory / name, framework="pt")
                self._files |= dict.fromkeys(handle.keys(), handle)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"can not read the weights in {directory}: {error}") from error

    def read(self, name: str, shape: tuple[int, ...], *, mapped: bool = False) -> torch.Tensor:
        """The tensor, rounded to the storage type and held in the type that the device computes in.

        mapped: it may stay a view of the file, of which only the rows that are used become resident.
        """
        if name not in self._files:
            raise ModelError(f"the weights have no tensor {name!r}; the files do not fit config.json")
        tensor: torch.Tensor = self._files[name].get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise ModelError(f"tensor {name!r} is {tuple(tensor.shape)}; config.json asks for {shape}")
        # else a copy in any case: the file's pages shall not stay mapped
        return tensor.to(self._dtype).to(self._device, self._compute_dtype, copy=not mapped)


def _file_names(directory: Path) -> list[str]:
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        return ["model.safetensors"]
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} is not a valid index of weight files") from error


def load_decoder(
    directory: Path,
    config: ModelConfig,
    *,
    dtype: torch.dtype,
    compute_dtype: torch.dtype,
    device: torch.device,
    report: Progress | None = None,
) -> Decoder:
    """Read, fuse and lay out the weights, rounded to ``dtype`` and held in ``compute_dtype``."""

    def opened() -> Checkpoint:
        """A mapping of its own: pages of the files that were read stay resident as long as it lives."""
        return Checkpoint(directory, dtype, compute_dtype, device)

    layers = []
    for index in range(config.num_layers):
        layers.append(Layer(index, _layer_weights(opened(), index, config), config))
        if report:
            report("loading weights", index + 1, config.num_layers)
    table = (config.vocab_size, config.hidden_size)
    head = opened().read("model.embed_tokens.weight" if config.tied_embeddings else "lm_head.weight", table)
    embedding = opened().read("model.embed_tokens.weight", table, mapped=True)
    norm = opened().read("model.norm.weight", (config.hidden_size,))
    return Decoder(config, layers, {"embedding": embedding, "final_norm": norm, "head": head})


def _layer_weights(checkpoint: Checkpoint, index: int, config: ModelConfig) -> dict[str, torch.Tensor]:
    prefix = f"model.layers.{index}."
    hidden, inner = config.hidden_size, config.intermediate_size
    q_size, kv_size = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
    sizes = {
        "qkv": ((q_size, hidden), (kv_size, hidden), (kv_size, hidden)),
        "output": ((hidden, q_size),),
        "gate_up": ((inner, hidden), (inner, hidden)),
        "down": ((hidden, inner),),
    }
    biased = {"qkv": config.qkv_bias, "output": config.output_bias, "gate_up": config.mlp_bias, "down": config.mlp_bias}
    weights = {}
    for part, names in _PARTS.items():
        shapes = sizes[part]
        read = [checkpoint.read(f"{prefix}{name}.weight", shape) for name, shape in zip(names, shapes, strict=True)]
        weights[part] = torch.cat(read)
        if biased[part]:
            weights[f"{part}_bias"] = torch.cat(
                [checkpoint.read(f"{prefix}{name}.bias", shape[:1]) for name, shape in zip(names, shapes, strict=True)]
            )
    for key, name in _NORMS.items():
        weights[key] = checkpoint.read(f"{prefix}{name}.weight", (hidden,))
    if config.qk_norm:
        for key, name in _HEAD_NORMS.items():
            weights[key] = checkpoint.read(f"{prefix}{name}.weight", (config.head_size,))
    return weights
