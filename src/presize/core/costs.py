"""What a step costs, learned from the steps themselves.

seconds = fixed + per_sequence * decodes + prefill * prefill_tokens, a least-squares fit that forgets slowly. It is made
anew after each of the first steps, and then after every sixteenth: costs change slowly, and solving takes longer than
all the rest of a decision. So it does not depend on who asks, or when.
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

    def decode_s(self, sequences: int) -> float:
        """Seconds of a step that decodes ``sequences`` and prefills nothing."""
        return self.fixed_s + sequences * self.sequence_s


class CostEstimator:
    """Recursive least squares with exponential forgetting, kept at or above zero.

    Starts from a guess that only sets ratios (nothing in `core` depends on absolute speed): a step's fixed cost is
    that of twenty prefill tokens, about what reading the weights once costs on a CPU.
    """

    _FORGET = 0.998  # about the last 500 steps
    _OUTLIER = 4.0  # a step counts as at most this many times longer or shorter than expected ...
    _WARM_UP = 20  # ... once this many are known
    _RIDGE = 0.05
    _EVERY = 16  # steps

    def __init__(self) -> None:
        self._costs = StepCosts(2e-2, 5e-4, 1e-3)
        self._prior: FloatArray | None = None
        self._gram: FloatArray = np.zeros((3, 3))
        self._moment: FloatArray = np.zeros(3)
        self._steps = 0  # in the fit
        self._new: list[tuple[int, int, float]] = []  # and not yet

    @property
    def costs(self) -> StepCosts:
        """The present estimate."""
        return self._costs

    def observe(self, decodes: int, prefill_tokens: int, seconds: float) -> None:
        """One step that decoded ``decodes`` sequences and prefilled ``prefill_tokens`` tokens.

        A step shorter than a nanosecond or longer than eleven days is a broken clock, and is passed over.
        """
        if not 1e-9 <= seconds <= 1e6 or decodes + prefill_tokens == 0:
            return
        self._new.append((decodes, prefill_tokens, seconds))
        if len(self._new) == self._EVERY or self._steps < self._WARM_UP:
            self._costs = self._fit()
            self._new.clear()

    def _fit(self) -> StepCosts:
        """With the n new steps."""
        rows = np.array(self._new, dtype=np.float64)
        seconds, x = rows[:, 2], np.column_stack((np.ones(len(rows)), rows[:, :2]))
        current = np.array([self._costs.fixed_s, self._costs.sequence_s, self._costs.prefill_s])
        if self._prior is None:  # the first step sets the scale of the guess
            self._prior = current * (seconds[0] / float(x[0] @ current))
            current = self._prior
        expected = x @ current
        if self._steps >= self._WARM_UP:
            seconds = np.minimum(np.maximum(seconds, expected / self._OUTLIER), expected * self._OUTLIER)
        self._steps += len(rows)
        # relative errors matter; weighted by what was expected, a step that was wrongly short has no more say
        weights = self._FORGET ** np.arange(len(rows))[::-1] / np.maximum(seconds, expected) ** 2
        z = x * self._prior  # in units of the guess, so that the three unknowns are of one size
        kept = self._FORGET ** len(rows)
        self._gram = kept * self._gram + (weights[:, None] * z).T @ z
        self._moment = kept * self._moment + (weights * seconds) @ z
        return StepCosts(*(float(v) for v in self._solve() * self._prior))

    def _solve(self) -> FloatArray:
        """Ridge towards the first guess, which weighs a twentieth of a step; then the best point >= 0."""
        gram, moment = self._gram + self._RIDGE * np.eye(3), self._moment + self._RIDGE
        solution: FloatArray = np.linalg.lstsq(gram, moment, rcond=None)[0].astype(np.float64)
        if (solution < 0).any():  # a few sweeps of coordinate descent; three unknowns
            solution = np.maximum(solution, 0.0)
            for _ in range(30):
                for k in range(3):
                    rest = moment[k] - gram[k] @ solution + gram[k, k] * solution[k]
                    solution[k] = max(rest / gram[k, k], 0.0)
        return np.maximum(solution, 1e-6)
