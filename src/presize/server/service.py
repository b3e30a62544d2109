"""From a checked request to the engine and back: a place in the queue, tokens, a deadline, and no loose ends."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from presize.config import EngineOptions, ServeOptions
from presize.engine.engine import Engine
from presize.engine.outputs import RequestMetrics, RequestOutput
from presize.engine.sampling_params import SamplingParams
from presize.errors import EngineFailed, PresizeError
from presize.server.errors import ApiError
from presize.server.gate import Gate
from presize.server.logs import note
from presize.server.metrics import Metrics
from presize.server.view import EngineView
from presize.server.worker import Mailbox, Status, Worker

_PATIENCE_S = 2.0  # that a look at the engine waits for a step to end


@dataclass(frozen=True, slots=True)
class Conversation:
    """To be put into the chat template; messages as it wants them."""

    messages: list[dict[str, str]]


Prompt = str | list[int] | Conversation


@dataclass(slots=True)
class Job:
    """One HTTP request for answers. Times on the monotonic clock. trace: its X-Request-Id; ended: by prompt."""

    request_id: str
    prompts: Sequence[Prompt]
    params: SamplingParams
    priority: int
    stream_interval: int  # 0: whole
    tenant: str = ""
    trace: str = ""
    arrived: float = field(default_factory=time.monotonic)
    ended: list[RequestOutput] = field(default_factory=list)

    @property
    def characters(self) -> int:
        """Length of the prompts, as far as it is known before they are tokenized."""
        return sum(_characters(prompt) for prompt in self.prompts)


@dataclass(slots=True)
class Started:
    """A job that the engine has taken: of each prompt the forecast and its length; ``places`` by the request's id."""

    forecasts: list[RequestMetrics]
    prompt_tokens: int
    places: dict[str, int]
    mailbox: Mailbox


