"""`LLM`: the engine behind the interface that vLLM's users know."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from presize.config import DEFAULT_MODEL, EngineOptions
from presize.engine.engine import Engine
from presize.engine.outputs import RequestOutput
from presize.engine.sampling_params import SamplingParams
from presize.errors import ConfigError

Prompt = str | Sequence[int]
Conversation = Sequence[dict[str, str]]
_NUMBERS = count()  # ids of requests differ over all calls


class LLM:
    """Offline generation: ``LLM(model).generate(prompts, SamplingParams(...))``.

    Keyword arguments are the fields of `presize.config.EngineOptions`; an unknown one is refused.
    """

    def __init__(self, model: str = DEFAULT_MODEL, **options: Any) -> None:
        self.engine = Engine.load(EngineOptions.of({"model": model, **options}))

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answers in the order of the prompts, which are texts or lists of token ids; one set of sampling
        parameters for all, or one each. InvalidRequestError, before anything ran, if one can not be served.
        """
        single = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
        return self._generate(
            [prompts] if single else list(prompts), sampling_params, use_tqdm, self.engine.add_request
        )

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """As `generate`, for one conversation (a list of ``{"role", "content"}``) or several."""
        single = len(messages) > 0 and isinstance(messages[0], dict)
        return self._generate([messages] if single else list(messages), sampling_params, use_tqdm, self.engine.add_chat)

    def _generate(self, items: list[Any], params: Any, use_tqdm: bool, add: Any) -> list[RequestOutput]:
        from rich.console import Console
        from rich.progress import track

        each = list(params) if isinstance(params, Sequence) else [params or SamplingParams()] * len(items)
        if len(each) != len(items):
            raise ConfigError(f"{len(each)} sampling_params for {len(items)} prompts; give one, or one for each")
        ids = [f"llm-{next(_NUMBERS)}" for _ in items]  # the engine may hold others' requests, too
        try:
            for request_id, item, one in zip(ids, items, each, strict=True):
                add(request_id, item, one)
            console = Console(stderr=True)  # standard output is the caller's
            outputs = track(self._run(), "generating", len(items), disable=not use_tqdm, console=console)
            finished = {o.request_id: o for o in outputs}
        except BaseException:  # a refused prompt or Ctrl-C leaves the engine empty, fit for the next call
            for request_id in ids:
                self.engine.abort(request_id)
            raise
        return [finished[request_id] for request_id in ids]

    def _run(self) -> Any:
        while self.engine.has_unfinished_requests():
            yield from self.engine.step()
