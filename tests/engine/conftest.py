"""Checkpoints and engines that the tests of the engine share; each is made once."""

from __future__ import annotations

import os

# threads that wait shall sleep: spinning ones multiply the time of tiny matrix products on a busy machine
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

if not torch.cuda.is_available():  # before anything imports Triton
    os.environ.setdefault("TRITON_INTERPRET", "1")

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tiny import options_for

from presize.engine.engine import Engine
from presize.engine.llm import LLM


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Barriers between threads cost the tiny models more than the arithmetic, on a busy machine most of all."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Path]]:
    """``checkpoint(name)`` is a model of `tiny.ARCHITECTURES` and the directory it is saved in."""
    made: dict[str, tuple[Any, Path]] = {}

    def get(name: str) -> tuple[Any, Path]:
        if name not in made:
            model = tiny.make_model(name)
            made[name] = model, tiny.save(model, tmp_path_factory.mktemp("model"))
        return made[name]

    return get


@pytest.fixture(scope="session")
def engine_of(checkpoint: Callable[..., tuple[Any, Path]]) -> Callable[..., Engine]:
    """``engine_of(name, kv_tokens=..., ...)``: an idle engine with its statistics at zero and these options."""
    made: dict[tuple[str, int], Engine] = {}

    def get(name: str = "llama", kv_tokens: int = 4096, **options: Any) -> Engine:
        if (name, kv_tokens) not in made:
            made[name, kv_tokens] = Engine.load(options_for(checkpoint(name)[1], kv_tokens))
        engine = made[name, kv_tokens]
        for request_id in list(engine._groups):  # a test that failed half-way shall not make others fail
            engine.abort(request_id)
        engine.options = options_for(checkpoint(name)[1], kv_tokens)
        engine.restart(**options)
        return engine

    return get


@pytest.fixture(scope="session")
def llm_of(engine_of: Callable[..., Engine]) -> Callable[..., LLM]:
    """The same, as an `LLM`."""

    def get(*args: Any, **options: Any) -> LLM:
        llm = LLM.__new__(LLM)
        llm.engine = engine_of(*args, **options)
        return llm

    return get


@pytest.fixture(scope="session")
def chain_engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Engine]:
    """An engine whose model answers <|assistant|> with the tokens of ``text``, then its end, then <|user|> for ever.

    Where the end is banned it says z, and after that <|user|>, or z where that is banned too.
    """

    def get(text: str) -> Engine:
        eos, user, assistant = range(3)
        (z,) = tiny.tokenizer()("z")["input_ids"]
        ids = [assistant, *tiny.tokenizer()(text)["input_ids"], eos, user]
        assert len({*ids, z}) == len(ids) + 1, "a chain needs every token once"
        follow = {a: (b, z) for a, b in pairwise(ids)} | {user: (user, z), z: (user, z)}
        directory = tiny.save(tiny.chain_model(follow), tmp_path_factory.mktemp("chain"))
        return Engine.load(options_for(directory, 1024))

    return get


@pytest.fixture
def random_prompts() -> Callable[..., list[list[int]]]:
    """``random_prompts(count, lengths, seed)``: token ids, special ones excepted."""

    def get(count: int, lengths: tuple[int, ...] = (1, 7, 31, 32, 33, 60), seed: int = 0) -> list[list[int]]:
        random = np.random.default_rng(seed)
        return [random.integers(3, 300, size=random.choice(lengths)).tolist() for _ in range(count)]

    return get
