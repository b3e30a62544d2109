"""What a shape costs to serve, by a roofline: bytes and operations of a decode step, and the wait for each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from presize.errors import ConfigError, check_range
from presize.theory.depth_width.law import Judgement, judge, optimum, shape_of
from presize.theory.depth_width.shapes import Shape

FREE_SHARE = 0.9  # of the memory, for weights and KV cache; the rest is for activations and the runtime
ELEMENT_BYTES = 2.0  # bfloat16
_RATIOS = (0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)  # depths that are looked at, relative to the law's
MAX_DEVICES = 4096


@dataclass(frozen=True, slots=True)
class Device:
    """Memory in bytes, bandwidth in bytes/s, dense bfloat16 peak in FLOP/s."""

    memory: float
    bandwidth: float
    peak: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one shape on as many devices as it needs.

    kv_bytes: a token. devices: least power of two that holds the weights and one sequence. sequences: that fit at the
    context. step_s: of a decode step with all of them, and alone_s with one; tokens_per_s: all of them, a device.
    """

    kv_bytes: float
    devices: int
    sequences: int
    step_s: float
    alone_s: float
    tokens_per_s: float


def costs(shape: Shape, device: Device, context: int, layer_s: float) -> Costs:
    """Roofline of decoding at ``context`` tokens a sequence.

    layer_s: seconds that a layer takes however little it computes; layers wait for one another, which is what depth
    costs. Devices share all weights and KV evenly (tensor parallelism), and their talk is taken as free.
    """
    check_range("context", context, 1, 2**24)
    check_range("layer_s", layer_s, 0, 1)
    weights = (shape.parameters + shape.embedding_parameters) * ELEMENT_BYTES
    sequence = context * shape.kv_bytes(ELEMENT_BYTES)
    devices = 1
    while (free := devices * device.memory * FREE_SHARE - weights) < sequence:
        devices *= 2
        if devices > MAX_DEVICES:
            raise ConfigError(f"more than {MAX_DEVICES} devices would be needed; ask for fewer params, or less context")
    batch = math.floor(free / sequence)

    def step(count: int) -> float:
        moved = weights + count * sequence
        multiplied = 2 * (shape.parameters + shape.embedding_parameters)
        attended = 4 * context * shape.depth * shape.heads * shape.head_size
        computed = count * (multiplied + attended)
        seconds = max(moved / device.bandwidth, computed / device.peak) / devices
        return seconds + shape.depth * layer_s

    return Costs(shape.kv_bytes(ELEMENT_BYTES), devices, batch, step(batch), step(1), batch / step(batch) / devices)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A shape, what the law says of it, what it costs; on the frontier if none is as good in both and better in one."""

    shape: Shape
    judgement: Judgement
    costs: Costs
    best: bool
    frontier: bool

    @property
    def distance(self) -> float:
        """|ln(depth / the law's depth)|."""
        return abs(self.judgement.log_ratio)


def candidates(
    parameters: float, device: Device, context: int, layer_s: float, head_size: int | None = None,
    embedding_rank: int | None = None,
) -> list[Candidate]:  # fmt: skip
    """Shapes of about the same size on both sides of the law's optimum, shallow ones first."""
    best = optimum(parameters, embedding_rank)
    depths = sorted({max(round(ratio * best.depth), 1) for ratio in _RATIOS})
    shapes = [shape_of(parameters, depth, head_size) for depth in depths]
    # widths are whole heads: where one is coarse, a shape would be of another size, and no comparison
    shapes = [shape for shape in shapes if abs(shape.law_parameters / parameters - 1) < 0.15] or shapes
    judged = [judge(shape.depth, shape.width, embedding_rank) for shape in shapes]
    found = [costs(shape, device, context, layer_s) for shape in shapes]
    nearest = min(range(len(shapes)), key=lambda i: abs(shapes[i].depth - best.depth))
    first = frontier([abs(j.log_ratio) for j in judged], [c.tokens_per_s for c in found])
    return [
        Candidate(shape, judgement, cost, i == nearest, first[i])
        for i, (shape, judgement, cost) in enumerate(zip(shapes, judged, found, strict=True))
    ]


def frontier(distances: Sequence[float], rates: Sequence[float]) -> list[bool]:
    """True where no other point is at least as near and as fast, and better in one of the two."""
    points = list(zip(distances, rates, strict=True))
    return [
        not any(d <= distance and r >= rate and (d, r) != (distance, rate) for d, r in points)
        for distance, rate in points
    ]
