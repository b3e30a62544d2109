"""The (Y, Z) form: decoder logits Y and attention logits Z, moved by Lemma 1's gradients.

Y = U W_V^T U^T (M x M) and Z = U W_Q W_K^T U^T / sqrt(d) (M x M). Only rows of Y for context tokens and rows of Z for
queries ever matter, so Y is kept as (C, J) and Z as (Q, C). The J columns of Y are the K next tokens and the others.
From Y = 0 all others stay equal, and are one column that counts M - K times: O(C K) memory, not O(M^2).
Several runs that see the same data are stacked in front: (S, C, J) and (S, Q, C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from presize.errors import ConfigError, check_range
from presize.theory.scan_snap.data import Classes, FloatArray


@dataclass(frozen=True, slots=True)
class State:
    """Y (S, C, J), Z (S, Q, C), and how many tokens each column of Y stands for (J,)."""

    decoder: FloatArray
    scores: FloatArray
    multiplicity: FloatArray

    @classmethod
    def zero(cls, classes: Classes, runs: int = 1) -> State:
        """Y(0) = Z(0) = 0, the M - K tokens that are never next as one column."""
        count, context = classes.probabilities.shape
        others = classes.tokens - count
        multiplicity = np.array([1.0] * count + ([float(others)] if others else []))
        decoder = np.zeros((runs, context, len(multiplicity)))
        return cls(decoder, np.zeros((runs, classes.queries, context)), multiplicity)

    @classmethod
    def uniform(cls, classes: Classes, runs: int, rng: np.random.Generator) -> State:
        """Even in +-1/sqrt(M), as PyTorch starts a linear map; the same start for all runs."""
        _, context = classes.probabilities.shape
        reach = classes.tokens**-0.5
        decoder = rng.uniform(-reach, reach, (context, classes.tokens))
        scores = rng.uniform(-reach, reach, (classes.queries, context))
        return cls(
            np.repeat(decoder[None], runs, axis=0), np.repeat(scores[None], runs, axis=0), np.ones(classes.tokens)
        )


@dataclass(frozen=True, slots=True)
class Gradients:
    """Mean ascent directions of J for Y (S, C, J) and Z (S, Q, C), a token of a column; loss (S,) = -J."""

    decoder: FloatArray
    scores: FloatArray
    loss: FloatArray


def gradients(
    classes: Classes, state: State, drawn: NDArray[np.int64], counts: FloatArray, decoupled: bool = False
) -> Gradients:
    """Lemma 1, averaged over B sequences of classes ``drawn`` (B,), whose context tokens occur ``counts`` (B, C) times.

    With X^T b = v and f = v / ||v||:
        Ydot = f (x_{T+1} - alpha)^T,    alpha = softmax(Y^T f)
        Zdot = x_T ( diag(v) P_perp(v) Y (x_{T+1} - alpha) / ||v|| )^T
    The second holds since X^T diag(b) X = diag(v) for one-hot rows. Relative counts, such as P(l|n), do as well: that
    is the limit of long sequences.

    decoupled: Ydot = (F^+)^T (x_{T+1} - alpha)^T instead, with F^+ the pseudo-inverse of the B directions. Then
    W = F^T Y moves as Theorem 1 has it, wdot_n = e_n - alpha_n for the class that came and nothing for the others.
    Plain gradients do so only where classes do not overlap at all.
    """
    asked = classes.query[drawn]
    scores = state.scores[:, asked]  # (S, B, C)
    mixed = counts * np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed /= mixed.sum(axis=-1, keepdims=True)
    norm = np.linalg.norm(mixed, axis=-1, keepdims=True)
    direction = mixed / norm
    logits = direction @ state.decoder + np.log(state.multiplicity)
    logits -= logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    rows = np.arange(len(drawn))
    loss = (total[:, rows, 0] - logits[:, rows, drawn]).mean(axis=-1)
    residual = -np.exp(logits - total)
    residual[:, rows, drawn] += 1.0
    back = residual @ state.decoder.swapaxes(1, 2)  # (S, B, C)
    back -= direction * (direction * back).sum(axis=-1, keepdims=True)
    back *= mixed / norm
    chosen = (np.arange(classes.queries)[:, None] == asked).astype(np.float64) / len(drawn)  # (Q, B)
    basis = np.linalg.pinv(direction) if decoupled else direction.swapaxes(1, 2)  # (S, C, B)
    decoder = basis @ (residual / (state.multiplicity * len(drawn)))
    return Gradients(decoder, chosen @ back, loss)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How it is trained. eta_y, eta_z: a rate for each of the S runs.

    batch_size: None takes the expectation over all classes and endless sequences; length: T, the query included;
    decoupled: see `gradients`, for endless sequences only.
    """

    eta_y: tuple[float, ...]
    eta_z: tuple[float, ...]
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.0
    batch_size: int | None = None
    length: int = 128
    decoupled: bool = False

    def __post_init__(self) -> None:
        for name, rates in (("eta_z", self.eta_z), ("eta_y", self.eta_y)):
            for rate in rates:
                check_range(name, rate, 0, 1e6, above=True)
        if len(self.eta_y) != len(self.eta_z) or not self.eta_y:
            raise ConfigError(f"eta_y has {len(self.eta_y)} rates and eta_z {len(self.eta_z)}; one of each a run")
        if self.optimizer not in ("sgd", "adam"):
            raise ConfigError(f"optimizer is {self.optimizer!r}; known: sgd, adam")
        check_range("momentum", self.momentum, 0, 0.9999)
        if self.batch_size is not None:
            check_range("batch_size", self.batch_size, 1, 1_000_000)
        check_range("length", self.length, 2, 1_000_000)
        if self.decoupled and self.batch_size is not None:
            raise ConfigError(f"decoupled is for endless sequences; batch_size is {self.batch_size}, it must be None")


