"""A learned model as a predictor: what it reads, its curves, corrected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from presize.core.lengths import FloatArray, LengthDistribution
from presize.predict.base import Predictor, Query
from presize.predict.calibration import Calibration
from presize.predict.features import Features
from presize.predict.model import LengthModel
from presize.predict.store import load


class Learned(Predictor):
    """Asks ``model`` in one batch; ``features`` say what it sees, ``calibration`` corrects what it says."""

    def __init__(self, model: LengthModel, features: Features, calibration: Calibration) -> None:
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

    def survival(self, queries: Sequence[Query]) -> FloatArray:
        """(N, G) curves that end nowhere: max_tokens is not applied."""
        prompts = [self.features.tokens(query) for query in queries]
        sides = self.features.sides(queries, [len(prompt) for prompt in prompts])
        return self.calibration.apply(self.model.curves(prompts, sides))
