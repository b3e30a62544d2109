"""Random models of a few kilobytes, a byte-level tokenizer, and what transformers says of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from presize.config import EngineOptions

CORPUS = ["the cat sat on the mat and the hat", "there is another thing in the other place", "one two three"] * 4
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system prompt') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: 256 bytes, the three special tokens, and some merges."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>", chat_template=TEMPLATE
    )


def rope(kind: str, **parameters: Any) -> dict[str, Any]:
    """`rope_parameters` of a configuration."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **parameters}}


@dataclass(frozen=True)
class Architecture:
    """A configuration class and what differs from SHAPE."""

    config: type
    changes: dict[str, Any] = field(default_factory=dict)


ARCHITECTURES = {
    "llama": Architecture(LlamaConfig),
    "llama tied": Architecture(LlamaConfig, {"tie_word_embeddings": True}),
    "llama biases": Architecture(LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama wide heads": Architecture(LlamaConfig, {"head_dim": 32, "num_attention_heads": 8}),
    "llama one kv head": Architecture(LlamaConfig, {"num_key_value_heads": 1, "rms_norm_eps": 1e-2}),
    "llama all kv heads": Architecture(LlamaConfig, {"num_key_value_heads": 4, **rope("default")}),
    "llama rope linear": Architecture(LlamaConfig, rope("linear", factor=4.0)),
    "llama rope llama3": Architecture(
        LlamaConfig,
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    ),
    "llama rope yarn": Architecture(LlamaConfig, rope("yarn", factor=8.0, original_max_position_embeddings=64)),
    "mistral": Architecture(MistralConfig, {"sliding_window": None}),
    "qwen2": Architecture(Qwen2Config),
    "qwen2 tied": Architecture(Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": Architecture(Qwen3Config),
    "qwen3 biases": Architecture(Qwen3Config, {"attention_bias": True}),
}


def make_model(name: str, seed: int = 0, **changes: Any) -> Any:
    """The network of an entry of ARCHITECTURES; every parameter is random, biases and norms too."""
    entry = ARCHITECTURES[name]
    eos = tokenizer().eos_token_id
    sizes = {"vocab_size": len(tokenizer()), "eos_token_id": eos, "pad_token_id": eos, "bos_token_id": None}
    config = entry.config(**{**SHAPE, **sizes, **entry.changes, **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if "norm" in key:
                parameter.copy_(1 + 0.3 * noise)
            else:
                parameter.copy_(noise * (0.3 if key.endswith("bias") else 1.5 * parameter.shape[-1] ** -0.5))
    return model


def save(model: Any, directory: Path, **save_options: Any) -> Path:
    """The model and the tokenizer, as transformers writes them."""
    model.save_pretrained(directory, **save_options)
    tokenizer().save_pretrained(directory)
    return directory


def chain_model(successors: dict[int, tuple[int, int]]) -> Any:
    """A Llama whose next token depends on the last one alone: token -> (most likely next, second)."""
    size = len(tokenizer())
    model = make_model("llama", hidden_size=-(-size // 4) * 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight[torch.arange(size), torch.arange(size)] = 1.0
        for token, (best, second) in successors.items():
            model.lm_head.weight[best, token] = 2.0
            model.lm_head.weight[second, token] = 1.0
    return model


@torch.inference_mode()
def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    """(len(ids), vocabulary) by transformers, without a cache."""
    return model(torch.tensor([ids]), use_cache=False).logits[0]


@torch.inference_mode()
def greedy(model: Any, prompts: list[list[int]], max_tokens: int, eos: frozenset[int]) -> list[list[int]]:
    """Answers by transformers' generate, prompts of equal length at a time; each ends with its eos, if it has one."""
    answers: dict[int, list[int]] = {}
    for length in sorted({len(p) for p in prompts}):
        places = [i for i, p in enumerate(prompts) if len(p) == length]
        batch = torch.tensor([prompts[i] for i in places])
        found = model.generate(
            batch, attention_mask=torch.ones_like(batch), max_new_tokens=max_tokens, do_sample=False,
            eos_token_id=sorted(eos), pad_token_id=model.config.eos_token_id,
        )  # fmt: skip
        for i, row in zip(places, found[:, length:].tolist(), strict=True):
            ends = [k for k, token in enumerate(row) if token in eos]
            answers[i] = row[: ends[0] + 1] if ends else row
    return [answers[i] for i in range(len(prompts))]


def options_for(directory: Path, kv_tokens: int) -> EngineOptions:
    """One thread, float32, first come first served."""
    return EngineOptions(model=str(directory), dtype="float32", device="cpu", threads=1, kv_tokens=kv_tokens)
