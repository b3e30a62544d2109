"""Where a request's forecast comes from: at once from the answers so far, and later, off the loop, from a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from presize.config import SchedulerOptions
from presize.core.lengths import IntArray, LengthDistribution
from presize.errors import ConfigError
from presize.predict import PREDICTORS, Predictor, Query
from presize.predict.background import Background
from presize.predict.learned import Learned
from presize.predict.model import LengthModel
from presize.predict.online import Online


class Forecasts:
    """history: asked in the loop, it takes microseconds. model: asked on a thread; None if there is none."""

    def __init__(self, history: Predictor, model: Predictor | None) -> None:
        self._history = history
        self.model = None if model is None else Background(model)

    @classmethod
    def of(cls, options: SchedulerOptions, tokenizer: Callable[[], str | None], rank: int | None = None) -> Forecasts:
        """By the option ``predictor``; ConfigError or ModelError if there is none of that name.

        tokenizer: gives the fingerprint of the served model's, or None if it is not known; only a learned predictor
        needs it. rank: of several engines; each learns online in a directory of its own.
        """
        if options.predictor in PREDICTORS:
            return cls(PREDICTORS.get(options.predictor)(options), None)
        directory = Path(options.predictor)
        history = PREDICTORS.get("kaplan-meier")(options)
        if options.learn_online is not None:
            home = Path(options.learn_online)
            home = home if rank is None else home / f"rank{rank}"
            return cls(history, Online(home, directory, options, tokenizer()))
        learned = Learned.load(directory, tokenizer())
        if not isinstance(learned.model, LengthModel):
            raise ConfigError(
                f"the predictor in {directory} reads the served model's states, which vLLM does not hand out; "
                "learn attention, encoder or linear"
            )
        return cls(history, learned)

    def first(self, query: Query) -> LengthDistribution:
        """A curve to queue with; if there is a model it is asked for a better one."""
        if self.model is not None and len(query.prompt_token_ids):
            self.model.ask(query)
        (curve,) = self._history.predict([query])
        return curve

    def news(self, most: int) -> Iterator[tuple[str, LengthDistribution]]:
        """Up to ``most`` (request id, curve) that the model has given since."""
        return iter(()) if self.model is None else self.model.answers(most)

    def observe(self, query: Query, output_tokens: int, *, censored: bool) -> None:
        """An answer ended; see `Predictor.observe`."""
        self._history.observe(query, output_tokens, censored=censored)
        if self.model is not None:
            self.model.observe(query, output_tokens, censored=censored)

    def refresh(self, running: IntArray) -> None:
        """Answers ended, and these are the tokens that the running ones have."""
        self._history.refresh(running)
        if self.model is not None:
            self.model.refresh(running)

    def close(self) -> None:
        """Save what was learned online."""
        if self.model is not None and isinstance(self.model.inner, Online):
            self.model.inner.close()
