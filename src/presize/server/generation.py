"""The two endpoints that generate: from a checked body to a response, whole or streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from presize.engine.outputs import RequestMetrics, RequestOutput
from presize.server.answers import Answer, ChatAnswer, TextAnswer, usage
from presize.server.guards import REQUEST_ID, TENANT
from presize.server.protocol import ChatRequest, CompletionRequest, Generation
from presize.server.service import Conversation, Job, Prompt, Service, new_id
from presize.server.stream import EventStream, Whole, event


def chat(service: Service, body: ChatRequest, scope: Scope) -> Response:
    """/v1/chat/completions."""
    conversation = Conversation([message.plain() for message in body.messages])
    return _respond(service, body, [conversation], "chatcmpl", ChatAnswer, scope)


def completion(service: Service, body: CompletionRequest, scope: Scope) -> Response:
    """/v1/completions."""
    return _respond(service, body, body.prompts(), "cmpl", TextAnswer, scope)


def _respond(
    service: Service, body: Any, prompts: Sequence[Prompt], prefix: str, kind: type[Answer], scope: Scope
) -> Response:
    service.check_model(body.model)
    params = body.params()
    job = Job(
        new_id(prefix), prompts, params, body.priority or 0,
        stream_interval=service.options.stream_interval if body.stream else 0,
        tenant=scope.get(TENANT, ""), trace=scope[REQUEST_ID],
    )  # fmt: skip
    answer = kind(
        job.request_id, service.model_name, service.engine.tokenizer,
        n=params.n, logprobs=params.logprobs, forecast=bool(body.return_forecast),
    )  # fmt: skip
    if body.stream:
        return EventStream(_frames(service, job, answer, body))
    return Whole(lambda: _whole(service, job, answer))


async def _whole(service: Service, job: Job, answer: Answer) -> Any:
    found: dict[int, RequestOutput] = {}
    async with service.running(job) as started:
        async for outputs in started.mailbox:
            for output in outputs:
                found[started.places[output.request_id]] = output
                service.finished(job, output)
        return answer.whole([found[place] for place in range(len(job.prompts))])


async def _frames(service: Service, job: Job, answer: Answer, body: Generation) -> AsyncGenerator[list[bytes], None]:
    """Frames as they come; every one with the counts so far, or one more with them in the end, if that is wanted."""
    options = body.stream_options
    counts = [0, 0]
    ended: dict[int, RequestMetrics] = {}

    def frame(chunk: Any) -> bytes:
        if options is not None and options.continuous_usage_stats:
            chunk["usage"] = usage(*counts)
        elif options is not None and options.include_usage:
            chunk["usage"] = None
        return event(chunk)

    async with service.running(job) as started:
        counts[0] = started.prompt_tokens
        openings = (answer.opening(place, forecast) for place, forecast in enumerate(started.forecasts))
        if first := [frame(chunk) for chunk in openings if chunk is not None]:
            yield first
        async for outputs in started.mailbox:
            frames = []
            for output in outputs:
                place = started.places[output.request_id]
                for part in output.outputs:
                    counts[1] += len(part.token_ids)
                    if part.text or part.finish_reason or part.logprobs:
                        frames.append(frame(answer.chunk(place, part)))
                if output.finished:
                    ended[place] = output.metrics
                    service.finished(job, output)
            if frames:
                yield frames
        if (options is not None and options.include_usage) or body.return_forecast:
            metrics = [ended[place] for place in range(len(job.prompts))]
            yield [event(answer.usage_chunk(counts[0], counts[1], metrics))]
