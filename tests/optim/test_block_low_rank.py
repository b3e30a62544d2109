"""The optimizer against references: Adam, the exact block-diagonal method, the model of a shared basis."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import exact_block_diagonal, shared_basis
from torch import Tensor, nn

from presize.optim import BlockLowRank
from presize.optim.basis import first_basis


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers with correlations along the last dimension, as gradients have."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(shape[-1], shape[-1], generator=generator, dtype=torch.float64)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) @ mix).to(dtype)


def trained(start: Tensor, grads: Sequence[Tensor], optimizer: Any = BlockLowRank, **options: Any) -> Tensor:
    """The parameter after these gradients."""
    param = nn.Parameter(start.clone())
    steps = optimizer([param], **options)
    for grad in grads:
        param.grad = grad.clone()
        steps.step()
    return param.detach()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(6, 5), (7,), (4, 3, 2, 2)])
def test_without_basis_and_with_a_diagonal_tail_it_is_adam(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    start, grads = drawn(*shape, dtype=dtype), [drawn(*shape, seed=i, dtype=dtype) for i in range(1, 30)]
    common = {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}
    ours = trained(start, grads, rank=0, tail="diagonal", **common)
    theirs = trained(start, grads, torch.optim.AdamW, **common)
    torch.testing.assert_close(ours, theirs, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-7)


@pytest.mark.parametrize("block", ["row", "column"])
@pytest.mark.parametrize("rank", [5, 9])
def test_at_full_rank_it_is_the_exact_method_with_a_basis_for_each_block(block: str, rank: int) -> None:
    start, grads = drawn(4, 5), [drawn(4, 5, seed=i) for i in range(1, 25)]
    if block == "column":
        start, grads = start.T.contiguous(), [grad.T.contiguous() for grad in grads]
    found = trained(
        start, grads, lr=0.02, betas=(0.8, 0.9), weight_decay=0.1, eps=0, rank=rank, core="full", update_interval=1,
        block=block,
    )  # fmt: skip
    found = found.T if block == "column" else found
    start, grads = (start.T, [grad.T for grad in grads]) if block == "column" else (start, grads)
    exact = exact_block_diagonal(start.numpy(), [grad.numpy() for grad in grads], 0.02, (0.8, 0.9), decay=0.1)
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("core", ["diagonal", "full"])
@pytest.mark.parametrize("interval", [1, 3, 8])
def test_at_low_rank_it_is_the_model_of_a_shared_basis(interval: int, core: str) -> None:
    start, grads = drawn(6, 9), [drawn(6, 9, seed=i) for i in range(1, 30)]
    options = {"lr": 0.02, "betas": (0.8, 0.9)}
    found = trained(start, grads, eps=0, rank=3, core=core, update_interval=interval, block="row", **options)
    basis = first_basis(grads[0], 3).numpy().T
    exact = shared_basis(
        start.numpy(),
        [grad.numpy() for grad in grads],
        basis,
        interval=interval,
        diagonal=core == "diagonal",
        **options,
    )
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-6, atol=1e-8)


def test_heads_have_bases_of_their_own() -> None:
    """Rows in two heads are as two parameters."""
    grads = [drawn(8, 6, seed=i) for i in range(1, 12)]
    common = {"lr": 0.02, "rank": 2, "update_interval": 4}
    together = trained(drawn(8, 6), grads, block="head", heads=2, **common)
    for rows in (slice(0, 4), slice(4, 8)):
        alone = trained(drawn(8, 6)[rows], [grad[rows] for grad in grads], block="row", **common)
        torch.testing.assert_close(together[rows], alone)


def test_layers_of_one_shape_do_not_know_each_other() -> None:
    grads = [[drawn(6, 5, seed=10 * i + k) for k in range(3)] for i in range(12)]
    params = [nn.Parameter(drawn(6, 5, seed=k)) for k in range(3)]
    optimizer = BlockLowRank(params, lr=0.02, rank=2, update_interval=3)
    for step in grads:
        for param, grad in zip(params, step, strict=True):
            param.grad = grad.clone()
        optimizer.step()
    for k, param in enumerate(params):
        alone = trained(drawn(6, 5, seed=k), [step[k] for step in grads], lr=0.02, rank=2, update_interval=3)
        torch.testing.assert_close(param.detach(), alone, rtol=1e-10, atol=1e-12)


def test_a_layer_without_a_gradient_waits_and_then_goes_on_as_if_alone() -> None:
    params = [nn.Parameter(drawn(6, 5, seed=k)) for k in range(2)]
    optimizer = BlockLowRank(params, lr=0.02, rank=2, update_interval=3)
    seen: list[list[Tensor]] = [[], []]
    for i in range(12):
        for k, param in enumerate(params):
            param.grad = drawn(6, 5, seed=10 * i + k) if k == 0 or i % 3 else None
            if param.grad is not None:
                seen[k].append(param.grad.clone())
        optimizer.step()
    for k, param in enumerate(params):
        alone = trained(drawn(6, 5, seed=k), seen[k], lr=0.02, rank=2, update_interval=3)
        torch.testing.assert_close(param.detach(), alone, rtol=1e-10, atol=1e-12)


@given(
    seed=st.integers(0, 1000), rank=st.sampled_from([1, 2, 3, 4, 5, 8]), interval=st.sampled_from([1, 4]),
    core=st.sampled_from(["diagonal", "full"]),
)  # fmt: skip
def test_turning_the_inputs_turns_the_update(seed: int, rank: int, interval: int, core: str) -> None:
    """If all gradients lie in the basis, which the first of them spans, no direction of the inputs is special."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    span = torch.randn(rank, 8, generator=generator, dtype=torch.float64)
    grads = [torch.randn(8, rank, generator=generator, dtype=torch.float64) @ span for _ in range(12)]
    start = torch.zeros(8, 8, dtype=torch.float64)
    options = {"lr": 0.1, "rank": rank, "core": core, "update_interval": interval, "block": "row"}
    straight = trained(start, grads, **options)
    turned = trained(start, [grad @ turn for grad in grads], **options)
    torch.testing.assert_close(turned, straight @ turn, rtol=1e-4, atol=1e-5)


