"""From what a user sends to sequences that can be scheduled, or a reason why not."""

from __future__ import annotations

from collections.abc import Callable, Container
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np

from presize.core.lengths import LengthDistribution
from presize.core.request import Request
from presize.engine.model_config import ModelConfig
from presize.engine.outputs import CompletionOutput, RequestMetrics, RequestOutput
from presize.engine.sampling_params import SEED_RANGE, SamplingParams
from presize.engine.sequence import Sequence
from presize.engine.tokenizer import Tokenizer
from presize.errors import CapacityError, InvalidRequestError
from presize.predict import Query


@dataclass(slots=True, eq=False)
class Group:
    """The ``n`` answers to one prompt. stream_interval: news of an answer are wanted once so many of its
    tokens are new, and of its first token and its end at once; 0: only the whole in the end.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    sequences: list[Sequence]
    arrival_s: float
    stream_interval: int

    @property
    def finished(self) -> bool:
        """True once every answer has ended."""
        return all(s.finish_reason is not None for s in self.sequences)

    def news(self, decode: Callable[[SequenceOf[int]], str]) -> RequestOutput | None:
        """What the answers have more than they have told; None if nothing of it is due."""
        new = [news for s in self.sequences if (news := s.news(decode, self.stream_interval)) is not None]
        return self._output(new, finished=self.finished) if new else None

    def output(self, decode: Callable[[SequenceOf[int]], str]) -> RequestOutput:
        """The finished request."""
        return self._output([s.output(decode) for s in self.sequences], finished=True)

    def _output(self, answers: list[CompletionOutput], *, finished: bool) -> RequestOutput:
        return RequestOutput(
            request_id=self.request_id,
            prompt=self.prompt,
            prompt_token_ids=self.prompt_token_ids,
            outputs=answers,
            metrics=self.metrics(),
            finished=finished,
        )

    def metrics(self) -> RequestMetrics:
        """Times count from the arrival; an answer that was aborted early has none."""
        admitted = [s.admitted_s for s in self.sequences if s.admitted_s is not None]
        first = [s.first_token_s for s in self.sequences if s.first_token_s is not None]
        last = max((s.last_token_s for s in self.sequences), default=self.arrival_s)
        return RequestMetrics(
            predicted_tokens=self.sequences[0].predicted_tokens,
            predicted_range=self.sequences[0].predicted_range,
            answers=[(s.request.output_tokens, s.finish_reason) for s in self.sequences],
            forecast_s=self.sequences[0].forecast_s,
            preemptions=sum(s.request.preemptions for s in self.sequences),
            queue_s=min(admitted, default=self.arrival_s) - self.arrival_s,
            ttft_s=min(first, default=self.arrival_s) - self.arrival_s,
            latency_s=max(last - self.arrival_s, 0.0),
            # of one that goes on they are not wanted, and would be copied in every step
            token_gaps_s=[gap for s in self.sequences for gap in s.gaps_s] if self.finished else [],
        )


class Intake:
    """Checks prompts against the model's limits and makes sequences of them."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig, max_model_len: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = config.vocab_size
        self._eos_ids = config.eos_token_ids
        self._max_model_len = max_model_len
        self._seeds = np.random.default_rng(0)  # for requests without a seed: the same engine run gives the same text

    def prompt(self, prompt: str | SequenceOf[int]) -> tuple[str | None, list[int]]:
        """(text if there is one, token ids)."""
        if isinstance(prompt, str):
            if not prompt:
                raise InvalidRequestError("prompt is empty; it must hold at least one token")
            return prompt, self._tokenizer.encode(prompt, most=self._max_model_len - 1)
        for token in prompt:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self._vocab_size:
                raise InvalidRequestError(f"prompt holds {token!r}; token ids go from 0 to {self._vocab_size - 1}")
        return None, list(prompt)

    def group(
        self,
        request_id: str,
        text: str | None,
        ids: list[int],
        params: SamplingParams,
        now: float,
        taken: Container[str],
        *,
        system: bool = False,
        tenant: str = "",
        priority: int = 0,
        stream_interval: int = 0,
    ) -> Group:
        """Sequences for one prompt; their forecasts are still to be set. system: the client gave a system prompt."""
        if request_id in taken:
            raise InvalidRequestError(f"id {request_id!r} is already in work; ids must differ")
        if not ids:
            raise InvalidRequestError("prompt is empty; it must hold at least one token")
        if (largest := max(ids)) >= self._vocab_size:
            raise InvalidRequestError(
                f"the tokenizer made token {largest}; the model's go from 0 to {self._vocab_size - 1}"
            )
        room = self._max_model_len - len(ids)
        if room < 1:
            raise CapacityError(
                f"prompt has {len(ids)} tokens; with at least one of answer it must fit {self._max_model_len}"
            )
        max_tokens = room if params.max_tokens is None else params.max_tokens
        if max_tokens > room:
            raise CapacityError(
                f"prompt of {len(ids)} tokens + max_tokens {max_tokens} = {len(ids) + max_tokens} tokens; "
                f"the longest sequence allowed is {self._max_model_len}"
            )
        if params.min_tokens > max_tokens:
            raise InvalidRequestError(
                f"min_tokens is {params.min_tokens}; only {max_tokens} tokens are left for the answer"
            )
        if bad := [t for t in params.stop_token_ids if t >= self._vocab_size]:
            raise InvalidRequestError(f"stop_token_ids holds {bad[0]}; token ids go from 0 to {self._vocab_size - 1}")
        seed = int(self._seeds.integers(SEED_RANGE[1])) if params.seed is None else params.seed
        query = Query(request_id, ids, max_tokens, params.temperature, system, tenant=tenant)
        sequences = [
            self._sequence(query, params, index, (seed + index) % (SEED_RANGE[1] + 1), now) for index in range(params.n)
        ]
        for sequence in sequences:
            sequence.request.priority = priority
            if stream_interval and sequence.stream is None:
                sequence.stream = self._tokenizer.stream(())
        return Group(request_id, text, ids, sequences, now, stream_interval)

    def _sequence(self, query: Query, params: SamplingParams, index: int, seed: int, now: float) -> Sequence:
        ids, limit = list(query.prompt_token_ids), query.max_tokens
        stop_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else frozenset(self._eos_ids))
        return Sequence(
            request=Request(f"{index}:{query.request_id}", len(ids), limit, LengthDistribution.exactly(limit), now),
            query=query,
            params=params,
            index=index,
            seed=seed,
            token_ids=ids,
            stop_ids=stop_ids,
            stream=self._tokenizer.stream(params.stop) if params.stop else None,
        )
