"""Servers that tests start with flags of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from limited import KEY, Limited
from serving import Server


@pytest.fixture(scope="session")
def patient_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with room for 16,384 tokens: an answer can take as long as a test needs."""
    directory = tmp_path_factory.mktemp("patient")
    shutil.copytree(tiny_model, directory, dirs_exist_ok=True)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16_384}))
    return directory


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


@contextmanager
def limited(model: Path, *flags: str, key: str | None = None) -> Iterator[Limited]:
    made = Limited(model, *flags, key=key)
    try:
        yield made
    finally:
        status = made.stop()
    assert status == 0, "\n".join(made.log)


@pytest.fixture(scope="session")
def usual(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    """Every limit at its default; with keys."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"# of the tests\n{KEY}\nsk-other\n")
    with limited(tiny_model, "--api-key-file", str(keys), key=KEY) as made:
        yield made


@pytest.fixture(scope="module")
def narrow(tiny_model: Path) -> Iterator[Limited]:
    """Small limits on how much is taken on; two sequences at a time make others wait."""
    flags = ("--max-num-seqs", "2", "--max-num-batched-tokens", "64", "--max-queued-requests", "128")
    with limited(tiny_model, *flags, "--max-queued-tokens", "1000", "--max-connections", "5") as made:
        yield made


@pytest.fixture(scope="module")
def hasty(tiny_model: Path) -> Iterator[Limited]:
    """Little time for a request."""
    flags = ("--max-num-seqs", "2", "--max-num-batched-tokens", "64", "--request-timeout", "1.5")
    with limited(tiny_model, *flags) as made:
        yield made


@pytest.fixture(autouse=True)
def _sound(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test of a limit."""
    yield
    for name in {"usual", "narrow", "hasty"} & set(request.fixturenames):
        request.getfixturevalue(name).check_sound()
