"""Logits against transformers' own models, for all the architectures there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from devices import DEVICES

from presize.config import BLOCK_SIZE, EngineOptions
from presize.core.ledger import Ledger
from presize.core.lengths import LengthDistribution
from presize.core.request import Request
from presize.engine.attention import make_attention
from presize.engine.engine import Engine
from presize.engine.kv_cache import KVCache
from presize.engine.model_config import read_config
from presize.engine.plan import SequenceWork, make_plan
from presize.engine.sampling_params import SamplingParams
from presize.engine.sequence import Sequence
from presize.engine.weights import load_decoder
from presize.errors import ConfigError, ModelError
from presize.predict import Query

LENGTHS = (1, 2, 31, 32, 33, 64, 200)


@torch.inference_mode()
def our_logits(directory: Path, prompts: list[list[int]], dtype: torch.dtype, name: str = "cpu") -> list[torch.Tensor]:
    """(T, V) for each prompt, all at once, in two uneven chunks, and the last token as a decode."""
    config, device = read_config(directory), torch.device(name)
    decoder = load_decoder(directory, config, dtype=dtype, compute_dtype=torch.float32, device=device)
    ledger = Ledger(sum(-(-len(p) // BLOCK_SIZE) for p in prompts), BLOCK_SIZE)
    cache = KVCache(config, ledger.num_blocks, dtype, device)
    cache.keys.zero_(), cache.values.zero_()
    attention = make_attention(config, cache, config.max_positions, threads=1)
    sequences = []
    for index, ids in enumerate(prompts):
        request = Request(str(index), len(ids), 1, LengthDistribution.exactly(1))
        query = Query(str(index), ids, 1)
        sequences.append(Sequence(request, query, SamplingParams(), 0, 0, list(ids), frozenset(), None))
    rows: dict[str, list[torch.Tensor]] = {str(i): [] for i in range(len(prompts))}
    for step in range(3):
        work = []
        for s in sequences[:: -1 if step == 1 else 1]:
            left = s.request.uncomputed_tokens
            count = (left * 2 // 5, left - 1, left)[step]
            if count > 0:
                assert ledger.allocate(s.request.request_id, s.request.computed_tokens + count)
                work.append(SequenceWork(s, count, True, list(ledger.held(s.request.request_id))))
        plan = make_plan(work)
        ids = np.pad(plan.token_ids, (0, 3))  # as the runner has them: rows that nobody looks at
        attention.begin(plan, len(ids))
        logits = decoder(
            torch.from_numpy(ids).to(device), attention, torch.arange(len(plan.token_ids), device=device)
        ).cpu()
        for w, part in zip(work, logits.split([w.num_tokens for w in work]), strict=True):
            rows[w.sequence.request.request_id].append(part)
            w.sequence.request.computed_tokens += w.num_tokens
    return [torch.cat(rows[str(i)]) for i in range(len(prompts))]


def prompts_of(lengths: tuple[int, ...]) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 300, size=n).tolist() for n in lengths]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_logits_are_those_of_transformers(checkpoint, name, device):
    model, directory = checkpoint(name)
    prompts = prompts_of(LENGTHS)
    for ids, found in zip(prompts, our_logits(directory, prompts, torch.float32, device), strict=True):
        torch.testing.assert_close(found, tiny.logits_of(model, ids), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "llama biases", "qwen3"])
def test_bfloat16_storage_keeps_logits_within_a_few_roundings(checkpoint, name):
    """Weights and cache carry 8 bits: the error is at most that of transformers in bfloat16."""
    model, directory = checkpoint(name)
    prompts = prompts_of((5, 70, 150))
    rough_model = tiny.make_model(name).to(torch.bfloat16)
    for ids, found in zip(prompts, our_logits(directory, prompts, torch.bfloat16), strict=True):
        exact = tiny.logits_of(model, ids)
        error = (found - exact).square().mean().sqrt() / exact.square().mean().sqrt()
        theirs = (
            tiny.logits_of(rough_model, ids).float() - exact
        ).square().mean().sqrt() / exact.square().mean().sqrt()
        assert 1e-4 < error < theirs < 0.1


def test_a_sliding_window_caps_the_length_and_changes_nothing_below(tmp_path):
    window = 48
    model = tiny.make_model("mistral", sliding_window=window)
    directory = tiny.save(model, tmp_path)
    assert read_config(directory).max_positions == window
    ids = prompts_of((window,))
    (found,) = our_logits(directory, ids, torch.float32)
    torch.testing.assert_close(found, tiny.logits_of(model, ids[0]), atol=2e-4, rtol=1e-4)
    options = EngineOptions(model=str(directory), device="cpu", threads=1, kv_tokens=256, max_model_len=window + 1)
    with pytest.raises(ConfigError, match=r"max_model_len is 49; .* 48 tokens"):
        Engine.load(options)


def test_qwen2_uses_its_window_only_if_told_to(tmp_path):
    for use, limit in ((False, 512), (True, 40)):
        config = tiny.make_model("qwen2", sliding_window=40, use_sliding_window=use, max_window_layers=0).config
        config.save_pretrained(tmp_path)
        assert read_config(tmp_path).max_positions == limit


@pytest.mark.parametrize("size", [6, 10, 20, 24])
def test_uncommon_head_sizes_are_computed_right_or_refused(tmp_path, size):
    model = tiny.make_model("llama", head_dim=size)
    directory = tiny.save(model, tmp_path)
    prompts = prompts_of((3, 40))
    try:
        found = our_logits(directory, prompts, torch.float32)
    except ModelError as error:
        assert str(size) in str(error)  # noqa: PT017
        return
    for ids, logits in zip(prompts, found, strict=True):
        torch.testing.assert_close(logits, tiny.logits_of(model, ids), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_partial_rotary_embeddings_are_computed_right_or_refused(tmp_path, name):
    parameters = tiny.rope("default", partial_rotary_factor=0.5)
    model = tiny.make_model(name, **parameters)
    directory = tiny.save(model, tmp_path)
    prompts = prompts_of((40,))
    try:
        (found,) = our_logits(directory, prompts, torch.float32)
    except ModelError as error:
        assert "rotary" in str(error)  # noqa: PT017
        return
    torch.testing.assert_close(found, tiny.logits_of(model, prompts[0]), atol=2e-4, rtol=1e-4)
