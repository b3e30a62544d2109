"""Approximations of second moments: against loops over entries, closed cases, and properties that must hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from presize.errors import ConfigError
from presize.optim.report import chosen, report, sampled
from presize.optim.second_moment import (
    block_diagonal,
    blocks_of,
    error,
    errors,
    exact,
    heat_map,
    kfac,
    own_basis,
    shampoo,
    shared_basis,
)


def drawn(samples: int, rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return torch.randn(samples, rows, columns, generator=generator, dtype=torch.float64) @ mix


def test_the_exact_matrix_is_the_mean_of_products_of_entries() -> None:
    grads = drawn(5, 2, 3)
    matrix, places = exact(grads), list(itertools.product(range(2), range(3)))
    for (i, (a, b)), (j, (c, d)) in itertools.product(enumerate(places), enumerate(places)):
        wanted = np.mean([float(grad[a, b] * grad[c, d]) for grad in grads])
        assert float(matrix[i, j]) == pytest.approx(wanted)
    blocks = blocks_of(grads)
    for i in range(2):
        torch.testing.assert_close(blocks[i], matrix[3 * i : 3 * i + 3, 3 * i : 3 * i + 3])


def test_kronecker_factors_are_exact_where_both_sides_are_independent() -> None:
    """All pairs of some deltas with some inputs: then E[d d^T a a^T] is the product of the two means."""
    deltas, inputs = drawn(1, 4, 3)[0], drawn(1, 5, 2, seed=1)[0]
    pairs = list(itertools.product(deltas, inputs))
    grads = torch.stack([torch.outer(delta, given_) for delta, given_ in pairs])
    assert error(shampoo(grads), exact(grads)) < 1e-12
    d, a = torch.stack([delta for delta, _ in pairs]), torch.stack([given_ for _, given_ in pairs])
    assert error(kfac(a, d, len(grads)), exact(grads)) < 1e-12


def test_blocks_that_differ_in_scale_alone_share_a_basis_at_no_cost() -> None:
    block = drawn(9, 1, 6)[:, 0].mT @ drawn(9, 1, 6)[:, 0]
    blocks = torch.stack([scale * block for scale in (1.0, 5.0, 0.1)])
    for rank in range(7):
        assert error(shared_basis(blocks, rank), own_basis(blocks, rank)) < 1e-9


@given(seed=st.integers(0, 100), rank=st.integers(0, 5), groups=st.sampled_from([1, 2, 4]))
def test_own_is_at_most_shared_and_more_rank_or_groups_are_no_worse(seed: int, rank: int, groups: int) -> None:
    blocks = blocks_of(drawn(7, 4, 5, seed))
    own, shared = (error(kind, blocks) for kind in (own_basis(blocks, rank), shared_basis(blocks, rank, groups)))
    assert own <= shared + 1e-12
    assert error(shared_basis(blocks, min(rank + 1, 5), groups), blocks) <= shared + 1e-12
    assert error(shared_basis(blocks, 5, groups), blocks) < 1e-9
    assert error(shared_basis(blocks, rank, 4), blocks) == pytest.approx(own, abs=1e-9)


def test_the_table_agrees_with_the_matrices() -> None:
    grads = drawn(6, 4, 5)
    table = errors(grads, drawn(1, 6, 5, 1)[0], drawn(1, 6, 4, 2)[0], ranks=(2,), heads=2)
    full, rows = exact(grads), blocks_of(grads)
    low = block_diagonal(shared_basis(rows, 2))
    assert table["shared basis by row, rank 2"]["full"] == pytest.approx(error(low, full))
    assert table["shared basis by row, rank 2"]["blocks"] == pytest.approx(error(low, block_diagonal(rows)))
    assert table["blocks by row"]["full"] == pytest.approx(error(block_diagonal(rows), full))
    by_head = table["shared basis by head, rank 2"]["blocks"]
    assert table["own basis by row, rank 2"]["blocks"] <= by_head
    columns = exact(grads.mT)
    assert table["blocks by column"]["full"] == pytest.approx(error(block_diagonal(blocks_of(grads.mT)), columns))


def test_a_heat_map_shows_where_the_mass_is() -> None:
    matrix = torch.zeros(8, 8, dtype=torch.float64)
    matrix[2:4, 6:8] = 3.0
    matrix[7, 7] = 6.0
    heat = heat_map(matrix, 4)
    assert heat.shape == (4, 4)
    assert heat[1, 3] == 1.0
    assert heat[3, 3] == pytest.approx(1.0)
    assert heat.sum() == pytest.approx(2.0)
    assert heat_map(matrix, 100).shape == (8, 8)
    assert not heat_map(torch.zeros(3, 3), 2).any()


def test_what_is_too_large_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match="100 x 100; at most 4096"):
        exact(torch.zeros(1, 100, 100))
    with pytest.raises(ConfigError, match="must divide the 4 rows"):
        shared_basis(torch.zeros(4, 3, 3), 1, groups=3)


class Attention(nn.Module):
    """A layer of each type, by the names that people give them."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(6, 6) for _ in range(4))
        self.up_proj, self.down_proj = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        x = x + self.o_proj((q @ k.mT).softmax(-1) @ v)
        out: Tensor = x + self.down_proj(self.up_proj(x).relu())
        return out


def test_the_gradients_that_are_sampled_are_those_of_the_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), Attention())
    batches = [torch.randn(2, 5, 6) for _ in range(4)]
    layers = sampled(model, batches, lambda net, x: net(x).square().mean(), samples=3, rows=4, columns=5)
    assert [layer.kind for layer in layers] == [
        "query",
        "key",
        "value",
        "output",
        "feed-forward in",
        "feed-forward out",
    ]
    assert all(param.requires_grad and param.grad is None for param in model.parameters())
    for i, batch in enumerate(batches[:3]):
        model.zero_grad()
        model(batch).square().mean().backward()
        for layer in layers:
            weight = model.get_parameter(f"{layer.name}.weight")
            torch.testing.assert_close(layer.grads[i], weight.grad[:4, :5], rtol=1e-5, atol=1e-7)
    found = report(layers, (1, 2), 2)
    assert {"diagonal", "kfac", "shared basis by head, rank 2"} <= set(found[0]["errors"])


def test_samples_that_can_not_be_had_are_refused_and_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].bias.requires_grad_(False)
    with pytest.raises(ConfigError, match="samples is 3; there are only 2 batches"):
        sampled(model, [torch.ones(1, 3)] * 2, lambda net, x: net(x).sum(), samples=3, rows=3, columns=3)
    with pytest.raises(ConfigError, match="must be finite"):
        sampled(model, [torch.ones(1, 3) / 0], lambda net, x: net(x).sum(), samples=1, rows=3, columns=3)
    assert not model[0].bias.requires_grad
    assert model[0].weight.requires_grad
    with pytest.raises(ConfigError, match=r"no torch\.nn\.Linear"):
        chosen(nn.Sequential(nn.Tanh()))
