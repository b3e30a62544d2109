"""Presize's figures as vLLM's server collects them: written by the engine's process, read by another one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vllm; scripts/test_vllm makes an environment with it and runs these tests")

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

SCRIPT = """
import sys
from pathlib import Path
from driving import World, make_request, make_scheduler

lengths = {str(i): 30 + i for i in range(40)}
world = World(make_scheduler(Path(sys.argv[1]), {}, blocks=16), lengths)
world.add(make_request(name, 20, hint="soon" if name == "7" else None) for name in lengths)
for _ in range(64):
    world.step()
if sys.argv[2] == "fails":
    world.scheduler.advisor.before_step = lambda: 1 / 0
world.run()
world.check_nothing_lost()
"""


def collected(tmp_path: Path, how: str) -> dict[str, float]:
    """By name; every one has the label of its engine."""
    files = tmp_path / "metrics"
    files.mkdir()
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(files), "VLLM_LOGGING_LEVEL": "ERROR"}
    environment["PYTHONPATH"] = os.pathsep.join((str(Path(__file__).parent), *sys.path))
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), how], env=environment, check=True, timeout=300)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(files))
    samples = [s for family in registry.collect() for s in family.samples if s.name.startswith("presize_")]
    assert all(sample.labels["engine"] == "0" for sample in samples)
    return {sample.name: sample.value for sample in samples}


def test_the_figures_reach_another_process(tmp_path: Path) -> None:
    found = collected(tmp_path, "works")
    assert found["presize_on"] == 1
    assert found["presize_bad_hints_total"] == 1
    assert found["presize_asked_total"] >= found["presize_refused_total"] > 0
    assert found["presize_steps_total"] >= 64
    assert found["presize_decision_seconds_total"] > 0


def test_they_say_when_presize_is_off(tmp_path: Path) -> None:
    assert collected(tmp_path, "fails")["presize_on"] == 0
