"""OpenAI's error envelope: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import math
from typing import Any

import orjson

from presize.errors import CapacityError, EngineFailed, OverloadedError, PresizeError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    499: "client_closed_request",
    503: "service_unavailable_error",
}


class ApiError(Exception):
    """What a client is told. param: the field that is wrong; retry_after: seconds."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    @classmethod
    def of(cls, error: PresizeError) -> ApiError:
        """The status that suits an error of the engine."""
        if isinstance(error, OverloadedError):
            return cls(429, str(error), code="overloaded", retry_after=error.retry_after_s)
        if isinstance(error, EngineFailed):
            return cls(503, str(error), code="engine_failed")
        code = "context_length_exceeded" if isinstance(error, CapacityError) else None
        return cls(400, str(error), code=code)

    @property
    def headers(self) -> dict[str, str]:
        """``Retry-After`` in whole seconds, at least one."""
        found = {}
        if self.retry_after is not None:
            found["retry-after"] = str(max(math.ceil(min(self.retry_after, 86_400.0)), 1))
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        return found

    def envelope(self) -> dict[str, Any]:
        """The body."""
        kind = _TYPES.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def body(self) -> bytes:
        """The body as JSON."""
        return orjson.dumps(self.envelope())
