"""Presize inside vLLM: ``vllm serve MODEL --scheduler-cls presize.integrations.vllm.PresizeScheduler``.

docs/vllm.md says how to run it. Importing this needs vLLM and numpy, and nothing else of Presize's extras.
"""

from presize.integrations.vllm.scheduler import PresizeScheduler

__all__ = ["PresizeScheduler"]
