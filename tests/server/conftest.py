"""Servers that the tests share."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))  # for `tiny`

import tiny
from serving import Server


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 512 tokens' context; it never says its end by itself for long."""
    return tiny.save(tiny.make_model("llama"), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def patient_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with room for 16,384 tokens: an answer can take as long as a test needs."""
    directory = tmp_path_factory.mktemp("patient")
    shutil.copytree(tiny_model, directory, dirs_exist_ok=True)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16_384}))
    return directory


@pytest.fixture(scope="session")
def server(tiny_model: Path) -> Iterator[Server]:
    """A server with no special flags."""
    made = Server(tiny_model, "--served-model-name", "tiny")
    yield made
    assert made.stop() == 0


@pytest.fixture
def serve(patient_model: Path) -> Iterator[Callable[..., Server]]:
    """``serve(*flags)``: a server of the test's own, with room for long answers."""
    made: list[Server] = []

    def start(*flags: str, wait: bool = True) -> Server:
        made.append(Server(patient_model, "--served-model-name", "tiny", "--kv-tokens", "16384", *flags, wait=wait))
        return made[-1]

    yield start
    for one in made:
        one.stop()
