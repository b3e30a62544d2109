"""What all tests share: a server, and a hypothesis profile; `HYPOTHESIS_PROFILE=thorough` searches for longer."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

# before numpy is loaded: small products gain nothing by a second thread, which spins where other processes run
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# a shell that starts them in the background has them ignore Ctrl-C, which some of them send
signal.signal(signal.SIGINT, signal.default_int_handler)

# no deadline: the machine is shared, and a slow example is not a wrong one
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("presize", _COMMON, max_examples=20)
settings.register_profile("ci", _COMMON, max_examples=20, derandomize=True)
settings.register_profile("thorough", _COMMON, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "presize"))

if TYPE_CHECKING:
    from serving import Server


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 512 tokens' context; it seldom ends an answer, and its template refuses system prompts."""
    import tiny  # torch, which many tests do without

    return tiny.save(tiny.make_model("llama"), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def server(tiny_model: Path) -> Iterator[Server]:
    """A server on it, with no special flags."""
    from serving import Server

    made = Server(tiny_model, "--served-model-name", "tiny")
    yield made
    assert made.stop() == 0
