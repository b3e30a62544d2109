"""What of vLLM's private interface is used, and the versions in which it was tried.

vLLM calls its scheduler interface private. So every name that is touched stands here; a start on a version that was not
tried, or that lacks one of them, leaves all to vLLM instead of failing in the middle of serving.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request, RequestStatus

TRIED = ((0, 32), (0, 33))  # (major, minor)

METHODS = {  # the parameters that are used, in order
    "schedule": (),
    "add_request": ("request",),
    "update_from_output": ("scheduler_output", "model_runner_output"),
    "_preempt_request": ("request", "timestamp"),
    "_free_request": ("request",),
    "_handle_blocked_waiting_request": ("request",),
    "shutdown": (),
}
ATTRIBUTES = (
    "waiting", "running", "requests", "policy", "vllm_config", "kv_cache_config", "kv_cache_manager", "block_size",
    "max_model_len", "max_num_scheduled_tokens", "max_num_active_reqs", "num_lookahead_tokens", "num_spec_tokens",
    "connector",
)  # fmt: skip
REQUEST = (
    "request_id", "num_prompt_tokens", "num_output_placeholders", "num_computed_tokens", "num_stale_output_tokens",
    "drop_stale_output", "num_output_tokens", "max_tokens", "priority", "arrival_time", "prompt_token_ids",
    "sampling_params", "status",
)  # fmt: skip
STATUSES = (
    "WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR", "WAITING_FOR_REMOTE_KVS", "WAITING_FOR_STREAMING_REQ", "FINISHED_STOPPED",
)  # fmt: skip
QUEUE = {
    "add_request", "pop_request", "peek_request", "prepend_request", "prepend_requests", "remove_request",
    "remove_requests", "__bool__", "__len__", "__iter__",
}  # fmt: skip
OUTPUT = ("num_scheduled_tokens", "total_num_scheduled_tokens", "scheduled_spec_decode_tokens")
# of the loop over the waiting: it must ask the queue for its truth, look at the head, and take it out
LOOP = {"waiting", "peek_request", "pop_request", "prepend_requests"}


def version_of(text: str) -> tuple[int, int] | None:
    """(major, minor) of a version, None if it has none, as a build from a working tree."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def breaches(scheduler: Any = AsyncScheduler, request: Any = Request) -> Iterator[str]:
    """What of the above vLLM's classes do not have, a few words each."""
    for name, wanted in METHODS.items():
        method = getattr(scheduler, name, None)
        if method is None:
            yield f"Scheduler.{name} is missing"
        elif tuple(list(inspect.signature(method).parameters)[1 : len(wanted) + 1]) != wanted:
            yield f"Scheduler.{name}{inspect.signature(method)} does not begin with {', '.join(wanted)}"
    set_up = {name for cls in scheduler.__mro__ for name in _names(cls.__init__)}
    yield from (f"Scheduler.{name} is missing" for name in ATTRIBUTES if name not in set_up)
    yield from (
        f"Request.{name} is missing" for name in REQUEST if name not in _names(request.__init__) | set(dir(request))
    )
    yield from (f"RequestStatus.{name} is missing" for name in STATUSES if name not in RequestStatus.__members__)
    for name in QUEUE ^ set(RequestQueue.__abstractmethods__):
        yield f"RequestQueue.{name} is {'missing' if name in QUEUE else 'new'}"
    yield from (f"SchedulerOutput.{name} is missing" for name in OUTPUT if name not in SchedulerOutput.__annotations__)
    if "num_gpu_blocks" not in _names(BlockPool.__init__) or not hasattr(BlockPool, "get_num_free_blocks"):
        yield "BlockPool has another interface"
    if not hasattr(import_module("vllm.tokenizers"), "cached_tokenizer_from_config"):
        yield "vllm.tokenizers.cached_tokenizer_from_config is missing"
    if missing := LOOP - _names(inspect.unwrap(scheduler.schedule)):
        yield f"Scheduler.schedule does not use {', '.join(sorted(missing))}"


def _names(function: Any) -> set[str]:
    """Names of attributes and globals in the function's body."""
    code = getattr(function, "__code__", None)
    return set(code.co_names) | set(code.co_varnames) if code else set()
