"""A learned predictor that goes on learning from the answers that are served.

It forecasts with the newest version that beat the one before on answers held out, never further from the base than
`online.bound` allows. When answers no longer fall within the forecasts as they should, forecasts are widened
at once by the recent lengths' own curve, with a weight of at most `online.drift.MAX_WEIGHT`: that part is the
one thing that another tenant's traffic can do beyond the bound. Of several tenants none has more than a quarter of
what is kept (`online.reservoir.Recent`): a quarter of its size, so more of what is there while others have
sent little.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path

from presize.config import SchedulerOptions
from presize.core.lengths import IntArray, LengthDistribution
from presize.errors import ConfigError
from presize.predict.base import Predictor, Query
from presize.predict.learned import Learned
from presize.predict.model import LengthModel
from presize.predict.online.drift import Drift
from presize.predict.online.home import Counts
from presize.predict.online.learner import RETRAIN_EVERY, Learner


class Online(Predictor):
    """counts: what became of the versions, whole numbers that go on over restarts. drift: coverage, and whether it is
    off its target. `close` it, or leave that to the end of the process.
    """

    def __init__(
        self,
        directory: Path,
        base_directory: Path,
        options: SchedulerOptions,
        tokenizer: str | None = None,
        *,
        retrain_every: int = RETRAIN_EVERY,
        background: bool = True,
    ) -> None:
        """Go on in ``directory`` with the predictor in ``base_directory``; see `Learned.load` and `Home` for errors.

        tokenizer: fingerprint of the served model's. Without ``background`` nothing is done until `learner.turn`.
        """
        base = Learned.load(base_directory, tokenizer)
        if not isinstance(base.model, LengthModel):
            raise ConfigError(f"learn_online needs a predictor that reads prompts; {base_directory} is none")
        self._features = base.features
        self.learner = Learner(directory, base_directory, base, retrain_every)
        self.drift = Drift(options, self.learner.drifted)
        self._end = weakref.finalize(self, self.learner.close)
        if background:
            self.learner.start()

    @property
    def counts(self) -> Counts:
        """See the class."""
        return self.learner.counts

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        if not queries:
            return []
        version = self.learner.version
        prompts = [self._features.tokens(query) for query in queries]
        sides = self._features.sides(queries, [len(prompt) for prompt in prompts])
        plain = [LengthDistribution.from_survival(curve) for curve in version.served.curves(prompts, sides)]
        self.drift.expect(queries, [curve.survival for curve in plain], version.number)
        return [
            curve.capped(query.max_tokens)
            if (wide := self.drift.widened(curve.survival)) is curve.survival
            else LengthDistribution.from_survival(wide, query.max_tokens)
            for curve, query in zip(plain, queries, strict=True)
        ]

    def observe(self, query: Query, output_tokens: int, *, censored: bool) -> None:
        self.drift.ended(query, output_tokens, censored=censored)
        if output_tokens > 0:
            self.learner.put(query, output_tokens, censored)

    def refresh(self, running: IntArray) -> None:
        self.drift.running(len(running))

    def describe(self) -> str:
        return f"online version {self.learner.version.number}"

    def close(self) -> None:
        """End a retraining that runs, save, and let another process learn in the directory."""
        self._end()