class Service:
    """The engine, its queue and its figures, for the routes."""

    def __init__(self, options: ServeOptions, engine_options: EngineOptions, load: Callable[[], Engine]) -> None:
        self.options, self.engine_options = options, engine_options
        self.model_name = options.served_model_name or engine_options.model
        self.started_s = time.time()
        self.draining = False
        self.active = 0  # jobs, from their arrival to their outcome
        self.idle = asyncio.Event()
        self.idle.set()
        self._start_s = 1.0
        self.gate = Gate(options.max_queued_requests, options.max_queued_tokens, lambda count: count * self._start_s)
        self.worker = Worker(load, self._on_status)
        self.metrics = Metrics(self.model_name, engine_options, compat=options.metrics_compat == "vllm")
        # one thread: the tokenizer is fast, and the engine needs the cores
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="presize-tokenizer")

    @property
    def engine(self) -> Engine:
        """The engine, to read what never changes; ApiError until it is loaded, and once it has ended."""
        engine = self.worker.engine
        if self.worker.error is not None:
            raise ApiError(503, str(EngineFailed("the engine has failed; see the server's log")), code="engine_failed")
        if engine is None:
            raise ApiError(503, "the model is still loading", code="loading", retry_after=5)
        return engine

    def trouble(self) -> str | None:
        """Why the server can not be sent requests now; None if it can."""
        if self.worker.error is not None:
            return "dead"
        if not self.worker.loaded.is_set():
            return "loading"
        if self.draining:
            return "draining"
        return "stuck" if self.worker.step_seconds() > self.options.stuck_after else None

    def check_model(self, name: str | None) -> None:
        """ApiError if a request asks for another model."""
        if name is not None and name not in (self.model_name, self.engine_options.model):
            raise ApiError(404, f"the model {name!r} does not exist; this server has {self.model_name!r}",
                           param="model", code="model_not_found")  # fmt: skip

    async def tokenize(self, prompt: Prompt, *, special: bool = True, most: int | None = None) -> list[int]:
        """Token ids, made off the event loop; CapacityError before they are if they are certain to exceed ``most``."""
        tokenizer = self.engine.tokenizer
        if isinstance(prompt, Conversation):
            encode = partial(tokenizer.encode_chat, prompt.messages, most=most)
        elif isinstance(prompt, str):
            encode = partial(tokenizer.encode, prompt, special=special, most=most)
        else:
            return prompt
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, encode)

    async def detokenize(self, ids: list[int]) -> str:
        """The text of token ids, special ones shown; InvalidRequestError for one that does not exist."""
        engine = self.engine
        if ids and (largest := max(ids)) >= engine.runner.config.vocab_size:
            raise ApiError(400, f"tokens holds {largest}; token ids go from 0 to {engine.runner.config.vocab_size - 1}",
                           param="tokens")  # fmt: skip
        decode = engine.tokenizer.decode
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, decode, ids)

    @asynccontextmanager
    async def running(self, job: Job) -> AsyncIterator[Started]:
        """The job in the engine; when the block is left its requests have ended, or are given up at once.

        ApiError says why it can not be taken, or that its time is over. The outcome is counted, exactly one.
        """
        ids = [f"{job.request_id}-{i}" for i in range(len(job.prompts))]
        outcome = "error"
        limit = asyncio.timeout(self.options.request_timeout)
        self.active += 1
        self.metrics.arrived()
        self.idle.clear()
        try:
            async with limit:
                yield await self._start(job, ids)
            outcome = "success"
        except TimeoutError as error:
            outcome = "timeout"
            raise ApiError(503, f"not done within {self.options.request_timeout:g} s", code="timeout") from error
        except (asyncio.CancelledError, GeneratorExit):  # the latter: a stream ends while the client does not read
            outcome = "timeout" if limit.expired() else "disconnect"
            raise
        except ApiError as error:
            outcome = "refused" if error.status in (400, 429) else "error"
            raise
        except EngineFailed as error:
            raise ApiError(503, str(error), code="engine_failed" if self.worker.error else "draining") from error
        except PresizeError as error:
            outcome = "refused"
            raise ApiError.of(error) from error
        finally:
            for request_id in ids:
                self.worker.abort(request_id)
            self.metrics.outcome(outcome)
            _log(job, outcome)
            self.active -= 1
            if self.active == 0:
                self.idle.set()

    async def _start(self, job: Job, ids: list[str]) -> Started:
        if self.draining:
            raise ApiError(503, "the server is stopping", code="draining", retry_after=self.options.shutdown_timeout)
        most = self.engine.runner.max_model_len - 1
        sequences = len(job.prompts) * job.params.n
        if sequences > self.options.max_queued_requests:
            raise ApiError(
                400, f"prompts x n is {sequences}; at most {self.options.max_queued_requests} may wait", param="n"
            )
        with self.gate.place(sequences, job.characters) as place:
            tokens = [await self.tokenize(prompt, most=most) for prompt in job.prompts]
            self.gate.settle(place, job.params.n * sum(len(t) for t in tokens))
            mailbox = Mailbox(len(ids))
            forecasts = []
            for request_id, each, prompt in zip(ids, tokens, job.prompts, strict=True):
                entered = partial(self.gate.entered, place, job.params.n, job.params.n * len(each))
                add = _adding(request_id, each, prompt, job)
                forecasts.append(await self.worker.submit(request_id, mailbox, add, entered))
        places = {request_id: place for place, request_id in enumerate(ids)}
        self.metrics.started(sum(len(t) for t in tokens))
        return Started(forecasts, sum(len(t) for t in tokens), places, mailbox)

    async def look(self) -> None:
        """Bring the metrics' view up to date, unless the engine is busy for long."""
        if self.worker.loaded.is_set() and not self.worker.ended.is_set():
            with suppress(TimeoutError, EngineFailed):
                self.metrics.view = await asyncio.wait_for(self.worker.call(EngineView.of), _PATIENCE_S)

    def _on_status(self, status: Status) -> None:
        self.gate.engine_requests, self.gate.engine_tokens = status.waiting, status.waiting_tokens
        self._start_s = status.start_s

    def finished(self, job: Job, output: RequestOutput) -> None:
        """A request of the job has its whole answer."""
        job.ended.append(output)
        self.metrics.finished(output, job.params)

    def give_up(self) -> None:
        """Every job that is left gets an error."""
        self.worker.fail_all(EngineFailed("the server is stopping"))

    async def close(self) -> None:
        """End the engine's thread; one that still loads ends with the process."""
        self.worker.stop()
        if self.worker.loaded.is_set():
            await self.worker.ended.wait()
        self._tokenizing.shutdown(wait=False)


def _characters(prompt: Prompt) -> int:
    """A token counts as the gate guesses it: four."""
    if isinstance(prompt, Conversation):
        return sum(len(message["content"]) for message in prompt.messages)
    return len(prompt) if isinstance(prompt, str) else 4 * len(prompt)


def _adding(request_id: str, ids: list[int], prompt: Prompt, job: Job) -> Callable[[Engine], RequestMetrics]:
    text = prompt if isinstance(prompt, str) else None
    system = isinstance(prompt, Conversation) and prompt.messages[0]["role"] == "system"
    return lambda engine: engine.add_tokens(
        request_id, ids, job.params, text=text, system=system, tenant=job.tenant, priority=job.priority,
        stream_interval=job.stream_interval,
    )  # fmt: skip


def _log(job: Job, outcome: str) -> None:
    """One line: what was asked, forecast and given."""
    metrics = [output.metrics for output in job.ended]
    facts: dict[str, Any] = {"id": job.request_id, "trace": job.trace, "outcome": outcome}
    if metrics:
        facts |= {
            "prompt_tokens": sum(len(output.prompt_token_ids) for output in job.ended),
            "output_tokens": sum(tokens for m in metrics for tokens, _ in m.answers),
            "predicted_tokens": sum(m.predicted_tokens * len(m.answers) for m in metrics),
            "queue_s": max(m.queue_s for m in metrics),
            "ttft_s": max(m.ttft_s for m in metrics),
        }
    note("request", **facts, seconds=time.monotonic() - job.arrived)


def new_id(prefix: str) -> str:
    """As OpenAI's: ``chatcmpl-`` or ``cmpl-`` and 32 hexadecimal digits."""
    return f"{prefix}-{uuid.uuid4().hex}"
