"""References in float64, block by block and step by step, written from the formulas and not from the optimizer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def root_of(matrix: Matrix) -> Matrix:
    """The matrix to the power -1/2, on its range."""
    values, vectors = np.linalg.eigh(matrix)
    inside = values > 1e-11 * values.max()
    return (vectors[:, inside] / np.sqrt(values[inside])) @ vectors[:, inside].T


def exact_block_diagonal(
    start: Matrix, grads: Sequence[Matrix], lr: float, betas: tuple[float, float], decay: float = 0.0
) -> Matrix:
    """Weights after the gradients: each row has its own full second moment, and so a basis of its own."""
    weights, momentum = start.copy(), np.zeros_like(start)
    moments = np.zeros((start.shape[0], start.shape[1], start.shape[1]))
    for count, grad in enumerate(grads, 1):
        momentum = betas[0] * momentum + (1 - betas[0]) * grad
        weights *= 1 - lr * decay
        for i, row in enumerate(grad):
            moments[i] = betas[1] * moments[i] + (1 - betas[1]) * np.outer(row, row)
            root = root_of(moments[i] / (1 - betas[1] ** count))
            weights[i] -= lr * root @ momentum[i] / (1 - betas[0] ** count)
    return weights


def shared_basis(
    start: Matrix, grads: Sequence[Matrix], basis: Matrix, lr: float, betas: tuple[float, float], interval: int,
    diagonal: bool,
) -> Matrix:  # fmt: skip
    """Weights after the gradients: rows share ``basis`` (n, r), outside of it each has a scalar.

    The second moment of row i is modelled as U S_i U^T + rho_i (I - U U^T); a refresh moves the model to a new basis.
    If ``diagonal``, of S_i there is only the diagonal, at any time; else its root is that of the last refresh.
    """
    (m, n), r = start.shape, basis.shape[1]
    weights, momentum, sketch = start.copy(), np.zeros((m, n)), np.zeros((n, r))
    cores, tails = np.zeros((m, r, r)), np.zeros(m)
    roots = np.zeros((m, r, r))
    refreshes = {t for t in range(1, len(grads) + interval + 2) if t % interval == 0 or (t < interval and _is_power(t))}
    for t, grad in enumerate(grads, 1):
        momentum = betas[0] * momentum + (1 - betas[0]) * grad
        inner = grad @ basis
        for i in range(m):
            cores[i] = betas[1] * cores[i] + (1 - betas[1]) * np.outer(inner[i], inner[i])
            rest = np.sum((grad[i] - basis @ inner[i]) ** 2) / (n - r)
            tails[i] = betas[1] * tails[i] + (1 - betas[1]) * rest
            cores[i] *= np.eye(r) if diagonal else 1
        if t in refreshes:
            keep = betas[1] ** (t - max((s for s in refreshes if s < t), default=0))
            sketch = keep * sketch + (1 - keep) * grad.T @ inner
            new, _ = np.linalg.qr(sketch)
            for i in range(m):
                model = basis @ cores[i] @ basis.T + tails[i] * (np.eye(n) - basis @ basis.T)
                cores[i] = (new.T @ model @ new) * (np.eye(r) if diagonal else 1)
                tails[i] = (np.trace(model) - np.trace(cores[i])) / (n - r)
            sketch, basis = sketch @ (basis.T @ new), new
            last = min(s for s in refreshes if s > t) - 1
            unseen = (1 - betas[1] ** (last - t)) / (1 - betas[1] ** last)
            common = cores.mean(0) / np.trace(cores.mean(0))
            for i in range(m):
                roots[i] = root_of((1 - unseen) * cores[i] / np.trace(cores[i]) + unseen * common)
        for i in range(m):
            inside = basis.T @ momentum[i]
            root = root_of(cores[i]) if diagonal else roots[i] / np.sqrt(np.trace(cores[i]))
            step = basis @ root @ inside * np.sqrt(1 - betas[1] ** t)
            step += (momentum[i] - basis @ inside) / np.sqrt(tails[i] / (1 - betas[1] ** t))
            weights[i] -= lr * step / (1 - betas[0] ** t)
    return weights


def _is_power(number: int) -> bool:
    return number & (number - 1) == 0
