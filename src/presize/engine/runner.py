"""Runs one step on the device: tokens in, next tokens out."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from presize.config import BLOCK_SIZE, EngineOptions
from presize.engine.attention import make_attention
from presize.engine.graphs import GraphedDecoder, rows_graphed
from presize.engine.kv_cache import KVCache, blocks_that_fit
from presize.engine.linear import computes_bfloat16
from presize.engine.machine import free_memory, usable_cores
from presize.engine.model_config import read_config
from presize.engine.plan import SequenceWork, make_plan
from presize.engine.sampler import Sampled, sample
from presize.engine.weights import Progress, load_decoder
from presize.errors import ConfigError

_MOST_TOKENS_BY_DEFAULT = 131_072
_EXACT_ROWS, _ROWS_STEP = 64, 8


class Runner:
    """Weights, KV cache and device. ``max_model_len`` and ``num_blocks`` are what was settled on."""

    def __init__(self, options: EngineOptions, directory: Path, report: Progress | None = None) -> None:
        self.device = _device(options.device)
        threads = options.threads or usable_cores()
        torch.set_num_threads(threads)
        self.dtype, self.compute_dtype = _types(options.dtype, self.device)
        self.config = read_config(directory)
        self.decoder = load_decoder(
            directory,
            self.config,
            dtype=self.dtype,
            compute_dtype=self.compute_dtype,
            device=self.device,
            report=report,
        )
        if options.kv_tokens is None:
            free = free_memory(self.device)
            self.num_blocks = blocks_that_fit(self.config, self.dtype, free, _MOST_TOKENS_BY_DEFAULT)
        else:
            self.num_blocks = options.kv_tokens // BLOCK_SIZE
        self.max_model_len = self._longest(options)
        cache = KVCache(self.config, self.num_blocks, self.dtype, self.device)
        self._attention = make_attention(self.config, cache, self.max_model_len, threads)
        self._graphs = (
            GraphedDecoder(self.decoder, self._attention, self.device) if self.device.type == "cuda" else None
        )

    def _longest(self, options: EngineOptions) -> int:
        asked = options.max_model_len
        if asked is not None and asked > self.config.max_positions:
            raise ConfigError(f"max_model_len is {asked}; the model's own limit is {self.config.max_positions} tokens")
        return min(asked or self.config.max_positions, self.num_blocks * BLOCK_SIZE)

    @torch.inference_mode()
    def run(self, work: SequenceOf[SequenceWork], *, with_states: bool = False) -> Sampled:
        """Compute the work; one token for each sequence that draws, in the order of the work.

        with_states: also the states that the first token of an answer is drawn from.
        """
        plan = make_plan(work)
        ids_N = torch.from_numpy(self._padded(plan.token_ids))
        self._attention.begin(plan, len(ids_N))
        hidden_NC = self._graphs.hidden(ids_N) if self._graphs else self.decoder.hidden(ids_N, self._attention)
        states_RC = self.decoder.states(hidden_NC[torch.from_numpy(plan.draw_rows).to(self.device)])
        drawing = [w.sequence for w in work if w.draws]
        sampled = sample(self.decoder.logits(states_RC), drawing)
        if not with_states:
            return sampled
        first = [row for row, s in enumerate(drawing) if s.request.output_tokens == 0]
        return replace(sampled, first_states=states_RC[first].float().cpu().numpy()) if first else sampled

    def _padded(self, token_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """A few rows more that nobody looks at. On CUDA, as many as some graph has. On the CPU oneDNN compiles a
        product for each number of rows that it meets, and keeps some 350 KB of each; up to `_EXACT_ROWS`, where a row
        costs most, all numbers are let be.
        """
        rows = len(token_ids)
        rounded = rows if rows <= _EXACT_ROWS else -(-rows // _ROWS_STEP) * _ROWS_STEP
        wanted = rows_graphed(rows) if self._graphs else rounded
        return np.concatenate((token_ids, np.zeros(wanted - rows, dtype=np.int64)))


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch sees no CUDA device; use --device cpu or install a CUDA build")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _types(name: str, device: torch.device) -> tuple[torch.dtype, torch.dtype]:
    """Type of the stored values, and type of the arithmetic: float32 on a CPU that has no bfloat16 units."""
    native = computes_bfloat16(device)
    stored = torch.bfloat16 if name == "bfloat16" or (name == "auto" and native) else torch.float32
    return stored, stored if native else torch.float32
