"""What AttentionProbe adds to training: python benchmarks/theory/probe_cost.py [--rounds 15] [--save]

Blocks of 20 whole training steps (forward, backward, AdamW), with a probe at its default settings and without, in
turn, on one thread; CPU time, median of the rounds' ratios. Three models: the length predictor's net, a Llama of
transformers, and an encoder of torch, whose attention is torch.nn.MultiheadAttention.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))
from filing import report, rounded

from presize.predict.features import SIDES
from presize.predict.train.attention import AttentionNet
from presize.theory.scan_snap.probe import AttentionProbe

STEPS = 20  # of a block: two looks
BATCH, LENGTH, WIDTH, LAYERS, HEADS = 8, 128, 256, 4, 4
PROMPTS, VOCABULARY, CELLS = 64, 8000, 90  # of the predictor

Case = tuple[nn.Module, Callable[[], Tensor], dict[str, Any]]  # a model, its loss, options of the probe


def predictor() -> Case:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, VOCABULARY, size=size) for size in rng.integers(8, 120, size=PROMPTS)]
    net = AttentionNet(np.arange(VOCABULARY), np.zeros(CELLS), dropout=0.1)
    inputs = (*net.inputs(prompts), torch.zeros(PROMPTS, len(SIDES)))
    options = {
        "weights": ["pooling"],
        "tokens": lambda joined, pairs, packed, sides: joined[torch.from_numpy(packed.rows)],
    }
    return net, lambda: net(*inputs).square().mean(), options


def llama() -> Case:
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS // 2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    ids = torch.randint(0, VOCABULARY, (BATCH, LENGTH))
    return model, lambda: model(input_ids=ids, labels=ids).loss, {}


def encoder() -> Case:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, batch_first=True)
    net = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    x = torch.randn(BATCH, LENGTH, WIDTH)
    return net, lambda: net(x).square().mean(), {}


def block(net: nn.Module, loss: Callable[[], Tensor], rule: torch.optim.Optimizer) -> float:
    began = time.process_time()
    for _ in range(STEPS):
        rule.zero_grad()
        loss().backward()
        rule.step()
    return (time.process_time() - began) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--save", action="store_true", help="file the result")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name, make in (("predictor", predictor), ("llama", llama), ("multihead", encoder)):
        torch.manual_seed(0)
        net, loss, options = make()
        net.train()
        rule = torch.optim.AdamW(net.parameters(), lr=1e-4)
        block(net, loss, rule)  # warms up
        pairs = []
        for _ in range(args.rounds):
            bare = block(net, loss, rule)
            with AttentionProbe(net, **options) as probe:
                watched = block(net, loss, rule)
            assert len(probe.rows) == 2
            pairs.append((bare, watched))
        ratios = [watched / bare for bare, watched in pairs]
        found[name] = {
            "step_ms": 1e3 * median(bare for bare, _ in pairs),
            "with_probe_ms": 1e3 * median(watched for _, watched in pairs),
            "ratio": median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios),
        }  # fmt: skip
        print(f"{name:10} {found[name]['step_ms']:8.2f} ms a step, with the probe {median(ratios):.3f} times "
              f"({min(ratios):.3f} to {max(ratios):.3f})", flush=True)  # fmt: skip
    report("probe-cost", rounded(found), save=args.save)


if __name__ == "__main__":
    main()
