"""The server's log: lines for people or JSON, one for each request and one on the state every few seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from typing import Any

import orjson

LOG = logging.getLogger("presize.server")
_MOST_LINES = 10_000  # that wait to be written


class TextFormatter(logging.Formatter):
    """``12:00:01 INFO what key=value ...``"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname} {record.getMessage()}"
        facts = getattr(record, "facts", {})
        line += "".join(f" {name}={_shown(value)}" for name, value in facts.items())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, Any] = {
            "time": record.created, "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(), **getattr(record, "facts", {}),
        }  # fmt: skip
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(content, default=str).decode()


class _Dropping(QueueHandler):
    """Lines that nobody takes are lost, rather than that a stuck reader of the log holds up the server."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(Full):
            self.queue.put_nowait(record)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # formatted by the thread that writes


@contextmanager
def logging_to_stderr(style: str) -> Iterator[None]:
    """All of the process' log goes to standard error in this style, written by a thread of its own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    lines: Queue[logging.LogRecord] = Queue(_MOST_LINES)
    listener = QueueListener(lines, handler)
    logging.root.handlers = [_Dropping(lines)]
    logging.root.setLevel(logging.WARNING)
    LOG.setLevel(logging.INFO)
    listener.start()
    try:
        yield
    finally:
        listener.stop()


def note(message: str, level: int = logging.INFO, **facts: Any) -> None:
    """A line with facts beside its words."""
    LOG.log(level, message, extra={"facts": facts})


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return orjson.dumps(text).decode() if " " in text or "\n" in text else text
