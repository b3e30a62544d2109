"""A learned model as a predictor: what it reads, its curves, corrected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from presize.core.lengths import FloatArray, LengthDistribution
from presize.errors import ConfigError
from presize.predict.base import Predictor, Query
from presize.predict.calibration import Calibration
from presize.predict.features import Features, Float32
from presize.predict.model import AnyModel, StateModel
from presize.predict.store import load


class Learned(Predictor):
    """Asks ``model`` in one batch; ``features`` say what it sees, ``calibration`` corrects what it says."""

    def __init__(self, model: AnyModel, features: Features, calibration: Calibration) -> None:
        self.model, self.features, self.calibration = model, features, calibration

    @classmethod
    def load(cls, directory: Path, tokenizer: str | None = None) -> Learned:
        """From a directory of `presize learn`; ModelError if it is damaged or not for this ``tokenizer``."""
        header, model = load(directory, tokenizer)
        return cls(model, header.features, header.calibration)

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        return [
            LengthDistribution.from_survival(curve, query.max_tokens)
            for curve, query in zip(self.survival(queries), queries, strict=True)
        ]

    def describe(self) -> str:
        return type(self.model).__name__.lower()

    def survival(self, queries: Sequence[Query]) -> FloatArray:
        """(N, G) curves that end nowhere: max_tokens is not applied.

        ConfigError if the model reads hidden states and they are not known.
        """
        prompts = [self.features.tokens(query) for query in queries]
        sides = self.features.sides(queries, [len(prompt) for prompt in prompts])
        if isinstance(self.model, StateModel):
            return self.calibration.apply(self.model.curves(states_of(queries), sides))
        return self.calibration.apply(self.model.curves(prompts, sides))


def states_of(queries: Sequence[Query]) -> Float32:
    """(N, D) hidden states of the queries' prompts; ConfigError if one is not known."""
    states = [query.state for query in queries if query.state is not None]
    if len(states) < len(queries):
        raise ConfigError(
            "this predictor reads what the served model makes of a prompt, which is known only once the model has run; "
            "name one that reads prompts, such as attention or encoder"
        )
    return np.stack(states).astype(np.float32, copy=False)
