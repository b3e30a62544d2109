"""The scheduler class that vLLM loads. It hands every decision to the advisor, and everything to vLLM if that fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import vllm
from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import create_request_queue
from vllm.v1.request import Request as VllmRequest

from presize.integrations.vllm import contract
from presize.integrations.vllm.metrics import Metrics
from presize.integrations.vllm.options import described, read_options
from presize.predict.vocabulary import fingerprint

T = TypeVar("T")
logger = init_logger("vllm.presize")


class PresizeScheduler(AsyncScheduler):
    """vLLM's scheduler with Presize's order, admission, victims and learning.

    advisor: None where all is left to vLLM: by an option, on a version that was not tried, or after an error of ours,
    which costs no request. ConfigError or ModelError at the start if the options can not be followed.
    """

    advisor: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = read_options(self.vllm_config.additional_config)
        reasons = ["enabled is false"] if not options.enabled else list(obstacles(self))
        if reasons:
            logger.warning("Presize is off, vLLM schedules by itself: %s", "; ".join(reasons))
            return
        # not before the contract was looked at: these import what it is about
        from presize.integrations.vllm.advisor import Advisor
        from presize.integrations.vllm.forecasts import Forecasts
        from presize.integrations.vllm.switch import Switch

        parallel = self.vllm_config.parallel_config
        rank = parallel.data_parallel_index if parallel.data_parallel_size > 1 else None
        forecasts = Forecasts.of(options.scheduler, self._tokenizer, rank)
        groups = len(self.kv_cache_config.kv_cache_groups)
        switch = Switch(None if options.off_file is None else Path(options.off_file))
        self.advisor = Advisor(self, options.scheduler, forecasts, switch, admits_all=groups != 1)
        self.waiting = self.advisor.queue
        self._metrics = Metrics(parallel.data_parallel_index)
        logger.info(
            "Presize %s schedules: %s; %d KV blocks of %d tokens%s",
            _own_version(), described(options.scheduler), self.advisor.pool.num_blocks, self.block_size,
            "" if groups == 1 else f"; admission stays vLLM's, as the model has {groups} kinds of KV cache",
        )  # fmt: skip

    def _tokenizer(self) -> str | None:
        """Fingerprint of the tokenizer that vLLM has for the model; None if it was told to have none."""
        from vllm.tokenizers import cached_tokenizer_from_config

        tokenizer = cached_tokenizer_from_config(self.vllm_config.model_config)
        return None if tokenizer is None else fingerprint(tokenizer.get_vocab())

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        if self.advisor is None:
            return super().schedule(*args, **kwargs)
        self._ours(self.advisor.before_step)
        if self.advisor is None:
            return super().schedule(*args, **kwargs)
        queue, may_start = self.advisor.queue, self.advisor.may_start
        queue.gate = lambda tracked: self._ours(lambda: may_start(tracked), otherwise=True)
        try:
            output = super().schedule(*args, **kwargs)
        finally:
            queue.gate = None
        self._ours(lambda: self.advisor.after_step(output))
        return output

    def update_from_output(self, scheduler_output: SchedulerOutput, *args: Any, **kwargs: Any) -> Any:
        outputs = super().update_from_output(scheduler_output, *args, **kwargs)
        self._ours(lambda: self.advisor.completed(scheduler_output))
        self._ours(lambda: self._metrics.step(self.advisor))
        return outputs

    def add_request(self, request: VllmRequest) -> None:
        if request.request_id not in self.requests:  # otherwise it is more input for one that is here
            self._ours(lambda: self.advisor.greet(request))
        super().add_request(request)

    def _preempt_request(self, request: VllmRequest, *args: Any, **kwargs: Any) -> None:
        self._ours(lambda: self.advisor.preempted(request))
        super()._preempt_request(request, *args, **kwargs)

    def _free_request(self, request: VllmRequest, *args: Any, **kwargs: Any) -> Any:
        self._ours(lambda: self.advisor.ended(request))
        return super()._free_request(request, *args, **kwargs)

    def shutdown(self) -> None:
        if self.advisor is not None:
            self._ours(self.advisor.close)
        super().shutdown()

    def _ours(self, decide: Callable[[], T], otherwise: T | None = None) -> T | None:
        """Presize's part; if it fails, or has failed before, vLLM's own behaviour is what remains."""
        if self.advisor is None:
            return otherwise
        started = time.perf_counter()
        try:
            made = decide()
        except Exception:
            logger.exception(
                "Presize failed, and is off from here on: vLLM schedules by itself, and no request is lost"
            )
            self._metrics.off()
            advisor, self.advisor = self.advisor, None
            advisor.queue.hand_over(create_request_queue(self.policy))
            return otherwise
        self._metrics.decision_s += time.perf_counter() - started
        return made


def obstacles(scheduler: AsyncScheduler) -> Iterator[str]:
    """Why the installed vLLM, or what it serves, is left to itself; a few words each."""
    tried = ", ".join(f"{major}.{minor}" for major, minor in contract.TRIED)
    if contract.version_of(vllm.__version__) not in contract.TRIED:
        yield f"vLLM is {vllm.__version__}, and Presize was tried with {tried}"
    yield from contract.breaches()
    if scheduler.vllm_config.model_config.runner_type == "pooling":
        yield "a pooling model has no answers to forecast"


def _own_version() -> str:
    try:
        return version("presize")
    except PackageNotFoundError:
        return "from a working tree"
