"""Reads the frames of one streamed answer into an Outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from presize.errors import shown
from presize.load.outcome import Failure, Outcome
from presize.load.sse import EventParser

_DONE = b"[DONE]"


class BrokenAnswer(Exception):
    """The stream says that something is wrong, or is none."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class AnswerReader:
    """on_text is called for every frame with text. ``feed`` and ``end`` raise BrokenAnswer."""

    def __init__(self, outcome: Outcome, sent_s: float, on_text: Callable[[], None], *, keep_text: bool) -> None:
        self._outcome, self._sent_s, self._on_text = outcome, sent_s, on_text
        self._keep_text = keep_text
        self._parser = EventParser()
        self._last_s = 0.0  # since it was sent: the last frame with text
        self._ended = False

    def feed(self, chunk: bytes, now_s: float) -> None:
        """What came at this moment; several frames at once have no time between them."""
        try:
            for data in self._parser.feed(chunk):
                if data == _DONE:
                    self._ended = True
                elif data:
                    self._frame(orjson.loads(data), now_s - self._sent_s)
        except ValueError as error:  # not JSON, or an event without an end
            raise BrokenAnswer(Failure("protocol", f"a frame can not be read: {error}")) from error

    def end(self) -> None:
        """The stream is over."""
        outcome = self._outcome
        if not self._ended and outcome.finish_reason is None:
            raise BrokenAnswer(Failure("protocol", f"the stream ended after {outcome.frames} frames, before its end"))
        if outcome.ttft_s is None and outcome.tokens:
            outcome.ttft_s = outcome.e2el_s

    def _frame(self, frame: Any, at_s: float) -> None:
        if not isinstance(frame, dict):
            raise BrokenAnswer(Failure("protocol", f"a frame is {shown(frame)}, not an object"))
        if frame.get("error"):
            raise BrokenAnswer(Failure("stream", error_text(frame) or shown(frame["error"])))
        if isinstance(usage := frame.get("usage"), dict):
            self._count(usage)
        choices = frame.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return  # the frame of the counts has none
        text, reason = _text(choices[0]), choices[0].get("finish_reason")
        outcome = self._outcome
        if text:
            if outcome.ttft_s is None:
                outcome.ttft_s = at_s
            else:
                outcome.gaps_s.append(at_s - self._last_s)
            self._last_s = at_s
            outcome.frames += 1
            if self._keep_text:
                outcome.text += text
            self._on_text()
        if reason is not None:
            outcome.finish_reason = str(reason)
        if text or reason is not None:
            outcome.e2el_s = at_s

    def _count(self, usage: Mapping[str, Any]) -> None:
        given, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(given, int):
            self._outcome.input_tokens = given
        if isinstance(made, int):
            self._outcome.output_tokens = made


def _text(choice: Mapping[str, Any]) -> str:
    """Of either endpoint; what a model thinks to itself is made of tokens, too."""
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        delta = choice
    parts = (delta.get(name) for name in ("reasoning_content", "reasoning", "content", "text"))
    return "".join(part for part in parts if isinstance(part, str))


def error_text(body: Any) -> str:
    """The message of an error as OpenAI, FastAPI and others write it; empty if there is none."""
    for name in ("error", "message", "detail"):
        found = body.get(name) if isinstance(body, dict) else None
        if isinstance(found, dict):
            found = found.get("message")
        if isinstance(found, str) and found:
            return " ".join(found.split())
    return ""