def test_the_size_of_the_gradients_does_not_matter() -> None:
    grads = [drawn(6, 9, seed=i) for i in range(1, 15)]
    small, large = (
        trained(drawn(6, 9), [scale * grad for grad in grads], lr=0.02, rank=3, eps=0) for scale in (1e-6, 1e3)
    )
    torch.testing.assert_close(small, large, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("tail", ["scalar", "diagonal", "none"])
@pytest.mark.parametrize("grafting", ["none", "adam"])
@pytest.mark.parametrize("core", ["diagonal", "full"])
def test_runs_are_the_same_bit_for_bit(core: str, tail: str, grafting: str) -> None:
    def run() -> Tensor:
        torch.randn(7)  # the global generator has no say
        grads = [drawn(12, 9, seed=i, dtype=torch.float32) for i in range(20)]
        return trained(torch.zeros(12, 9), grads, rank=3, core=core, update_interval=4, tail=tail, grafting=grafting)

    assert torch.equal(run(), run())


def test_grafting_gives_the_step_the_length_of_adams() -> None:
    grads = [drawn(12, 9, seed=i) for i in range(10)]
    before, after = (
        trained(drawn(12, 9), grads[:count], rank=3, grafting="adam", betas=(0.9, 0.99)) for count in (9, 10)
    )
    adam = [trained(drawn(12, 9), grads[:count], torch.optim.Adam, betas=(0.9, 0.99)) for count in (9, 10)]
    torch.testing.assert_close((after - before).norm(), (adam[1] - adam[0]).norm(), rtol=1e-6, atol=0)


def test_without_a_tail_nothing_moves_outside_of_the_basis() -> None:
    grads = [drawn(12, 9, seed=i) for i in range(9)]
    moved = trained(torch.zeros(12, 9, dtype=torch.float64), grads[:1], rank=3, tail="none", block="row")
    assert torch.linalg.matrix_rank(moved) == 3


@pytest.mark.parametrize("core", ["diagonal", "full"])
def test_an_ill_conditioned_quadratic_is_solved_much_faster_than_by_adam(core: str) -> None:
    """Curvatures 1 to 10^4 along directions that are no coordinates; both methods at the best of the same rates."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64)).Q
    curvature = turn @ torch.diag(torch.logspace(0, 4, 16, dtype=torch.float64)) @ turn.T
    start = torch.randn(4, 16, generator=generator, dtype=torch.float64)

    def loss(optimizer: Any, rate: float, **options: Any) -> float:
        param = nn.Parameter(start.clone())
        steps = optimizer([param], lr=rate, betas=(0.9, 0.99), **options)
        schedule = torch.optim.lr_scheduler.LinearLR(steps, 1.0, 0.0, total_iters=300)
        for _ in range(300):
            param.grad = param.detach() @ curvature
            steps.step()
            schedule.step()
        end = param.detach()
        return float(0.5 * torch.einsum("ij,jk,ik->", end, curvature, end))

    rates = [0.003, 0.01, 0.03, 0.1, 0.3]
    adam = min(loss(torch.optim.Adam, rate) for rate in rates)
    ours = min(loss(BlockLowRank, rate, rank=8, core=core, update_interval=5, block="row") for rate in rates)
    assert ours < 0.1 * adam


def test_weights_of_a_convolution_are_blocks_of_output_channels() -> None:
    grads = [drawn(6, 2, 3, 3, seed=i) for i in range(8)]
    kernel = trained(drawn(6, 2, 3, 3), grads, rank=4, block="row")
    matrix = trained(drawn(6, 2, 3, 3).flatten(1), [grad.flatten(1) for grad in grads], rank=4, block="row")
    torch.testing.assert_close(kernel.flatten(1), matrix)


def test_a_copy_of_the_optimizer_goes_on_alone() -> None:
    param = nn.Parameter(drawn(6, 5))
    optimizer = BlockLowRank([param], rank=2)
    param.grad = drawn(6, 5, seed=1)
    optimizer.step()
    other_param, other = copy.deepcopy((param, optimizer))
    before = param.detach().clone()
    other_param.grad = param.grad.clone()
    other.step()
    assert torch.equal(param, before)
    assert not torch.equal(other_param, before)
