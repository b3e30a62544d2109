"""A stand-in for the engine: deterministic words, a few requests at a time, no model."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from presize.cli.main import main
from presize.cli.summary import FIELDS
from presize.config import EngineOptions
from presize.engine.outputs import CompletionOutput, RequestMetrics, RequestOutput
from presize.engine.sampling_params import SamplingParams
from presize.errors import CapacityError

SLOTS = 3  # requests that run at the same time


@dataclass
class FakeSnapshot:
    running: int
    waiting: int
    kv_used_tokens: int
    kv_booked_tokens: int
    kv_capacity_tokens: int
    output_tokens: int


class FakeStats:
    def __init__(self) -> None:
        self.requests = self.output_tokens = 0

    def summary(self, failed: int = 0) -> dict[str, Any]:
        figures: dict[str, Any] = dict.fromkeys(FIELDS, 0.5)
        figures |= {"requests": self.requests, "failed": failed, "output_tokens": self.output_tokens}
        return {**figures, "itl_p99_s": float("nan"), "not_for_users": 1}


@dataclass
class FakeRequest:
    request_id: str
    prompt: str
    prompt_token_ids: list[int]
    params: SamplingParams
    generated: int = 0

    @property
    def length(self) -> int:
        limit = self.params.max_tokens or 512
        return limit if self.params.ignore_eos else min(limit, 1 + zlib.crc32(self.prompt.encode()) % 5)


class FakeEngine:
    """Each step gives a token to each of the first SLOTS requests. A prompt that begins with "refuse" never fits."""

    forecast_source = ""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.queue: list[FakeRequest] = []
        self.stats = FakeStats()
        self.steps = 0
        self.restarts: list[tuple[str, str, str]] = []
        self.seen: list[tuple[str, Any, SamplingParams]] = []
        self.on_step: Callable[[int], None] = lambda steps: None

    def add_request(self, request_id: str, prompt: str | list[int], params: SamplingParams) -> None:
        self.seen.append((request_id, prompt, params))
        text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
        if text.startswith("refuse"):
            raise CapacityError("needs 100 KV tokens; there are 10")
        self.queue.append(FakeRequest(request_id, text, [1] * len(text.split()), params))
        self.stats.requests += 1

    def add_chat(self, request_id: str, messages: list[dict[str, str]], params: SamplingParams) -> None:
        self.add_request(request_id, "<chat> " + " ".join(m["content"] for m in messages), params)

    def has_unfinished_requests(self) -> bool:
        return bool(self.queue)

    def step(self) -> list[RequestOutput]:
        self.steps += 1
        self.on_step(self.steps)
        running = self.queue[:SLOTS]
        for request in running:
            request.generated += 1
            self.stats.output_tokens += request.params.n
        finished = [request for request in running if request.generated == request.length]
        self.queue = [request for request in self.queue if request not in finished]
        return [self._output(request) for request in finished]

    def abort(self, request_id: str) -> RequestOutput | None:
        stopped = next((request for request in self.queue if request.request_id == request_id), None)
        if stopped is None:
            return None
        self.queue.remove(stopped)
        return self._output(stopped)

    def _output(self, request: FakeRequest) -> RequestOutput:
        ids = list(range(request.generated))
        ended = "length" if request.length == request.params.max_tokens else "stop"
        answers = [
            CompletionOutput(
                index=index,
                text=f"answer {index} to {request.prompt}",
                token_ids=ids,
                finish_reason=ended if request.generated == request.length else "abort",
                logprobs=None if request.params.logprobs is None else [{token: -0.5, 99: -1.5} for token in ids],
            )
            for index in range(request.params.n)
        ]
        metrics = RequestMetrics(predicted_tokens=7, preemptions=0, ttft_s=0.25, latency_s=1.0)
        return RequestOutput(request.request_id, request.prompt, request.prompt_token_ids, answers, metrics)

    def restart(self, *, policy: str, order: str, predictor: str) -> None:
        assert not self.queue, "restart needs an idle engine"
        self.restarts.append((policy, order, predictor))
        self.stats = FakeStats()

    def snapshot(self) -> FakeSnapshot:
        running = min(len(self.queue), SLOTS)
        return FakeSnapshot(running, len(self.queue) - running, 64, 96, 128, self.stats.output_tokens)


@dataclass
class Loader:
    """Stands in for ``load_engine``: keeps the engines it made; ``prepare`` is applied to each."""

    engines: list[FakeEngine]
    prepare: Callable[[FakeEngine], None] = lambda engine: None

    def __call__(self, options: EngineOptions, report: Callable[[str, int, int], None] | None = None) -> FakeEngine:
        engine = FakeEngine(options)
        self.prepare(engine)
        self.engines.append(engine)
        if report is not None:
            report("loading weights", 1, 2)
        return engine


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    """No verb loads a model in these tests."""
    result = Loader([])
    monkeypatch.setattr("presize.cli.answering.load_engine", result)
    monkeypatch.setattr("presize.cli.bench.load_engine", result)
    return result


@pytest.fixture(autouse=True)
def _no_presize_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PRESIZE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """``write_jsonl(row, b"raw line", ...)`` is the path of a file with them."""

    def write(*rows: dict[str, Any] | bytes, name: str = "in.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join((r if isinstance(r, bytes) else orjson.dumps(r)) + b"\n" for r in rows))
        return path

    return write


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where ``run`` writes."""
    return tmp_path / "out.jsonl"


@pytest.fixture
def run(loader: Loader, out: Path) -> Callable[..., int]:
    """``run(path, *flags)`` is the exit status of `presize generate`."""
    return lambda source, *flags: main(["generate", str(source), "--output", str(out), *flags])


@pytest.fixture
def lines_of() -> Callable[[Path], list[dict[str, Any]]]:
    """The rows of a file, every line of which must be complete."""

    def read(path: Path) -> list[dict[str, Any]]:
        content = path.read_bytes()
        assert not content or content.endswith(b"\n")
        return [orjson.loads(line) for line in content.splitlines()]

    return read


@pytest.fixture
def by_id(lines_of: Callable[[Path], list[dict[str, Any]]]) -> Callable[[Path], dict[Any, dict[str, Any]]]:
    """The rows of a file by their ids, each of which must be there once."""

    def read(path: Path) -> dict[Any, dict[str, Any]]:
        rows = lines_of(path)
        found = {row["id"]: row for row in rows}
        assert len(found) == len(rows), "an id is there twice"
        return found

    return read
