"""The log that a predictor learns from: lines of `presize collect`, or of one's own making."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from presize.core.lengths import MAX_LENGTH, IntArray
from presize.errors import ConfigError, InvalidRequestError, first_line, shown
from presize.predict.base import Query

MAX_LOG_ROWS = 2_000_000
_MAX_TEMPERATURE = 100.0
KNOWN_FIELDS = frozenset(
    [
        "id",
        "prompt",
        "messages",
        "output_tokens",
        "censored",
        "temperature",
        "max_tokens",
        "prompt_tokens",
        "finish_reason",
        "sample",
        "samples",
    ]
)


class ServedTokenizer(Protocol):
    """What is needed of the served model's tokenizer (`presize.engine.tokenizer.Tokenizer`)."""

    def encode(self, text: str, *, special: bool = True) -> list[int]: ...
    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]: ...
    def decode(self, token_ids: Sequence[int]) -> str: ...
    def fingerprint(self) -> str: ...
    def content(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Observation:
    """One answer: how long it was, or, if it was cut off, how long at least."""

    query: Query
    output_tokens: int
    censored: bool


@dataclass(slots=True)
class Log:
    """Answers in the order of the file. errors: rows that say a request failed, and are passed over."""

    rows: list[Observation] = field(default_factory=list)
    errors: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def queries(self) -> list[Query]:
        """(N) what was known of each."""
        return [row.query for row in self.rows]

    @property
    def lengths(self) -> IntArray:
        """(N,) tokens of each answer."""
        return np.array([row.output_tokens for row in self.rows], dtype=np.int64)

    @property
    def censored(self) -> Any:
        """(N,) true where the answer's own end was not seen."""
        return np.array([row.censored for row in self.rows], dtype=bool)

    @property
    def prompts(self) -> int:
        """How many different ones there are."""
        return len({_key(row.query) for row in self.rows})

    def split(self, share: float, seed: int = 0) -> tuple[Log, Log]:
        """(rest, about ``share`` of the rows): all answers to one prompt on the same side, the same each time."""

        def held_out(row: Observation) -> bool:
            digest = hashlib.blake2b(_key(row.query), digest_size=8, salt=seed.to_bytes(8, "little")).digest()
            return int.from_bytes(digest, "little") < share * 2**64

        sides = [held_out(row) for row in self.rows]
        return (
            Log([row for row, out in zip(self.rows, sides, strict=True) if not out]),
            Log([row for row, out in zip(self.rows, sides, strict=True) if out]),
        )


def _key(query: Query) -> bytes:
    """What two answers to the same prompt have in common."""
    return np.asarray(query.prompt_token_ids, dtype=np.int64).tobytes()


def read_log(path: Path, tokenizer: ServedTokenizer, on_row: Callable[[int], None] | None = None) -> Log:
    """Every row of a JSONL file; ConfigError names the line and says what is wrong with it.

    ``on_row`` is told the number of bytes of each line.
    """
    log = Log()
    for number, row in _rows(path, on_row):
        if "error" in row and "output_tokens" not in row:
            log.errors += 1
            continue
        try:
            log.rows.append(_observation(row, number, tokenizer))
        except (ValueError, InvalidRequestError) as error:
            raise ConfigError(f"{path}, line {number}: {error}") from error
    if not log.rows:
        raise ConfigError(f"{path} has no answers; `presize collect` writes such a log")
    return log


def read_prompts(path: Path, tokenizer: ServedTokenizer) -> list[Query]:
    """Prompts without answers: of each row of a JSONL file its `prompt` or `messages`; all else is passed over."""
    queries = []
    for number, row in _rows(path):
        try:
            ids, system = _prompt(row, tokenizer)
        except (ValueError, InvalidRequestError) as error:
            raise ConfigError(f"{path}, line {number}: {error}") from error
        queries.append(Query(str(number), ids, MAX_LENGTH, 0.0, system))
    return queries


def _rows(path: Path, on_row: Callable[[int], None] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if on_row is not None:
                    on_row(len(line))
                if not line.strip():
                    continue
                if number > MAX_LOG_ROWS:
                    raise ConfigError(f"{path} has more than {MAX_LOG_ROWS:,} rows; split it")
                yield number, _object(line, f"{path}, line {number}")
    except OSError as error:
        raise ConfigError(f"can not read {path}: {error.strerror}") from error


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} is not UTF-8: byte {error.start + 1} is wrong") from error
    except (ValueError, RecursionError) as error:
        reason = first_line(error)
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        raise ConfigError(f"{where} is not JSON: {reason}") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{where} is not an object")
    return row


def _observation(row: dict[str, Any], number: int, tokenizer: ServedTokenizer) -> Observation:
    if unknown := sorted(set(row) - KNOWN_FIELDS):
        raise ValueError(f"unknown field {shown(unknown[0])}; known: {', '.join(sorted(KNOWN_FIELDS))}")
    length = _whole(row, "output_tokens", None)
    max_tokens = _whole(row, "max_tokens", MAX_LENGTH)
    if length > max_tokens:
        raise ValueError(f"output_tokens is {length}, more than max_tokens, which is {max_tokens}")
    censored = row.get("censored", False)
    if not isinstance(censored, bool):
        raise ValueError(f"censored is {shown(censored)}; it must be true or false")
    temperature = row.get("temperature", 0.0)
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 <= temperature <= 100:
        raise ValueError(f"temperature is {shown(temperature)}; it must be a number from 0 to {_MAX_TEMPERATURE:g}")
    ids, system = _prompt(row, tokenizer)
    wanted = row.get("prompt_tokens", len(ids))
    if wanted != len(ids):
        raise ValueError(
            f"the log says that the prompt has {shown(wanted)} tokens, this model's tokenizer makes {len(ids)}: the "
            "log was collected with another model; name it with --model"
        )
    query = Query(str(row.get("id", number)), ids, max_tokens, float(temperature), system)
    return Observation(query, length, censored)


def _whole(row: dict[str, Any], name: str, default: int | None) -> int:
    value = row.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_LENGTH:
        raise ValueError(f"{name} is {shown(value)}; it must be a whole number from 1 to {MAX_LENGTH:,}")
    return value


def _prompt(row: dict[str, Any], tokenizer: ServedTokenizer) -> tuple[NDArray[np.int32], bool]:
    prompt, messages = row.get("prompt"), row.get("messages")
    if (prompt is None) == (messages is None):
        raise ValueError("a row needs exactly one of `prompt` and `messages`")
    if messages is not None:
        if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
            raise ValueError("messages must be a list of objects with `role` and `content`, both text, and no more")
        ids, system = tokenizer.encode_chat(messages), messages[0]["role"] == "system"
    elif isinstance(prompt, str):
        ids, system = tokenizer.encode(prompt), False
    elif isinstance(prompt, list) and all(type(token) is int and 0 <= token < 2**31 for token in prompt):
        ids, system = prompt, False
    else:
        raise ValueError("prompt must be text or a list of token ids")
    if not ids:
        raise ValueError("the prompt is empty")
    return np.asarray(ids, dtype=np.int32), system


def _is_message(message: Any) -> bool:
    known = isinstance(message, dict) and set(message) == {"role", "content"}
    return known and all(isinstance(value, str) for value in message.values())
