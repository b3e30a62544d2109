"""What a request gives back. Attribute names follow vLLM's where there is one."""

from __future__ import annotations

from dataclasses import dataclass, field

TokenLogprobs = dict[int, float]  # token id -> natural log of its probability


@dataclass(slots=True)
class CompletionOutput:
    """One answer, or what is new of one that goes on: then finish_reason is None.

    finish_reason: ``stop``, ``length`` or ``abort``; stop_reason: the string or id that stopped it.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None
    stop_reason: str | int | None = None
    logprobs: list[TokenLogprobs] | None = None
    cumulative_logprob: float | None = None


@dataclass(slots=True)
class RequestMetrics:
    """Times in seconds from the request's arrival; ``predicted_tokens`` is the forecast's median at arrival.

    queue_s: until it was first admitted; predicted_range: the forecast's central 90 %; answers: tokens so far, and the
    finish reason, of each.
    """

    predicted_tokens: int
    preemptions: int
    ttft_s: float
    latency_s: float
    token_gaps_s: list[float] = field(default_factory=list)
    queue_s: float = 0.0
    forecast_s: float = 0.0  # that the forecast took
    predicted_range: tuple[int, int] = (0, 0)
    answers: list[tuple[int, str | None]] = field(default_factory=list)


@dataclass(slots=True)
class RequestOutput:
    """All answers to one prompt (``n`` of them), in the order of their index.

    Of a request that streams there is one whenever there is news, with the answers that have some and what it is;
    ``finished`` is the last one. Metrics are complete with that only.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    metrics: RequestMetrics
    finished: bool = True
