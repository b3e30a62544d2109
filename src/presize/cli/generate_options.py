"""Options of `presize generate` and `presize bench` that are not the engine's: how rows are read and answered."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from presize.config import Options, option
from presize.engine.sampling_params import (
    MAX_LOGPROBS,
    MAX_N,
    MAX_TOKENS,
    SEED_RANGE,
    SamplingParams,
)
from presize.errors import ConfigError, InvalidRequestError


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(Options):
    """How answers are drawn; a row of the input overrides each of these by a field of the same name."""

    temperature: float = option(0.0, "randomness; 0 takes the most likely token each time (greedy)", low=0, high=100)
    max_tokens: int | None = option(
        512, "most tokens of an answer; none is all that the context has left", low=1, high=MAX_TOKENS
    )
    min_tokens: int = option(0, "tokens before an answer may end by itself", low=0, high=MAX_TOKENS)
    top_p: float = option(1.0, "draw from the likeliest tokens that make up this share", low=0, high=1)
    top_k: int = option(0, "draw from this many of the likeliest tokens; 0 is all", low=-1, high=2**31)
    min_p: float = option(0.0, "drop tokens less likely than this share of the likeliest", low=0, high=1)
    presence_penalty: float = option(0.0, "subtracted once from tokens that the answer has", low=-2, high=2)
    frequency_penalty: float = option(0.0, "subtracted for each time that the answer has a token", low=-2, high=2)
    repetition_penalty: float = option(1.0, "divides the score of tokens that came before", low=0, high=100)
    seed: int | None = option(
        None, "seed of every row (default: from the engine's own)", low=SEED_RANGE[0], high=SEED_RANGE[1]
    )
    stop: tuple[str, ...] = option((), "the answer ends before this text")
    stop_token_ids: tuple[int, ...] = option((), "the answer ends at this token", low=0, high=2**31)
    ignore_eos: bool = option(False, "go on to max_tokens even when the model ends its answer")
    n: int = option(1, "answers for each row", low=1, high=MAX_N)
    logprobs: int | None = option(
        None, "report log probabilities: of the chosen token and of this many alternatives", low=0, high=MAX_LOGPROBS
    )

    def __post_init__(self) -> None:
        # The tuples' bounds are for their entries, so the base's check of numbers is not for them;
        # SamplingParams checks everything there is to check, also what no closed range can say.
        try:
            SamplingParams(**self.sampling())
        except InvalidRequestError as error:
            raise ConfigError(str(error)) from error

    def sampling(self) -> dict[str, Any]:
        """Arguments for SamplingParams, by field."""
        return {f.name: getattr(self, f.name) for f in fields(SamplingOptions)}


@dataclass(frozen=True, kw_only=True)
class InputOptions(Options):
    """How rows are read."""

    chat: bool = option(False, "take a `prompt` string as one user message: the chat template is applied to it")


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(InputOptions, SamplingOptions):
    """All options of `presize generate` besides the engine's."""
