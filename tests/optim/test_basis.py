"""Orthonormal rows as a GPU takes them, in a few products for all layers, against QR in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from presize.optim import BlockLowRank, layers
from presize.optim.basis import cholesky_qr


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[-1]))


def rotation(*shape: int) -> Tensor:
    """Orthonormal rows."""
    rows: Tensor = torch.linalg.qr(drawn(*shape).mT).Q.mT
    return rows


DIFFICULT = {
    "one row": drawn(1, 1, 7),
    "as many rows as numbers": drawn(1, 10, 10),
    "groups": drawn(3, 4, 50),
    "parallel but for a millionth": drawn(1, 1, 300) + 1e-6 * drawn(1, 16, 300),
    "lengths over twelve decades": torch.logspace(0, -12, 64)[:, None] * drawn(1, 64, 900),
    "tiny": 1e-30 * drawn(1, 4, 20),
    "huge": 1e30 * drawn(1, 4, 20),
}


@pytest.mark.parametrize("name", DIFFICULT)
def test_rows_are_those_of_a_qr_decomposition(name: str) -> None:
    rank = DIFFICULT[name].shape[1]
    rows = [DIFFICULT[name], drawn(1, rank, 100)]
    for old, new in zip(rows, cholesky_qr(rows, [rotation(*part.shape) for part in rows]), strict=True):
        wanted = torch.linalg.qr(old.double().mT).Q.mT
        signs = (wanted * new).sum(-1, keepdim=True).sign()
        torch.testing.assert_close(new.double() * signs, wanted, rtol=0, atol=1e-5)
        products = new.double() @ new.double().mT
        torch.testing.assert_close(products, torch.eye(rank).double().expand_as(products), rtol=0, atol=1e-6)


def test_what_is_missing_is_made_up_and_stays_orthonormal() -> None:
    """Rows of zeros, and more rows than there are directions."""
    zeros, few = drawn(1, 6, 40), drawn(1, 6, 3) @ drawn(1, 3, 50)
    zeros[0, [1, 4]] = 0.0
    exactly = torch.cat([drawn(1, 6, 3), torch.zeros(1, 6, 47)], -1)
    rows = [zeros, few, exactly, torch.zeros(1, 6, 9)]
    for found in cholesky_qr(rows, [rotation(*part.shape) for part in rows]):
        products = found.double() @ found.double().mT
        torch.testing.assert_close(products, torch.eye(6)[None].double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("still", [0, 3])
def test_a_step_does_not_depend_on_the_way(still: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a layer that has no gradient in the first steps, as one behind a zero matrix."""

    def trained() -> list[Tensor]:
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in [(12, 30), (30, 12)]]
        optimizer = BlockLowRank(params, lr=0.02, rank=4, update_interval=3)
        for step in range(still + 15):
            for param in params:
                param.grad = torch.randn_like(param) if step >= still else torch.zeros_like(param)
            optimizer.step()
        assert all(optimizer.state[param]["core"].sum() > 0 for param in params)
        return params

    by_qr = trained()
    monkeypatch.setattr(layers, "orthonormal", cholesky_qr)
    by_products = trained()
    if still:  # then the two have no basis in common
        return
    for one, other in zip(by_qr, by_products, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
