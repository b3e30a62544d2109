"""The routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, PlainTextResponse, Response

from presize.errors import PresizeError
from presize.server.errors import ApiError
from presize.server.generation import chat, completion
from presize.server.guards import PAGE_PATHS, Keys, Limits, RequestIds
from presize.server.live import live
from presize.server.protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from presize.server.replies import (
    ChatReply,
    DetokenizeReply,
    ErrorReply,
    Health,
    ModelCard,
    ModelList,
    Picture,
    TextReply,
    TokenizeReply,
    Version,
    documented,
)
from presize.server.service import Conversation, Service
from presize.server.stream import refusal, reply
from presize.version import __version__

_STATIC = Path(__file__).parent / "static"
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "model": ErrorReply}
    for status, text in {
        400: "the request can not be served as it is", 401: "no valid key", 404: "no such model or path",
        413: "the body is too large", 429: "too much is waiting; see Retry-After", 431: "the head is too large",
        503: "loading, stopping or failed",
    }.items()
}  # fmt: skip


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Without FastAPI's own answer to what is not valid: it gets 400 here, as `_invalid` has it."""
        document = super().openapi()
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document


def make_app(service: Service, keys: list[str]) -> Any:
    """The application, with everything that a request passes first."""
    app = _App(title="Presize", version=__version__, docs_url=None, redoc_url=None, responses=_ERRORS)
    _add_generation(app, service)
    _add_models(app, service)
    _add_seeing(app, service)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(PresizeError, _presize_error)
    app.add_exception_handler(Exception, _bug)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    options = service.options
    guarded: Any = Keys(app, keys)
    guarded = Limits(guarded, options.max_connections, options.max_body_bytes, options.max_header_bytes)
    if options.cors_origin:  # outside of the keys: a browser's question before the request has none
        guarded = CORSMiddleware(
            guarded, allow_origins=options.cors_origin, allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )  # fmt: skip
    return RequestIds(guarded)


def _add_generation(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", tags=["generate"], responses=documented(ChatReply, streams=True))
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """An answer to a conversation."""
        return chat(service, body, request.scope)

    @app.post("/v1/completions", tags=["generate"], responses=documented(TextReply, streams=True))
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Texts that go on from prompts."""
        return completion(service, body, request.scope)

    @app.post("/tokenize", tags=["tokens"], responses=documented(TokenizeReply))
    async def tokenize(body: TokenizeRequest) -> Response:
        """Token ids of a text, or of a conversation in the chat template."""
        service.check_model(body.model)
        if body.messages is not None:
            ids = await service.tokenize(Conversation([message.plain() for message in body.messages]))
        else:
            ids = await service.tokenize(body.prompt or "", special=body.add_special_tokens)
        return reply({"count": len(ids), "max_model_len": service.engine.runner.max_model_len, "tokens": ids})

    @app.post("/detokenize", tags=["tokens"], responses=documented(DetokenizeReply))
    async def detokenize(body: DetokenizeRequest) -> Response:
        """The text of token ids."""
        service.check_model(body.model)
        return reply({"prompt": await service.detokenize(body.tokens)})


def _add_models(app: FastAPI, service: Service) -> None:
    def card() -> dict[str, Any]:
        engine = service.worker.engine
        longest = engine.runner.max_model_len if engine is not None else None
        return {
            "id": service.model_name, "object": "model", "created": int(service.started_s), "owned_by": "presize",
            "max_model_len": longest,
        }  # fmt: skip

    @app.get("/v1/models", tags=["models"], responses=documented(ModelList))
    async def models() -> Response:
        """The one model there is."""
        return reply({"object": "list", "data": [card()]})

    @app.get("/v1/models/{model_id:path}", tags=["models"], responses=documented(ModelCard))
    async def model(model_id: str) -> Response:
        """The model of this name."""
        service.check_model(model_id)
        return reply(card())


def _add_seeing(app: FastAPI, service: Service) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health", tags=["operate"], responses={status: {"model": Health} for status in (200, 503)})
    async def health() -> Response:
        """200 if requests are served, else 503 and why not."""
        trouble = service.trouble()
        return reply({"status": trouble or "ok"}, 503 if trouble else 200)

    @app.get("/metrics", tags=["operate"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus metrics."""
        await service.look()
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/version", tags=["operate"], responses=documented(Version))
    async def version() -> Response:
        """The version of Presize."""
        return reply({"version": __version__})

    @app.get("/live", tags=["operate"], responses=documented(Picture))
    async def live_picture() -> Response:
        """What the page at / draws."""
        return reply(await live(service))

    for path in PAGE_PATHS:
        app.get(path, include_in_schema=False)(_file(path.removeprefix("/") or "index.html"))


def _file(name: str) -> Callable[[], Any]:
    headers = {"content-security-policy": "default-src 'self'; frame-ancestors 'none'", "cache-control": "no-cache"}

    async def send() -> Response:
        return FileResponse(_STATIC / name, headers=headers)

    return send


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return refusal(error)


async def _presize_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PresizeError)
    return refusal(ApiError.of(error))


async def _bug(request: Request, error: Exception) -> Response:
    """Ours, not the client's; the traceback goes to the log."""
    return refusal(ApiError(500, "an error inside the server; see its log", code="internal_error"))


async def _invalid(request: Request, error: Exception) -> Response:
    """The first thing that is wrong, with the field's name."""
    assert isinstance(error, RequestValidationError)
    first = _telling(error.errors())
    place = _place(first)[:200]
    text = first["msg"].removeprefix("Value error, ")
    param = place or first.get("ctx", {}).get("field")
    if first["type"] == "extra_forbidden":
        text, first = "not a field of this request", {}
    elif first["type"] == "json_invalid":
        text = f"the body is not JSON: {first.get('ctx', {}).get('error', text)}"
        place = param = ""
    value = first.get("input")
    shown = f" is {value!r}" if isinstance(value, int | float | bool) and place else ""
    message = f"{place}{shown}: {text}" if place else text
    return refusal(ApiError(400, message, param=param or None))


def _telling(errors: Sequence[Any]) -> Any:
    """The first error; of a union's the one of the branch that was meant, not of one that has another type."""
    own = [each for each in errors if each["loc"][:2] == errors[0]["loc"][:2]]
    return next((each for each in own if not each["type"].endswith("_type")), own[0])


def _place(error: Any) -> str:
    """Where in the body, without the names that pydantic gives to the branches of a union."""
    *inner, last = error["loc"][1:] or ("",)
    parts = [part for part in inner if isinstance(part, int) or part.isidentifier()]
    if isinstance(last, int) or last.isidentifier() or error["type"] == "extra_forbidden":
        parts.append(last)
    return ".".join(str(part) for part in parts)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    texts = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not for {request.url.path}"}
    response = refusal(ApiError(error.status_code, texts.get(error.status_code, str(error.detail))))
    response.headers.update(error.headers or {})
    return response
