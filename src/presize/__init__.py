"""Presize: LLM serving that forecasts how long each answer will be, and books KV memory by the forecast.

>>> from presize import LLM, SamplingParams                                    # doctest: +SKIP
>>> llm = LLM()                                                                # doctest: +SKIP
>>> llm.generate(["The capital of France is"], SamplingParams(temperature=0))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from presize.version import __version__

if TYPE_CHECKING:
    from presize.engine.llm import LLM
    from presize.engine.outputs import CompletionOutput, RequestOutput
    from presize.engine.sampling_params import SamplingParams

__all__ = ["LLM", "CompletionOutput", "RequestOutput", "SamplingParams", "__version__"]

_HOMES = {
    "LLM": "presize.engine.llm",
    "SamplingParams": "presize.engine.sampling_params",
    "CompletionOutput": "presize.engine.outputs",
    "RequestOutput": "presize.engine.outputs",
}


def __getattr__(name: str) -> Any:
    """Import the engine when it is first asked for, so that `presize --help` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'presize' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
