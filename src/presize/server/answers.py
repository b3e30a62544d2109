"""Answers as OpenAI has them: whole ones, and the chunks of a stream. Plain dicts; the route makes JSON of them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from presize.engine.outputs import CompletionOutput, RequestMetrics, RequestOutput, TokenLogprobs
from presize.engine.tokenizer import Tokenizer

Json = dict[str, Any]


class Answer(ABC):
    """One response. Choice number: prompt * n + index."""

    kind: str
    chunk_kind: str

    def __init__(
        self, request_id: str, model: str, tokenizer: Tokenizer, *, n: int, logprobs: int | None, forecast: bool
    ) -> None:
        self.request_id, self.model, self.created = request_id, model, int(time.time())
        self._tokenizer, self._n, self._logprobs, self._forecast = tokenizer, n, logprobs, forecast

    def whole(self, outputs: Sequence[RequestOutput]) -> Json:
        """The response to a request that does not stream."""
        choices = [
            self._choice(number * self._n + answer.index, answer)
            for number, output in enumerate(outputs)
            for answer in output.outputs
        ]
        body = self._frame(self.kind, choices)
        body["usage"] = usage(
            sum(len(o.prompt_token_ids) for o in outputs), sum(len(a.token_ids) for o in outputs for a in o.outputs)
        )
        if self._forecast:
            body["presize"] = forecast_of([o.metrics for o in outputs])
        return body

    def opening(self, prompt: int, forecast: RequestMetrics) -> Json | None:
        """The chunk before the first token of a prompt's answers, if there is to be one."""
        choices = self._opening_choices(range(prompt * self._n, (prompt + 1) * self._n))
        if not choices and not self._forecast:
            return None
        body = self._frame(self.chunk_kind, choices)
        if self._forecast:
            body["presize"] = forecast_of([forecast], ended=False)
        return body

    def chunk(self, prompt: int, answer: CompletionOutput) -> Json:
        """What is new of one answer."""
        return self._frame(self.chunk_kind, [self._delta(prompt * self._n + answer.index, answer)])

    def usage_chunk(self, prompt_tokens: int, completion_tokens: int, metrics: Sequence[RequestMetrics]) -> Json:
        """The last chunk, if the counts are wanted."""
        body = self._frame(self.chunk_kind, [])
        body["usage"] = usage(prompt_tokens, completion_tokens)
        if self._forecast:
            body["presize"] = forecast_of(metrics)
        return body

    def _frame(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self.request_id, "object": kind, "created": self.created, "model": self.model, "choices": choices,
        }  # fmt: skip

    @abstractmethod
    def _choice(self, number: int, answer: CompletionOutput) -> Json: ...

    @abstractmethod
    def _delta(self, number: int, answer: CompletionOutput) -> Json: ...

    def _opening_choices(self, numbers: range) -> list[Json]:
        return []

    def _top(self, logprobs: TokenLogprobs) -> list[tuple[int, float]]:
        """The likeliest alternatives, best first."""
        return sorted(logprobs.items(), key=lambda item: -item[1])[: self._logprobs]


class ChatAnswer(Answer):
    """/v1/chat/completions."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def _choice(self, number: int, answer: CompletionOutput) -> Json:
        return {
            "index": number,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": self._listed(answer),
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
        }

    def _delta(self, number: int, answer: CompletionOutput) -> Json:
        choice: Json = {
            "index": number,
            "delta": {"content": answer.text},
            "logprobs": self._listed(answer),
            "finish_reason": answer.finish_reason,
        }
        if answer.stop_reason is not None:
            choice["stop_reason"] = answer.stop_reason
        return choice

    def _opening_choices(self, numbers: range) -> list[Json]:
        delta = {"role": "assistant", "content": ""}
        return [{"index": i, "delta": delta, "logprobs": None, "finish_reason": None} for i in numbers]

    def _listed(self, answer: CompletionOutput) -> Json | None:
        if answer.logprobs is None:
            return None
        content = []
        for token_id, logprobs in zip(answer.token_ids, answer.logprobs, strict=True):
            alternatives = [self._entry(other, value) for other, value in self._top(logprobs)]
            content.append({**self._entry(token_id, logprobs[token_id]), "top_logprobs": alternatives})
        return {"content": content, "refusal": None}

    def _entry(self, token_id: int, logprob: float) -> Json:
        text = self._tokenizer.token_text(token_id)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


class TextAnswer(Answer):
    """/v1/completions."""

    kind = chunk_kind = "text_completion"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._offsets: dict[int, int] = {}

    def _choice(self, number: int, answer: CompletionOutput) -> Json:
        return {
            "index": number,
            "text": answer.text,
            "logprobs": self._listed(number, answer),
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
        }

    _delta = _choice

    def _listed(self, number: int, answer: CompletionOutput) -> Json | None:
        if answer.logprobs is None:
            return None
        tokens = [self._tokenizer.token_text(token_id) for token_id in answer.token_ids]
        offset = self._offsets.get(number, 0)
        offsets = []
        for text in tokens:
            offsets.append(offset)
            offset += len(text)
        self._offsets[number] = offset
        return {
            "tokens": tokens,
            "token_logprobs": [each[i] for i, each in zip(answer.token_ids, answer.logprobs, strict=True)],
            "top_logprobs": [
                {self._tokenizer.token_text(i): value for i, value in self._top(each)} for each in answer.logprobs
            ],
            "text_offset": offsets,
        }


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """Counts of a response."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def forecast_of(metrics: Sequence[RequestMetrics], *, ended: bool = True) -> Json:
    """Presize's own part: what was forecast of each prompt's answer, and, once it has ended, what became of it."""
    found: Json = {
        "predicted_tokens": [m.predicted_tokens for m in metrics],
        "predicted_range": [list(m.predicted_range) for m in metrics],
    }
    if ended:
        found |= {
            "queue_s": [round(m.queue_s, 4) for m in metrics],
            "ttft_s": [round(m.ttft_s, 4) for m in metrics],
            "latency_s": [round(m.latency_s, 4) for m in metrics],
            "preemptions": sum(m.preemptions for m in metrics),
        }
    return found
