"""What a step costs, learned from the steps themselves.

seconds = fixed + per_sequence * decodes + prefill * prefill_tokens, a least-squares fit that forgets slowly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from presize.core.lengths import FloatArray


@dataclass(frozen=True, slots=True)
class StepCosts:
    """fixed_s: seconds of a step whatever is in it; sequence_s: more a decoding sequence; prefill_s: more a token."""

    fixed_s: float
    sequence_s: float
    prefill_s: float


class CostEstimator:
    """Recursive least squares with exponential forgetting, kept at or above zero.

    Starts from a guess that only sets ratios (nothing in `core` depends on absolute speed): a step's fixed cost is
    that of twenty prefill tokens, about what reading the weights once costs on a CPU.
    """

    _FORGET = 0.998  # about the last 500 steps
    _OUTLIER = 4.0  # times the forecast; the first steps compile kernels

    def __init__(self) -> None:
        self._costs = StepCosts(2e-2, 5e-4, 1e-3)
        self._prior: FloatArray | None = None
        self._gram: FloatArray = np.zeros((3, 3))
        self._moment: FloatArray = np.zeros(3)
        self._steps = 0

    @property
    def costs(self) -> StepCosts:
        """The present estimate."""
        return self._costs

    def observe(self, decodes: int, prefill_tokens: int, seconds: float) -> None:
        """One step that decoded ``decodes`` sequences and prefilled ``prefill_tokens`` tokens."""
        if not seconds > 0 or decodes + prefill_tokens == 0:
            return
        x = np.array([1.0, decodes, prefill_tokens])
        current = np.array([self._costs.fixed_s, self._costs.sequence_s, self._costs.prefill_s])
        if self._prior is None:  # the first step sets the scale of the guess
            self._prior = current * (seconds / float(x @ current))
            current = self._prior
        elif self._steps > 20:
            seconds = min(seconds, self._OUTLIER * float(x @ current))
        self._steps += 1
        # relative errors matter, so each step is weighted by 1 / seconds**2
        self._gram = self._FORGET * self._gram + np.outer(x, x) / seconds**2
        self._moment = self._FORGET * self._moment + x / seconds
        self._costs = StepCosts(*(float(v) for v in self._solve(current)))

    def _solve(self, current: FloatArray) -> FloatArray:
        """Ridge towards the first guess, scaled so that it weighs about one step; then the best point >= 0."""
        assert self._prior is not None
        ridge = np.diag(0.05 / self._prior**2)
        gram, moment = self._gram + ridge, self._moment + ridge @ self._prior
        solution = np.linalg.solve(gram, moment)
        if (solution < 0).any():  # a few sweeps of coordinate descent; three unknowns
            solution = np.maximum(current, 0.0)
            for _ in range(30):
                for k in range(3):
                    rest = moment[k] - gram[k] @ solution + gram[k, k] * solution[k]
                    solution[k] = max(rest / gram[k, k], 0.0)
        return np.maximum(solution, 1e-9)
