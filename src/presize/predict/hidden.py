"""A probe on the served model's own state: what it made of the prompt tells how long its answer will be.

Read is the hidden state of the prompt's last token after the last norm, which is there anyway when the first token of
the answer is drawn: a better curve for a request that runs, from a net of one hidden layer. After TRAIL (Shahout et
al., ICLR 2025), which probes an inner layer at every token, and EGTP (2025), which pools all tokens of the prompt.
Learned by `presize.predict.train.hidden`; numpy alone here. N prompts, D the served model's width, K cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from presize.core.lengths import GRID, FloatArray, IntArray, LengthDistribution
from presize.errors import ModelError
from presize.predict.base import Predictor, Query
from presize.predict.features import SIDES, Float32
from presize.predict.hazard import sigmoid, survival_of
from presize.predict.learned import Learned
from presize.predict.model import MODELS, Arrays, StateModel, checked

LIMIT = 5.0  # standard deviations to which a state's numbers are clipped


@MODELS.register("hidden")
class Hidden(StateModel):
    """Weights as `presize.predict.train.hidden.HiddenNet` names them; mean, scale (D,) standardise a state."""

    def __init__(self, arrays: Arrays) -> None:
        self._w, sizes = checked(arrays, _SHAPES)
        if sizes["I"] != sizes["D"] + len(SIDES) or not 1 <= sizes["K"] < GRID.size:
            raise ModelError("the sizes of the predictor's weights do not fit together")
        self.size = sizes["D"]

    @classmethod
    def restored(cls, arrays: Arrays, directory: Path) -> Hidden:
        return cls(arrays)

    def arrays(self) -> Arrays:
        return dict(self._w)

    def curves(self, states: Float32, sides: Float32) -> FloatArray:
        return survival_of(sigmoid(self.logits(states, sides)))

    def logits(self, states: Float32, sides: Float32) -> Float32:
        """(N, K) hazard logits; ModelError if the states are not those of a model of this width."""
        if states.shape[1:] != (self.size,):
            raise ModelError(f"the predictor reads states of {self.size} numbers; the model's have {states.shape[-1]}")
        w = self._w
        read = np.clip((states - w["mean"]) * w["scale"], -LIMIT, LIMIT)
        inner = np.concatenate([read, sides], axis=1) @ w["hidden"] + w["hidden_bias"]
        return np.asarray(np.maximum(inner, 0.0) @ w["decode"] + w["decode_bias"])


_SHAPES: dict[str, tuple[int | str, ...]] = {
    "mean": ("D",),
    "scale": ("D",),
    "hidden": ("I", "h"),
    "hidden_bias": ("h",),
    "decode": ("h", "K"),
    "decode_bias": ("K",),
}


class Refining(Predictor):
    """``first`` forecasts what waits; once a request runs, ``probe`` knows better."""

    needs_states = True

    def __init__(self, first: Predictor, probe: Learned) -> None:
        self.first, self.probe = first, probe

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        return self.first.predict(queries)

    def refine(self, queries: Sequence[Query], states: NDArray[np.float32]) -> list[LengthDistribution]:
        return self.probe.predict([replace(q, state=state) for q, state in zip(queries, states, strict=True)])

    def observe(self, query: Query, output_tokens: int, *, censored: bool) -> None:
        self.first.observe(query, output_tokens, censored=censored)

    def refresh(self, running: IntArray) -> None:
        self.first.refresh(running)