Step = Callable[[FloatArray, int], FloatArray]


def descend(
    classes: Classes, settings: Settings, state: State, steps: int, seed: int = 0
) -> Iterator[tuple[int, State, FloatArray]]:
    """(step, state before the step, loss (S,) there) for each step, and the final state with its loss.

    The state's arrays are changed in place by the next turn.
    """
    check_range("steps", steps, 0, 10_000_000)
    rng = np.random.default_rng(seed)
    moves = (_rule(settings, settings.eta_y, state.decoder), _rule(settings, settings.eta_z, state.scores))
    for step in range(steps + 1):
        if settings.batch_size is None:
            drawn, counts = np.arange(classes.count), classes.probabilities
        else:
            drawn, counts = classes.sample(settings.batch_size, settings.length, rng)
        found = gradients(classes, state, drawn, counts, settings.decoupled)
        yield step, state, found.loss
        if step < steps:
            state.decoder[...] += moves[0](found.decoder, step + 1)
            state.scores[...] += moves[1](found.scores, step + 1)


def _rule(settings: Settings, rates: tuple[float, ...], like: FloatArray) -> Step:
    """From a gradient and the step's number to what is added, as torch.optim.SGD and Adam do it."""
    rate = np.asarray(rates)[:, None, None]
    if settings.optimizer == "sgd":
        if not settings.momentum:
            return lambda gradient, step: rate * gradient
        kept = np.zeros_like(like)

        def with_momentum(gradient: FloatArray, step: int) -> FloatArray:
            kept[...] = settings.momentum * kept + gradient
            return np.asarray(rate * kept)

        return with_momentum
    first, second = np.zeros_like(like), np.zeros_like(like)
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    def adam(gradient: FloatArray, step: int) -> FloatArray:
        first[...] = beta1 * first + (1 - beta1) * gradient
        second[...] = beta2 * second + (1 - beta2) * gradient**2
        size = np.sqrt(second / (1 - beta2**step)) + epsilon
        return np.asarray(rate * first / (1 - beta1**step) / size)

    return adam
