"""How one answer is drawn. Same names and meanings as in vLLM, so that a script switches by one import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from presize.errors import InvalidRequestError, check_range

MAX_N = 128
MAX_TOKENS = 2**20
MAX_STOPS = 64
MAX_STOP_LENGTH = 1024
MAX_LOGPROBS = 100
SEED_RANGE = (0, 2**63 - 1)


def _checked(name: str, value: object, low: float, high: float, *, whole: bool = False, above: bool = False) -> None:
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise InvalidRequestError(f"{name} is {value!r}; it must be {kind} from {low:g} to {high:g}")
    check_range(name, value, low, high, InvalidRequestError, above=above)


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Sampling of one request; InvalidRequestError names the field, its value and its range.

    temperature: 0 is greedy.  top_k: 0 or -1 is off.  seed: None draws from the engine's own seed.
    max_tokens: None is all that the context has left.  stop: the text ends before the first of these strings.
    logprobs: how many alternatives to report beside the chosen token (None: none at all).
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    max_tokens: int | None = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _checked("n", self.n, 1, MAX_N, whole=True)
        _checked("temperature", self.temperature, 0, 100)
        _checked("top_p", self.top_p, 0, 1, above=True)
        _checked("top_k", self.top_k, -1, 2**31, whole=True)
        _checked("min_p", self.min_p, 0, 1)
        _checked("presence_penalty", self.presence_penalty, -2, 2)
        _checked("frequency_penalty", self.frequency_penalty, -2, 2)
        _checked("repetition_penalty", self.repetition_penalty, 0, 100, above=True)
        if self.seed is not None:
            _checked("seed", self.seed, *SEED_RANGE, whole=True)
        if self.max_tokens is not None:
            _checked("max_tokens", self.max_tokens, 1, MAX_TOKENS, whole=True)
        _checked("min_tokens", self.min_tokens, 0, MAX_TOKENS, whole=True)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequestError(
                f"min_tokens is {self.min_tokens}; it must be at most max_tokens ({self.max_tokens})"
            )
        if not isinstance(self.ignore_eos, bool):
            raise InvalidRequestError(f"ignore_eos is {self.ignore_eos!r}; it must be true or false")
        if self.logprobs is not None:
            _checked("logprobs", self.logprobs, 0, MAX_LOGPROBS, whole=True)
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if (
            not isinstance(stop, Sequence)
            or len(stop) > MAX_STOPS
            or not all(isinstance(s, str) and 0 < len(s) <= MAX_STOP_LENGTH for s in stop)
        ):
            raise InvalidRequestError(
                f"stop must be a string or up to {MAX_STOPS} strings of 1 to {MAX_STOP_LENGTH} characters"
            )
        object.__setattr__(self, "stop", tuple(stop))
        ids = self.stop_token_ids
        if isinstance(ids, str) or not isinstance(ids, Sequence) or len(ids) > MAX_STOPS:
            raise InvalidRequestError(f"stop_token_ids must be a list of up to {MAX_STOPS} token ids")
        for token_id in ids:
            _checked("stop_token_ids", token_id, 0, 2**31, whole=True)
        object.__setattr__(self, "stop_token_ids", tuple(ids))

    @property
    def greedy(self) -> bool:
        """True when the most likely token is always taken."""
        return self.temperature == 0.0
