"""Tests of the vLLM scheduler run where vLLM is: scripts/test_vllm makes such an environment and runs them in it."""

from __future__ import annotations

import pytest

from presize.config import SchedulerOptions


@pytest.fixture
def options() -> SchedulerOptions:
    return SchedulerOptions(predictor="kaplan-meier")
