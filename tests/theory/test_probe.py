"""The probe against attention computed openly, on the models it is for; its log; when scanning ended."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from presize.errors import ConfigError
from presize.theory.scan_snap.probe import AttentionProbe
from presize.theory.scan_snap.probe_log import Row, read_log, scanning_ended


def entropy_of(weights: torch.Tensor) -> list[float]:
    """(B, H, Q, S) to a mean a head."""
    return (-(weights * weights.clamp_min(1e-30).log()).sum(-1)).mean(dim=(0, 2)).tolist()


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_of_torch(need_weights: bool) -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = torch.ones(5, 5).triu(1).bool()
            return self.mix(x, x, x, need_weights=need_weights, attn_mask=mask)[0]

    net, x = Net(), torch.randn(3, 5, 8)
    with AttentionProbe(net) as probe:
        watched = net(x)
    _, weights = net.mix(x, x, x, attn_mask=torch.ones(5, 5).triu(1).bool(), average_attn_weights=False)
    (row,) = probe.rows
    assert row.step == 0
    assert row.layers["mix"]["entropy"] == pytest.approx(entropy_of(weights), abs=1e-5)
    assert row.layers["mix"]["frequent"] is None
    keys = torch.arange(1, 6).clamp_min(2).log()
    even = (-(weights * weights.clamp_min(1e-30).log()).sum(-1) / keys).mean(dim=(0, 2))
    assert row.layers["mix"]["evenness"] == pytest.approx(even.tolist(), abs=1e-5)
    assert torch.equal(watched, net(x))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_llama_of_transformers(implementation: str) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention_dropout=0.0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).train()
    plain = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    plain.load_state_dict(model.state_dict())
    ids = torch.randint(0, 32, (3, 9))
    distinct = torch.zeros(32, dtype=torch.bool)
    distinct[:8] = True
    with AttentionProbe(model, distinct=distinct) as probe:
        model(input_ids=ids, labels=ids).loss.backward()
    wanted = plain(input_ids=ids, output_attentions=True).attentions
    (row,) = probe.rows
    assert len(row.layers) == 2
    for figures, weights in zip(row.layers.values(), wanted, strict=True):
        assert figures["entropy"] == pytest.approx(entropy_of(weights), abs=1e-4)
        share = (weights * distinct[ids][:, None, None, :]).sum(-1).mean(dim=(0, 2))
        assert figures["distinct"] == pytest.approx(share.tolist(), abs=1e-4)


def test_only_training_passes_every_so_often_and_nothing_after_it_is_closed() -> None:
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    x = torch.randn(2, 4, 8)
    with AttentionProbe(net, every=3) as probe:
        for _ in range(7):
            net(x)
        net.eval()
        net(x)
        net.train()
    net(x)
    assert [row.step for row in probe.rows] == [0, 3, 6]
    assert not net._forward_hooks
    assert not net.self_attn._forward_pre_hooks


def test_gradients_are_the_same_with_and_without() -> None:
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    x = torch.randn(2, 4, 8)
    net(x).square().sum().backward()
    before = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    with AttentionProbe(net):
        net(x).square().sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(before, net.parameters(), strict=True) if p.grad is not None)


def test_a_pass_that_fails_leaves_no_mode_behind() -> None:
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with AttentionProbe(net, every=1) as probe:
        with pytest.raises(AssertionError):
            net(torch.randn(2, 4, 9))
        net(torch.randn(2, 4, 8))
    assert len(probe.rows) == 1
    assert torch.overrides._len_torch_function_stack() == 0


def test_gqa_causal_masks_and_sampled_queries() -> None:
    class Net(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True, scale=0.5)

    torch.manual_seed(1)
    q, k = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8)
    net = Net()
    with AttentionProbe(net, queries=6) as whole, AttentionProbe(net, queries=2, sequences=1) as part:
        net(q, k)
    scores = (q @ k.repeat_interleave(2, dim=1).transpose(-2, -1)) * 0.5
    weights = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf).softmax(-1)
    assert whole.rows[0].layers["Net"]["entropy"] == pytest.approx(entropy_of(weights), abs=1e-5)
    assert part.rows[0].layers["Net"]["entropy"] == pytest.approx(entropy_of(weights[:1, :, [0, 5]]), abs=1e-5)


def test_sparsity_and_frequent_tokens_by_hand() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.Identity()

        def forward(self, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return self.pool(weights)

    ids = torch.tensor([[7, 7, 7, 3]])
    with AttentionProbe(Net(), weights=["pool"]) as probe:
        assert probe.rows == []
    net = Net()
    with AttentionProbe(net, weights=["pool"]) as probe:
        net(ids, torch.tensor([[[8.0, 1.0, 0.1, 0.9]]]))
    figures = probe.rows[0].layers["pool"]
    assert figures["sparsity"] == [0.25]  # one of four has less than a tenth of a quarter
    assert figures["frequent"] == pytest.approx([0.91])  # id 7 makes up half and more


def test_the_log_holds_the_rows_and_is_never_written_over(tmp_path: Path) -> None:
    net, x, path = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(2, 4, 8), tmp_path / "log.jsonl"
    with AttentionProbe(net, every=1, log=path) as probe:
        net(x)
        net(x)
    assert read_log(path) == probe.rows
    with pytest.raises(FileExistsError):
        AttentionProbe(net, log=path)


@pytest.mark.parametrize(
    "line",
    ["[]", "{", '{"step": 1}', '{"step": -1, "layers": {"a": {"evenness": [1]}}}', '{"step": 1, "layers": {}}',
     '{"step": 1, "layers": {"a": {"evenness": [NaN]}}}', '{"step": 1, "layers": {"a": []}}',
     '{"step": 1, "layers": {"a": {"evenness": ["x"]}}}', '{"step": true, "layers": {"a": {"evenness": [1]}}}'],
)  # fmt: skip
def test_a_line_that_is_no_row_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(Row(0, {"a": {"evenness": [1.0]}}).line() + line + "\n")
    with pytest.raises(ConfigError, match=r"log\.jsonl line 2 is not of an AttentionProbe"):
        read_log(path)


def test_an_empty_or_missing_log_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(ConfigError, match="has no rows"):
        read_log(tmp_path / "log.jsonl")
    with pytest.raises(ConfigError, match="can not be read"):
        read_log(tmp_path / "none")


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_scanning_ends_where_a_fall_turns_into_a_crawl(noise: float) -> None:
    steps = list(range(0, 800, 5))
    shaken = noise * np.random.default_rng(0).normal(size=len(steps))

    def ended(values: list[float]) -> int | None:
        return scanning_ended(steps, [float(v) for v in np.array(values) + shaken])

    found = ended([0.9 - min(t, 200) / 400 - 0.01 * math.log(max(t, 200) / 200) for t in steps])
    assert found is not None
    assert 150 <= found <= 260
    assert ended([0.9 - t / 1600 for t in steps]) is None  # still at it
    assert ended([0.9] * len(steps)) is None  # never began
    assert scanning_ended([], []) is None


def test_what_is_wrong_is_one_sentence(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    for values, words in (
        ({"every": 0}, "every is 0"), ({"queries": 0}, "queries is 0"), ({"weights": ["x"]}, "no such module"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            AttentionProbe(net, **values)
    with AttentionProbe(net) as probe, pytest.raises(ConfigError, match="known: none yet"):
        probe.scanning_ended("x")


def test_our_own_predictor_while_it_is_trained() -> None:
    from presize.predict.features import SIDES
    from presize.predict.train.attention import AttentionNet

    torch.manual_seed(0)
    prompts = [np.arange(3, 9), np.arange(20, 120), np.array([5, 5])]
    net = AttentionNet(np.arange(128), np.zeros(6), dropout=0.0, width=16, pairs=32, queries=2, hidden=8).train()
    inputs = (*net.inputs(prompts), torch.zeros(3, len(SIDES)))
    shares: dict[str, Any] = {}
    probe = AttentionProbe(
        net, every=1, sequences=99, weights=["pooling"],
        tokens=lambda joined, pairs, packed, sides: joined[torch.from_numpy(packed.rows)],
        seen=lambda step, layer, weights, ids: shares.update({layer: (weights, ids)}),
    )  # fmt: skip
    with probe:
        net(*inputs).sum().backward()
    assert set(probe.rows[0].layers) == {"AttentionNet", "pooling"}
    weights, ids = shares["pooling"]
    assert weights.sum(-1).flatten().tolist() == pytest.approx([1.0] * weights.shape[0] * 2)
    assert weights.shape[-1] == ids.shape[-1]
    assert len(probe.rows[0].layers["pooling"]["entropy"] or []) == 2
    json.loads(probe.rows[0].line())
