"""Networks of one size and different depth, by the law of depth and width, and what serving each of them comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from presize.config import SchedulerOptions
from presize.errors import ConfigError, check_range
from presize.simulate.cluster import simulate
from presize.simulate.costs import Group, StepCosts
from presize.simulate.device import Device
from presize.simulate.models import ModelShape
from presize.simulate.options import SimulateOptions
from presize.simulate.traces import Trace
from presize.theory.depth_width.law import Judgement, judge, optimum, shape_of
from presize.theory.depth_width.shapes import Shape

MAX_DEVICES = 4096
_RATIOS = (0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)  # depths that are looked at, relative to the law's
_ROUNDS = 4  # requests that are served in a simulation, relative to those that fit at once


@dataclass(frozen=True, slots=True)
class Served:
    """A network on as many devices as it needs.

    kv_bytes: a token. devices: least power of two that holds the weights and one sequence, tensor parallel. sequences:
    that fit at the context. batch: those, or as many as an engine runs at once. step_s: of a decode step with all of
    the batch, and alone_s with one sequence. tokens_per_s: simulated, a device.
    """

    kv_bytes: float
    devices: int
    sequences: int
    batch: int
    step_s: float
    alone_s: float
    tokens_per_s: float


def classic(shape: Shape, context: int) -> ModelShape:
    """The law's network, without an embedding."""
    return ModelShape(
        name=f"{shape.depth} x {shape.width}", layers=shape.depth, hidden=shape.width, heads=shape.heads,
        kv_heads=shape.heads, head_size=shape.head_size, intermediate=4 * shape.width, mlp_matrices=2, vocabulary=0,
        max_positions=context, tied=True,
    )  # fmt: skip


def served(model: ModelShape, device: Device, context: int, layer_s: float) -> Served:
    """Steps by the device's cost model, and tokens/s of the simulated engine.

    context: tokens of a sequence; half of them are the prompt, half the answer. Four times as many requests as run at
    once are all there at the start; their lengths are known (`--predictor oracle`), all else is as it comes. layer_s:
    seconds that a layer takes in a step however little it computes, besides what a step of the device takes; layers
    wait for one another, which is what depth costs.
    """
    check_range("context", context, 2, 2**24)
    check_range("layer_s", layer_s, 0, 1e-3)
    device = replace(device, step_s=min(device.step_s + model.layers * layer_s, 10.0))
    costs, tokens = _group(model, device, context)
    options = SimulateOptions()
    sequences = tokens // context
    batch = min(sequences, options.max_num_seqs)
    count, answer = _ROUNDS * batch, context // 2
    lengths = np.full(count, answer)
    trace = Trace(np.zeros(count), np.full(count, context - answer), lengths, lengths)
    options = replace(options, kv_tokens=tokens, max_num_seqs=batch)
    found = simulate(trace, options, SchedulerOptions(predictor="oracle"), costs=costs).figures
    return Served(
        kv_bytes=costs.kv_bytes,
        devices=costs.group.devices,
        sequences=sequences,
        batch=batch,
        step_s=float(costs.decode(batch, batch * context, 1)[0]),
        alone_s=float(costs.decode(1, context, 1)[0]),
        tokens_per_s=found["tokens_per_second"] / costs.group.devices,
    )


def _group(model: ModelShape, device: Device, context: int) -> tuple[StepCosts, int]:
    """On the least power of two of devices that holds the weights and one sequence; the KV tokens that fit there."""
    devices = 1
    while devices <= min(MAX_DEVICES, model.heads):
        costs = StepCosts(device, model, Group(tensor_parallel=devices))
        try:
            tokens = costs.kv_tokens
        except ConfigError:  # not even the weights fit
            tokens = 0
        if tokens >= context:
            return costs, tokens
        devices *= 2
    raise ConfigError(
        f"{model.name} and {context:,} tokens need more than {devices // 2} x {device.name}, and it has {model.heads} "
        f"heads to share out (at most {MAX_DEVICES} devices); ask for fewer params, or less context"
    )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A shape, what the law says of it, what it costs; on the frontier if none is as good in both and better in one."""

    shape: Shape
    judgement: Judgement
    served: Served
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
    found = [served(classic(shape, context), device, context, layer_s) for shape in shapes]
    nearest = min(range(len(shapes)), key=lambda i: abs(shapes[i].depth - best.depth))
    first = frontier([abs(j.log_ratio) for j in judged], [s.tokens_per_s for s in found])
    return [
        Candidate(shape, judgement, one, i == nearest, first[i])
        for i, (shape, judgement, one) in enumerate(zip(shapes, judged, found, strict=True))
    ]


def frontier(distances: Sequence[float], rates: Sequence[float]) -> list[bool]:
    """True where no other point is at least as near and as fast, and better in one of the two."""
    points = list(zip(distances, rates, strict=True))
    return [
        not any(d <= distance and r >= rate and (d, r) != (distance, rate) for d, r in points)
        for distance, rate in points
    ]
