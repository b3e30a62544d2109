"""The engine: requests in, finished answers out, one `step` at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presize.config import BLOCK_SIZE, EngineOptions
from presize.core.ledger import Ledger
from presize.core.request import Request
from presize.core.scheduler import Decision, Scheduler
from presize.engine.hub import resolve
from presize.engine.intake import Group, Intake
from presize.engine.outputs import RequestMetrics, RequestOutput
from presize.engine.plan import SequenceWork
from presize.engine.runner import Runner
from presize.engine.sampler import Sampled
from presize.engine.sampling_params import SamplingParams
from presize.engine.sequence import Sequence
from presize.engine.stats import EngineStats
from presize.engine.tokenizer import Tokenizer
from presize.engine.weights import Progress
from presize.predict import choose


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The engine at this moment; memory in tokens."""

    running: int
    waiting: int
    kv_used_tokens: int
    kv_booked_tokens: int
    kv_capacity_tokens: int
    output_tokens: int


class Engine:
    """Continuous batching over one device. Not thread-safe: one thread adds, steps and aborts."""

    def __init__(
        self, options: EngineOptions, runner: Runner, tokenizer: Tokenizer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.runner, self.tokenizer = runner, tokenizer
        self._clock = clock
        self._set_up(options)

    @classmethod
    def load(cls, options: EngineOptions, report: Progress | None = None) -> Engine:
        """Fetch the model if it must be, and load it. ModelError or ConfigError says what is wrong, in a sentence."""
        directory = resolve(options.model, report=report)
        return cls(options, Runner(options, directory, report), Tokenizer(directory))

    def warm_up(self) -> None:
        """Compile the kernels and touch the memory, past scheduler, predictor and statistics. Only when idle."""
        assert not self.has_unfinished_requests(), "warm_up needs an idle engine"
        (sequence,) = self._intake.group("", None, [0, 0, 0], SamplingParams(seed=0), self._clock(), ()).sequences
        for tokens in (3, 1):  # a prefill, then a decode
            (token,) = self.runner.run([SequenceWork(sequence, tokens, True, [0])]).token_ids
            sequence.request.computed_tokens += tokens
            sequence.request.output_tokens += 1
            sequence.token_ids.append(token)

    def restart(self, **changes: Any) -> None:
        """New scheduler, predictor and statistics with changed options; same weights and pool. Only when idle."""
        assert not self.has_unfinished_requests(), "restart needs an idle engine"
        self._set_up(replace(self.options, **changes))

    def _set_up(self, options: EngineOptions) -> None:
        self.options = options
        self.predictor, self.forecast_source = choose(
            options, options.model, self.tokenizer.fingerprint, self.runner.config.hidden_size
        )
        ledger = Ledger(self.runner.num_blocks, BLOCK_SIZE)
        self.scheduler = Scheduler(
            options, ledger, max_num_seqs=options.max_num_seqs, max_num_batched_tokens=options.max_num_batched_tokens
        )
        self.stats = EngineStats(ledger.capacity_tokens)
        self._intake = Intake(self.tokenizer, self.runner.config, self.runner.max_model_len)
        self._sequences: dict[Request, Sequence] = {}
        self._groups: dict[str, Group] = {}

    def add_request(self, request_id: str, prompt: str | SequenceOf[int], params: SamplingParams) -> None:
        """Queue a prompt (text, or token ids); InvalidRequestError if it can not be served, and nothing changed."""
        text, ids = self._intake.prompt(prompt)
        self.add_tokens(request_id, ids, params, text=text)

    def add_chat(self, request_id: str, messages: SequenceOf[dict[str, str]], params: SamplingParams) -> None:
        """Queue a conversation, put into the model's chat template."""
        ids = self.tokenizer.encode_chat(messages, most=self.runner.max_model_len - 1)
        self.add_tokens(request_id, ids, params, system=messages[0]["role"] == "system")

    def add_tokens(
        self,
        request_id: str,
        ids: list[int],
        params: SamplingParams,
        *,
        text: str | None = None,
        system: bool = False,
        tenant: str = "",
        priority: int = 0,
        stream_interval: int = 0,
    ) -> RequestMetrics:
        """Queue a prompt that is tokens already; what is forecast of it, times still 0.

        system: the client gave a system prompt. tenant: see `Query`. priority: lower goes first.
        stream_interval: `step` returns what is new of an answer whenever that is so many tokens, its first one and its
        end at once; 0: only the whole in the end.
        """
        group = self._intake.group(
            request_id, text, ids, params, self._clock(), self._groups,
            system=system, tenant=tenant, priority=priority, stream_interval=stream_interval,
        )  # fmt: skip
        curves = self.predictor.predict([s.query for s in group.sequences])
        forecast_s = self._clock() - group.arrival_s
        for sequence, curve in zip(group.sequences, curves, strict=True):
            sequence.forecast_s = forecast_s
            sequence.request.forecast = curve
            sequence.predicted_tokens = curve.quantile(0.5)
            sequence.predicted_range = curve.quantile(0.05), curve.quantile(0.95)
            self.scheduler.check_fits(sequence.request)
            self.scheduler.check_attainable(sequence.request)
        for sequence in group.sequences:
            self.scheduler.add(sequence.request)
            self._sequences[sequence.request] = sequence
        self._groups[request_id] = group
        return group.metrics()

    def step(self) -> list[RequestOutput]:
        """Schedule, run, postprocess, collect. Returns the requests that finished, and news of those that stream."""
        started = self._clock()
        decision = self.scheduler.schedule()
        sampled = self._run(decision)
        drawn = self._postprocess(decision, sampled, started)
        return self._collect(drawn)

    def _run(self, decision: Decision) -> Sampled:
        ledger = self.scheduler.ledger
        work = [
            SequenceWork(self._sequences[w.request], w.num_tokens, w.draws, ledger.held(w.request.request_id))
            for w in decision.work
        ]
        return self.runner.run(work, with_states=self.predictor.needs_states) if work else Sampled([], [])

    def _postprocess(self, decision: Decision, sampled: Sampled, started: float) -> list[Sequence]:
        """Hand out the drawn tokens; the sequences that got one."""
        now = self._clock()
        ledger = self.scheduler.ledger
        self.stats.step(decision, ledger.held_blocks * BLOCK_SIZE, started, now)
        self.scheduler.complete(decision, now - started)
        for request in decision.admitted:
            self._sequences[request].admitted_s = started
        drawing = [self._sequences[w.request] for w in decision.work if w.draws]
        if sampled.first_states is not None:
            self._refine([s for s in drawing if s.request.output_tokens == 1], sampled.first_states)
        for sequence, token, logprobs in zip(drawing, sampled.token_ids, sampled.logprobs, strict=True):
            sequence.append(token, now, logprobs)
        return drawing

    def _refine(self, sequences: list[Sequence], states: NDArray[np.float32]) -> None:
        """Better curves for answers whose prompt has just been through the model; states (n, C)."""
        curves = self.predictor.refine([s.query for s in sequences], states)
        if curves is not None:
            for sequence, curve in zip(sequences, curves, strict=True):
                self.scheduler.revise(sequence.request, curve)

    def _collect(self, drawn: list[Sequence]) -> list[RequestOutput]:
        """Free the memory of what ended, learn its lengths, and return the requests that are complete or stream."""
        ended = [s for s in drawn if s.finish_reason is not None]
        for sequence in ended:
            self._retire(sequence)
        outputs = []
        for group in dict.fromkeys(self._groups[s.query.request_id] for s in drawn):
            if group.stream_interval and (news := group.news(self.tokenizer.decode)) is not None:
                outputs.append(news)
            if group.finished:
                whole = self._close(group)
                outputs += [] if group.stream_interval else [whole]
        if ended:
            self.predictor.refresh(np.array([r.output_tokens for r in self.scheduler.running], dtype=np.int64))
        if not self.has_unfinished_requests():
            self.scheduler.ledger.check_integrity()
        return outputs

    def _retire(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence.request)
        del self._sequences[sequence.request]
        natural = sequence.finish_reason == "stop"
        self.predictor.observe(sequence.query, sequence.request.output_tokens, censored=not natural)

    def _close(self, group: Group) -> RequestOutput:
        del self._groups[group.request_id]
        output = group.output(self.tokenizer.decode)
        self.stats.finished(output, sum(s.request.recomputed_tokens for s in group.sequences))
        return output

    def abort(self, request_id: str) -> RequestOutput | None:
        """Stop a request wherever it is; its memory is free at once. None if there is no such request."""
        group = self._groups.get(request_id)
        if group is None:
            return None
        for sequence in group.sequences:
            if sequence.finish_reason is None:
                sequence.finish_reason = "abort"
                self._retire(sequence)
        return self._close(group)

    def has_unfinished_requests(self) -> bool:
        """True while any request runs or waits."""
        return self.scheduler.has_unfinished_requests()

    def sequence(self, request: Request) -> Sequence:
        """What is known of a request beyond what the scheduler sees."""
        return self._sequences[request]

    def now(self) -> float:
        """Seconds on the engine's clock."""
        return self._clock()

    def snapshot(self) -> Snapshot:
        """Counts for a progress display or a metric."""
        scheduler, ledger = self.scheduler, self.scheduler.ledger
        return Snapshot(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_used_tokens=ledger.held_blocks * BLOCK_SIZE,
            kv_booked_tokens=scheduler.booked_tokens(),
            kv_capacity_tokens=ledger.capacity_tokens,
            output_tokens=self.stats.output_tokens,
        )
