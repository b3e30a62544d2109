"""One answer while it is being generated: tokens, text, times. Its counts live in the core request."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

from presize.core.request import Request
from presize.engine.outputs import CompletionOutput, TokenLogprobs
from presize.engine.sampling_params import SamplingParams
from presize.engine.tokenizer import TextStream
from presize.predict import Query


@dataclass(slots=True, eq=False)
class Sequence:
    """Answer ``index`` of a prompt. Times are in seconds on the engine's clock."""

    request: Request
    query: Query
    params: SamplingParams
    index: int
    seed: int
    token_ids: list[int]  # prompt, then answer
    stop_ids: frozenset[int]  # ids that end the answer; among them the model's own end unless it is ignored
    stream: TextStream | None  # only where text is wanted early, or stop strings must be looked for
    predicted_tokens: int = 0
    predicted_range: tuple[int, int] = (0, 0)
    forecast_s: float = 0.0
    admitted_s: float | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    text: str | None = None  # known early only if a stop string cut it
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    cumulative_logprob: float = 0.0
    first_token_s: float | None = None
    last_token_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    told_tokens: int = 0  # how much a client that streams has been told
    told_text: int = 0
    told_end: bool = False

    @property
    def output_ids(self) -> list[int]:
        """Tokens of the answer so far."""
        return self.token_ids[self.request.prompt_tokens :]

    @property
    def text_ids(self) -> list[int]:
        """Those that are shown as text: a stop token that ended the answer is not."""
        return self.output_ids[:-1] if isinstance(self.stop_reason, int) else self.output_ids

    def append(self, token_id: int, now: float, logprobs: TokenLogprobs | None) -> None:
        """Take the next token, and see whether it ends the answer. Call after the request has counted it."""
        self.token_ids.append(token_id)
        if self.first_token_s is None:
            self.first_token_s = now
        else:
            self.gaps_s.append(now - self.last_token_s)
        self.last_token_s = now
        if logprobs is not None:
            self.logprobs.append(logprobs)
            self.cumulative_logprob += logprobs[token_id]
        self._check_end(token_id)

    def _check_end(self, token_id: int) -> None:
        generated = self.request.output_tokens
        if token_id in self.stop_ids and generated > self.params.min_tokens:
            self.finish_reason = "stop"
            self.stop_reason = token_id if token_id in self.params.stop_token_ids else None
        elif self.stream is not None and self.stream.push(token_id, generated > self.params.min_tokens):
            self.finish_reason, self.stop_reason = "stop", self.stream.matched
            self.text = self.stream.text
        elif generated >= self.request.max_tokens:
            self.finish_reason = "length"

    def news(self, decode: Callable[[SequenceOf[int]], str], interval: int) -> CompletionOutput | None:
        """What has come since it was told last, if that is its first token, its end or ``interval`` tokens. Only for
        one that has a stream.
        """
        assert self.stream is not None
        new = self.request.output_tokens - self.told_tokens
        if self.told_end or new < (interval if self.told_tokens and self.finish_reason is None else 1):
            return None
        if self.finish_reason is None:
            text = self.stream.text[self.told_text : self.stream.settled]
        else:  # bytes that make no character yet are shown as what they are
            text = self.full_text(decode)[self.told_text :]
        news = CompletionOutput(
            index=self.index,
            text=text,
            token_ids=self.token_ids[self.request.prompt_tokens + self.told_tokens :],
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            logprobs=self.logprobs[self.told_tokens :] if self.params.logprobs is not None else None,
        )
        self.told_tokens = self.request.output_tokens
        self.told_text += len(text)
        self.told_end = self.finish_reason is not None
        return news

    def full_text(self, decode: Callable[[SequenceOf[int]], str]) -> str:
        """The text of the answer as far as it goes."""
        return decode(self.text_ids) if self.text is None else self.text

    def output(self, decode: Callable[[SequenceOf[int]], str]) -> CompletionOutput:
        """The finished answer, with its text."""
        assert self.finish_reason is not None
        wanted = self.params.logprobs is not None
        return CompletionOutput(
            index=self.index,
            text=self.full_text(decode),
            token_ids=self.output_ids,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            logprobs=self.logprobs if wanted else None,
            cumulative_logprob=self.cumulative_logprob if wanted else None,
        )
