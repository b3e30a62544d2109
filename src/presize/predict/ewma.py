"""As `kaplan-meier`, but old answers count less and less: for traffic that changes."""

from __future__ import annotations

import numpy as np

from presize.predict.base import PREDICTORS, Query
from presize.predict.kaplan_meier import KaplanMeier

HALF_LIFE = 256  # answers


@PREDICTORS.register("ewma")
class Ewma(KaplanMeier):
    """Exponentially weighted history: an answer weighs half as much after HALF_LIFE later ones."""

    _KEEP = 0.5 ** (1.0 / HALF_LIFE)

    def observe(self, query: Query, output_tokens: int, *, censored: bool) -> None:
        for counts in (self._ended, self._censored, self._exposure):
            np.multiply(counts, self._KEEP, out=counts)
        super().observe(query, output_tokens, censored=censored)
