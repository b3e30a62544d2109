"""vLLM's request and pool as `presize.core` sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.v1.core.block_pool import BlockPool
from vllm.v1.request import Request as VllmRequest

from presize.core.ledger import Pool
from presize.core.lengths import MAX_LENGTH, LengthDistribution
from presize.core.request import Request, RequestState
from presize.predict import Query

HINT = "presize_output_tokens"


@dataclass(slots=True, eq=False)
class Tracked(Request):
    """A request of `core` beside vLLM's own. hinted: the client has said how long the answer will be.

    Tokens whose drawing is under way (async scheduling) count as there.
    """

    request: Any = None  # vLLM's
    query: Query | None = None
    hinted: bool = False
    queued_output: int = 0  # output tokens when it was last queued

    def queued(self) -> None:
        """It is in vLLM's queue, for the first time or again: take over its counts."""
        self.prompt_tokens = self.request.num_prompt_tokens
        self.output_tokens = self.queued_output = self.request.num_output_tokens + self.request.num_output_placeholders
        if self.state is not RequestState.PREEMPTED:
            self.state = RequestState.WAITING


class VllmPool(Pool):
    """vLLM's block pool. foreign: blocks that are in use, less those that the running requests count as theirs.

    Positive while others hold some (transfers, frees that wait), negative where requests share a prefix. Blocks that
    are only cached are free. One block of vLLM's pool is never used.
    """

    def __init__(self, blocks: BlockPool, block_size: int) -> None:
        super().__init__(blocks.num_gpu_blocks - 1, block_size)
        self._blocks = blocks
        self.foreign = 0

    @property
    def capacity_tokens(self) -> int:
        """What the running requests, as they count, may hold."""
        return max(self.num_blocks - self.foreign, 1) * self.block_size

    @property
    def free_blocks(self) -> int:
        return int(self._blocks.get_num_free_blocks())


def track(request: VllmRequest, max_model_len: int, *, by_priority: bool) -> tuple[Tracked, str]:
    """The request for `core`, its forecast still the worst case, and what is wrong with its hint ("" if nothing is).

    by_priority: vLLM schedules by priority; otherwise it ignores them.
    """
    longest = max(min(request.max_tokens, max_model_len - request.num_prompt_tokens), 1)
    params = request.sampling_params
    hint, complaint = _hint(params.extra_args.get(HINT) if params is not None and params.extra_args else None)
    query = Query(
        request.request_id,
        () if request.prompt_token_ids is None else request.prompt_token_ids,
        longest,
        0.0 if params is None else params.temperature,
    )
    tracked = Tracked(
        request_id=request.request_id,
        prompt_tokens=request.num_prompt_tokens,
        max_tokens=longest,
        forecast=LengthDistribution.exactly(longest if hint is None else min(hint, longest)),
        arrival_s=request.arrival_time,
        priority=request.priority if by_priority else 0,
        request=request,
        query=query,
        hinted=hint is not None,
    )
    return tracked, complaint


def _hint(value: object) -> tuple[int | None, str]:
    """(tokens, what is wrong); clients send numbers as JSON has them, or as text."""
    if value is None:
        return None, ""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or not 1 <= number <= MAX_LENGTH:
        return None, f"{HINT} is {str(value)[:40]!r}; it must be a number of tokens in [1, {MAX_LENGTH}]"
    return round(number), ""
