"""What a step takes, from first principles: bytes over bandwidth, operations over peak, and a fixed part.

A step has n sequences that decode, over c tokens of context in all, and chunks of prompts: a chunk of t tokens behind b
earlier ones. With T tokens in all and D of them drawn from,

seconds = step + sequence n
        + max(weights / (bandwidth e_w), (2 P T + 2 H D) / (flops e_c))     the matrix products
        + c max(kv / (bandwidth e_k), 4 L h d / (flops e_c))                 attention of the decodes
        + sum over chunks of 4 L h d (t b + t (t + 1) / 2) / (flops e_p)     attention of the chunks, quadratic in t
        + exchange between the devices of a group

P: weights of the layers, H: of the head, L h d: layers, heads and head size, kv: bytes of a token's keys and values.

Tensor parallel over p devices divides weights, keys and values, and operations by p, and exchanges the activations
twice a layer (ring all-reduce, 2 (p - 1) / p of them over the link; Shoeybi et al. 2019). Pipeline parallel over q
devices cuts the batch into m = min(q, n) parts that follow each other through the stages; a step lasts q stages:
weights are read once for each part, so they get no faster, keys and values and operations get m times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from presize.config import BLOCK_SIZE
from presize.core.lengths import FloatArray
from presize.errors import ConfigError
from presize.simulate.device import Device
from presize.simulate.models import ModelShape
from presize.simulate.options import MOST_KV_TOKENS

USABLE_MEMORY = 0.9  # of the device: vLLM's default gpu_memory_utilization


@dataclass(frozen=True)
class Group:
    """Devices that hold one copy of the model. weights_on_host: share of the weights that is read from the host."""

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    weights_on_host: float = 0.0

    @property
    def devices(self) -> int:
        """How many they are."""
        return self.tensor_parallel * self.pipeline_parallel


class Chunk(NamedTuple):
    """``tokens`` of a prompt, behind ``before`` that are computed; ``draws``: a token is drawn after the last one."""

    tokens: int
    before: int
    draws: bool


class StepCosts:
    """Seconds of steps of one model on one group of devices."""

    def __init__(self, device: Device, model: ModelShape, group: Group | None = None) -> None:
        group = group or Group()
        if model.layers < group.pipeline_parallel or model.heads < group.tensor_parallel:
            raise ConfigError(
                f"{model.name} has {model.layers} layers and {model.heads} heads; that is fewer than "
                f"pipeline_parallel {group.pipeline_parallel} or tensor_parallel {group.tensor_parallel}"
            )
        self.device, self.model, self.group = device, model, group
        width, self._stages = group.tensor_parallel, group.pipeline_parallel
        size, flops = device.bytes_per_value, device.flops * device.compute_efficiency * width
        layers = model.layers * model.layer_parameters
        read = (layers + model.head_parameters) * size
        self._weights_s = read * (1 - group.weights_on_host) / (device.bandwidth * device.weight_efficiency * width)
        # streamed from the host while the rest is computed with: the link is what counts if it is slower
        self._host_s = read * group.weights_on_host / (device.host_bandwidth * group.devices)
        self._token_s = 2 * layers / flops
        self._draw_s = 2 * model.head_parameters / flops
        pair_flops = 4 * model.layers * model.heads * model.head_size  # of one query with one key: scores and sums
        kv_read_s = model.kv_elements * size / (device.bandwidth * device.kv_efficiency * width)
        self._context_s = max(kv_read_s, pair_flops / flops)
        self._pair_s = pair_flops / (device.flops * device.prefill_attention_efficiency * width)
        exchanges = 2 * model.layers * (width > 1)
        moved = model.hidden * size
        self._token_s += exchanges * moved * 2 * (width - 1) / width / device.link_bandwidth
        self._handover_s = moved / device.link_bandwidth * (self._stages - 1)
        self._fixed_s = device.step_s * self._stages + (exchanges + self._stages - 1) * device.hop_s

    @property
    def kv_bytes(self) -> float:
        """Of one token, over all devices."""
        return self.model.kv_elements * self.device.bytes_per_value

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit beside the weights, a multiple of the block size; ConfigError if that is no block."""
        weights = self.model.parameters * self.device.bytes_per_value * (1 - self.group.weights_on_host)
        room = USABLE_MEMORY * self.device.memory_bytes * self.group.devices
        tokens = min(int((room - weights) / self.kv_bytes) // BLOCK_SIZE * BLOCK_SIZE, MOST_KV_TOKENS)
        if tokens < BLOCK_SIZE:
            raise ConfigError(
                f"{self.model.name} has {weights / 1e9:.0f} GB of weights; {self.group.devices} x {self.device.name} "
                f"hold {room / 1e9:.0f} GB: raise tensor_parallel or pipeline_parallel"
            )
        return tokens

    def decode(self, sequences: int, context: int, steps: int) -> FloatArray:
        """(steps,) seconds of steps in a row that decode; ``context``: tokens of all sequences in the first one."""
        contexts: FloatArray = context + sequences * np.arange(steps, dtype=np.float64)
        return self._base_s(sequences, sequences, sequences) + self._share(sequences) * self._context_s * contexts

    def mixed(self, sequences: int, context: int, chunks: Sequence[Chunk]) -> float:
        """Seconds of a step that decodes ``sequences``, over ``context`` tokens in all, and computes chunks."""
        tokens = sequences + sum(chunk.tokens for chunk in chunks)
        draws = sequences + sum(chunk.draws for chunk in chunks)
        pairs = sum(t * before + t * (t + 1) / 2 for t, before, _ in chunks)
        batch = sequences + len(chunks)
        attention = self._context_s * context + self._pair_s * pairs
        return self._base_s(batch, tokens, draws) + self._share(batch) * attention

    def _share(self, batch: int) -> float:
        """Of the work on sequences that one stage after the other does, not side by side."""
        return 1.0 / min(self._stages, max(batch, 1))

    def _base_s(self, batch: int, tokens: int, draws: int) -> float:
        share = self._share(batch)
        products = (self._token_s * tokens + self._draw_s * draws) * share
        linear = max(self._weights_s, products, self._host_s)
        return self._fixed_s + self.device.sequence_s * batch + linear + self._handover_s * tokens * share
