"""What became of one request."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no whole answer.

    kind: ``http 429`` and such; ``connection``; ``timeout``; ``stream``, an error inside of it; ``protocol``, what is
    no stream of OpenAI's; ``unfinished``, the run was stopped first.
    """

    kind: str
    message: str


UNFINISHED = Failure("unfinished", "the run was stopped before the answer was whole")
REJECTED = "http 429"  # the kind of a request that the server had no room for


@dataclass(slots=True)
class Outcome:
    """Times in seconds; those of the answer count from when the request was sent first.

    scheduled_s, started_s: since the run's start, as planned and as it was; ttft_s: to the first frame with text (or,
    in an answer without any, to its end); e2el_s: to the last frame of the answer, or to its refusal; gaps_s: between
    its frames with text; input_tokens, output_tokens: as the server counted them, if it did; retries: how often it was
    sent again.
    """

    scheduled_s: float = 0.0
    started_s: float = 0.0
    ttft_s: float | None = None
    e2el_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    frames: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    text: str = ""
    retries: int = 0
    failure: Failure | None = None

    @property
    def tokens(self) -> int:
        """Output tokens by the server's count; without one, the frames that had text."""
        return self.frames if self.output_tokens is None else self.output_tokens

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first: the answer's own mean. None for an answer of one token."""
        if self.ttft_s is None or self.tokens < 2:
            return None
        return (self.e2el_s - self.ttft_s) / (self.tokens - 1)

    @property
    def queued_s(self) -> float:
        """How long the request waited at the client, for a place or because the client was late."""
        return max(0.0, self.started_s - self.scheduled_s)
