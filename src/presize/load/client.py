"""One request to an OpenAI-compatible server: sent, read as it streams, and timed."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson

from presize.errors import PresizeError
from presize.load.answer import AnswerReader, BrokenAnswer, error_text
from presize.load.options import LoadOptions
from presize.load.outcome import REJECTED, Failure, Outcome
from presize.load.rows import Sample
from presize.version import __version__

_PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
_KEEP_ALIVE_S = 4.0  # less than the servers' own: uvicorn's is 5 s, and a connection that it closes fails a request
_ASK_MODELS_S = 30.0
_MOST_ERROR_BYTES = 65_536
_MOST_MESSAGE = 300  # characters


class Unreachable(PresizeError):
    """The server does not answer, or not as one of OpenAI's kind."""


class Client:
    """on_text is called for every frame of every answer that has text."""

    def __init__(
        self, session: aiohttp.ClientSession, options: LoadOptions, model: str, on_text: Callable[[], None]
    ) -> None:
        self._session, self._options, self._model, self._on_text = session, options, model, on_text
        self._url = options.root + _PATHS[options.endpoint]

    async def ask(self, sample: Sample, *, ignore_eos: bool) -> Outcome:
        """Send, and read to the end. What goes wrong is in the outcome's failure; nothing is raised but a cancel."""
        body = orjson.dumps(self._body(sample, ignore_eos))
        outcome, sent_s = Outcome(), time.perf_counter()
        try:
            async with asyncio.timeout(self._options.timeout):
                while (wait_s := await self._attempt(body, outcome, sent_s)) is not None:
                    outcome.retries += 1
                    await asyncio.sleep(wait_s)
        except BrokenAnswer as error:
            outcome.failure = error.failure
            outcome.e2el_s = time.perf_counter() - sent_s
        except TimeoutError:
            outcome.failure = Failure("timeout", f"no whole answer within {self._options.timeout:g} s")
        except (aiohttp.ClientError, OSError) as error:
            outcome.failure = Failure("connection", _brief(error))
        return outcome

    def _body(self, sample: Sample, ignore_eos: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model, "max_tokens": sample.output_len,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        if self._options.endpoint == "completions":
            body["prompt"] = sample.prompt
        elif isinstance(sample.prompt, str):
            body["messages"] = [{"role": "user", "content": sample.prompt}]
        else:
            body["messages"] = sample.prompt
        if ignore_eos:  # a server that does not know it refuses it, so it is not sent as false
            body["ignore_eos"] = True
        if self._options.temperature is not None:
            body["temperature"] = self._options.temperature
        return body

    async def _attempt(self, body: bytes, outcome: Outcome, sent_s: float) -> float | None:
        """None once the answer is read; seconds to wait before another attempt; BrokenAnswer otherwise."""
        async with await self._post(body) as response:
            if response.status != 200:
                failure = Failure(f"http {response.status}", await _message(response))
                wait_s = retry_after_s(response.headers.get("retry-after"), datetime.now(UTC))
                left_s = sent_s + self._options.timeout - time.perf_counter()
                if self._options.retry and failure.kind == REJECTED and wait_s < left_s:
                    return wait_s
                raise BrokenAnswer(failure)
            if response.content_type != "text/event-stream":
                raise BrokenAnswer(Failure("protocol", f"the answer is {response.content_type}, not an event stream"))
            keep_text = self._options.save_detailed
            reader = AnswerReader(outcome, sent_s, self._on_text, keep_text=keep_text)
            async for chunk in response.content.iter_any():
                reader.feed(chunk, time.perf_counter())
            reader.end()
        return None

    async def _post(self, body: bytes) -> aiohttp.ClientResponse:
        """The beginning of an answer.

        A connection from an earlier request that turns out to be closed says nothing about this one, so it gets
        another: servers close what is idle, and after an error of their own.
        """
        while True:
            use = SimpleNamespace(old=False)
            try:
                return await self._session.post(
                    self._url, data=body, headers={"content-type": "application/json"}, trace_request_ctx=use
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not use.old:
                    raise


def retry_after_s(header: str | None, now: datetime) -> float:
    """The seconds that a Retry-After header asks for, as a number or a date; 1 if it asks for nothing sensible."""
    if header is None:
        return 1.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return 1.0
        seconds = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else 1.0


@asynccontextmanager
async def session(api_key: str | None) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections without a limit of their own, and without the time limits that aiohttp has by default."""
    # compressed frames could come late, and several at once
    headers = {"user-agent": f"presize-bench/{__version__}", "accept-encoding": "identity"}
    if api_key is not None:
        headers["authorization"] = f"Bearer {api_key}"
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=None)
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_old_connection)
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=timeout, trace_configs=[trace]
    ) as made:
        yield made


async def _note_old_connection(http: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.old = True


async def model_of(http: aiohttp.ClientSession, root: str, asked: str | None) -> str:
    """``asked``, or the server's first model. Unreachable if there is no connection, or no model to be found."""
    url = f"{root}/v1/models"
    try:
        async with asyncio.timeout(_ASK_MODELS_S), http.get(url) as response:
            if asked is not None:
                return asked  # it was only to see that somebody is there
            if response.status != 200:
                raise Unreachable(f"{url} says {response.status}, {await _message(response)}; give --model")
            content = orjson.loads(await response.read())
    except (aiohttp.ClientError, OSError) as error:
        reason = f"no answer within {_ASK_MODELS_S:g} s" if isinstance(error, TimeoutError) else _brief(error)
        raise Unreachable(f"the server at {root} can not be reached: {reason}") from error
    except orjson.JSONDecodeError as error:
        raise Unreachable(f"{url} is not JSON; is there an OpenAI-compatible server? If so, give --model") from error
    models = content.get("data") if isinstance(content, Mapping) else None
    if isinstance(models, list) and models and isinstance(models[0], dict) and isinstance(models[0].get("id"), str):
        return str(models[0]["id"])
    raise Unreachable(f"{url} names no model; give --model")


async def _message(response: aiohttp.ClientResponse) -> str:
    raw = b""
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > _MOST_ERROR_BYTES:
            break
    try:
        text = error_text(orjson.loads(raw))
    except orjson.JSONDecodeError:
        text = ""
    text = text or " ".join(raw.decode("utf-8", "replace").split()) or str(response.reason)
    return text if len(text) <= _MOST_MESSAGE else text[: _MOST_MESSAGE - 3] + "..."


def _brief(error: Exception) -> str:
    """One line; the system's own words for what the system refused."""
    cause = getattr(error, "os_error", error)
    number = getattr(cause, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return " ".join(str(getattr(cause, "strerror", None) or cause).split()) or type(error).__name__
