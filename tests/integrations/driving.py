"""A real vLLM scheduler on a small configuration, and a stand-in for the model: it knows how long every answer is."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

BLOCK = 32
EOS, TOKEN = 7, 5
init_none_hash(sha256)


def make_scheduler(
    directory: Path,
    presize: dict[str, Any] | None,
    *,
    blocks: int = 64,
    policy: str = "fcfs",
    seqs: int = 64,
    budget: int = 512,
    caching: bool = False,
    max_model_len: int = 1024,
    groups: int = 1,
    watermark: float = 0.0,
) -> AsyncScheduler:
    """PresizeScheduler with these options, or vLLM's own for None; ``blocks`` that can be used."""
    (directory / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
                "intermediate_size": 64, "num_attention_heads": 1, "num_hidden_layers": 1, "vocab_size": 64,
                "num_key_value_heads": 1, "max_position_embeddings": max_model_len, "torch_dtype": "float32",
            }
        )
    )  # fmt: skip
    model = ModelConfig(
        model=str(directory), skip_tokenizer_init=True, dtype="float32", max_model_len=max_model_len, seed=0
    )
    config = VllmConfig(
        model_config=model,
        scheduler_config=SchedulerConfig(
            max_num_seqs=seqs, max_num_batched_tokens=budget, max_model_len=max_model_len, enable_chunked_prefill=True,
            is_encoder_decoder=False, policy=policy, async_scheduling=True, watermark=watermark,
        ),
        cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=caching),
        device_config=DeviceConfig("cpu"),
        additional_config={} if presize is None else {"presize": presize},
    )  # fmt: skip
    config.cache_config.num_gpu_blocks = blocks + 1
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=64, dtype=torch.float32)
    cls: Any = AsyncScheduler
    if presize is not None:
        from presize.integrations.vllm import PresizeScheduler

        cls = PresizeScheduler
    return cls(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=blocks + 1,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec([f"layer{i}"], spec) for i in range(groups)],
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK,
        hash_block_size=BLOCK,
        log_stats=True,
    )


def make_request(name: str, prompt: int | list[int], max_tokens: int = 200, **fields: Any) -> Request:
    """A prompt of so many tokens, or of these; ``hint`` is the client's."""
    hint, arrival = fields.pop("hint", None), fields.pop("arrival", None)
    params = SamplingParams(
        temperature=0, max_tokens=max_tokens, ignore_eos=False,
        extra_args=None if hint is None else {"presize_output_tokens": hint},
    )  # fmt: skip
    params.update_from_generation_config({}, EOS)
    return Request(
        request_id=name,
        prompt_token_ids=[int(name) % 60 if name.isdigit() else 9] * prompt if isinstance(prompt, int) else prompt,
        sampling_params=params,
        pooling_params=None,
        arrival_time=arrival,
        block_hasher=get_request_block_hasher(BLOCK, sha256),
        **fields,
    )


@dataclass
class World:
    """Runs a scheduler with ``depth`` steps in flight. lengths: of the answers, by request id; others have no end."""

    scheduler: AsyncScheduler
    lengths: dict[str, int]
    depth: int = 2
    flight: deque[tuple[SchedulerOutput, dict[str, int]]] = field(default_factory=deque)  # steps, and what they draw
    made: dict[str, list[int]] = field(default_factory=dict)  # tokens handed out
    ended: dict[str, str] = field(default_factory=dict)  # request id -> reason
    order: list[str] = field(default_factory=list)  # first starts
    preempted: list[str] = field(default_factory=list)
    most_running: int = 0
    steps: int = 0

    def add(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.made[request.request_id] = []
            self.scheduler.add_request(request)

    def step(self) -> None:
        """One turn of the engine's loop."""
        scheduler = self.scheduler
        if scheduler.has_requests():
            before = {r.request_id: r.num_preemptions for r in scheduler.requests.values()}
            output = scheduler.schedule()
            self.preempted += [
                r.request_id for r in scheduler.requests.values() if r.num_preemptions > before[r.request_id]
            ]
            self.order += [new.req_id for new in output.scheduled_new_reqs if new.req_id not in self.order]
            self.most_running = max(self.most_running, len(scheduler.running))
            self.begun(output)
            self.flight.append((output, {name: self._draw(name) for name in output.num_scheduled_tokens}))
        self.steps += 1
        if self.flight and (len(self.flight) >= self.depth or not scheduler.has_unfinished_requests()):
            self._update(*self.flight.popleft())

    def begun(self, output: SchedulerOutput) -> None:
        """A step was scheduled; for who keeps a clock."""

    def _draw(self, name: str) -> int:
        """Which token of the answer the step just scheduled ends with, from 1; 0 if it is a part of a prefill."""
        request = self.scheduler.requests[name]
        return 0 if request.is_prefill_chunk else request.num_computed_tokens - request.num_prompt_tokens + 1

    def _update(self, output: SchedulerOutput, draws: dict[str, int]) -> None:
        names = list(draws)
        tokens = [[EOS if n == self.lengths.get(name) else TOKEN] if n else [] for name, n in draws.items()]
        result = ModelRunnerOutput(
            req_ids=names, req_id_to_index={n: i for i, n in enumerate(names)}, sampled_token_ids=tokens
        )
        for outputs in self.scheduler.update_from_output(output, result).values():
            for news in outputs.outputs:
                self.made[news.request_id] += news.new_token_ids
                if news.finish_reason is not None:
                    self.ended[news.request_id] = str(news.finish_reason)

    def run(self, most: int = 100_000) -> None:
        """Until nothing is left; fails if that takes more than ``most`` turns."""
        while self.scheduler.has_unfinished_requests() or self.flight:
            self.step()
            assert self.steps < most, f"{len(self.scheduler.running)} run, {len(self.scheduler.waiting)} wait, for ever"

    def abort(self, names: Iterable[str]) -> None:
        for request in self.scheduler.finish_requests(list(names), RequestStatus.FINISHED_ABORTED):
            self.ended[request.request_id] = "abort"

    def check_nothing_lost(self) -> None:
        """Every block is free again, and nobody is left anywhere."""
        pool = self.scheduler.kv_cache_manager.block_pool
        assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1
        assert not self.scheduler.requests
        assert not len(self.scheduler.waiting)
        assert not self.scheduler.running
        advisor = getattr(self.scheduler, "advisor", None)
        assert advisor is None or not advisor.tracked
