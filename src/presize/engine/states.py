"""What the served model makes of the prompts of a log, for a predictor that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from presize.config import BLOCK_SIZE, EngineOptions, SchedulerOptions
from presize.core.lengths import LengthDistribution
from presize.engine.engine import Engine
from presize.engine.sampling_params import SamplingParams
from presize.engine.weights import Progress
from presize.errors import ConfigError, InvalidRequestError
from presize.predict import Predictor, Query
from presize.predict.log import Log

_ADDED = 256  # prompts that are in the engine at once
_LEAST_KV_TOKENS = 4096


class _Recorder(Predictor):
    """Keeps the states that the engine hands to a predictor; request ids are row numbers."""

    needs_states = True

    def __init__(self, options: SchedulerOptions) -> None:
        self.found: dict[int, NDArray[np.float32]] = {}

    def predict(self, queries: Sequence[Query]) -> list[LengthDistribution]:
        return [LengthDistribution.exactly(1)] * len(queries)

    def refine(self, queries: Sequence[Query], states: NDArray[np.float32]) -> None:
        self.found.update((int(query.request_id), state) for query, state in zip(queries, states, strict=True))


def with_states(log: Log, model: str, report: Progress) -> Log:
    """The log with `Query.state` known: ``model`` reads every prompt, each once however many answers it has.

    ConfigError names the row whose prompt is too long for the model or has tokens that it does not know.
    """
    prompts: dict[bytes, Query] = {}
    keys = [np.asarray(query.prompt_token_ids, dtype=np.int32).tobytes() for query in log.queries]
    for key, query in zip(keys, log.queries, strict=True):
        prompts.setdefault(key, query)
    longest = max(len(query.prompt_token_ids) for query in prompts.values()) + 1
    pool = max(-(-longest // BLOCK_SIZE) * BLOCK_SIZE, _LEAST_KV_TOKENS)
    engine = Engine.load(EngineOptions(model=model, policy="on-demand", predictor="max-tokens", kv_tokens=pool), report)
    states = states_of_prompts(engine, list(prompts.values()), report)
    found = dict(zip(prompts, states, strict=True))
    rows = [replace(row, query=replace(row.query, state=found[key])) for row, key in zip(log.rows, keys, strict=True)]
    return Log(rows, log.errors)


def states_of_prompts(engine: Engine, queries: Sequence[Query], report: Progress) -> NDArray[np.float32]:
    """(N, C) hidden states of the prompts' last tokens after the last norm. ``engine`` must be idle."""
    recorder = engine.predictor = _Recorder(engine.options)
    params = SamplingParams(max_tokens=1, temperature=0)
    for start in range(0, len(queries), _ADDED):
        for row, query in enumerate(queries[start : start + _ADDED], start):
            try:
                engine.add_request(str(row), np.asarray(query.prompt_token_ids).tolist(), params)
            except InvalidRequestError as error:
                raise ConfigError(f"the log's answer with id {query.request_id!r}: {error}") from error
        while engine.has_unfinished_requests():
            engine.step()
            report("reading the prompts", len(recorder.found), len(queries))
    return np.stack([recorder.found[row] for row in range(len(queries))])
