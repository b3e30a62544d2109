"""The options of `presize bench serve`; the words are those of `vllm bench serve` where it has one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from urllib.parse import urlsplit

from presize.config import Options, option
from presize.errors import ConfigError

DATASETS = ("sharegpt", "custom", "trace", "random")
_BY_ENDING = {".json": "sharegpt", ".jsonl": "custom", ".csv": "trace"}
_MOST_TOKENS = 2**24


@dataclass(frozen=True, kw_only=True)
class TargetOptions(Options):
    """The server, and what it is asked for."""

    base_url: str = option("http://127.0.0.1:8000", "where the server is; a /v1 in the end makes no difference")
    model: str | None = option(None, "name of the model (default: the first that /v1/models has)")
    endpoint: str = option("chat", "/v1/chat/completions or /v1/completions", choices=("chat", "completions"))
    api_key: str | None = option(None, "key that the server wants (default: that of OPENAI_API_KEY)")
    temperature: float | None = option(None, "randomness of the answers (default: left to the server)", low=0, high=100)
    output_len: int | None = option(
        None, "max_tokens of every request (default: what its row says; else 128 for random, 512 for the others)",
        low=1, high=_MOST_TOKENS,
    )  # fmt: skip
    ignore_eos: bool | None = option(
        None, "ask for answers of exactly max_tokens; not every server can (default: on for trace and random, else off)"
    )


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(Options):
    """What the requests say."""

    dataset_name: str | None = option(
        None, "kind (default: by the path's ending: .json sharegpt, .jsonl custom, .csv trace; without it random)",
        choices=DATASETS,
    )  # fmt: skip
    dataset_path: str | None = option(None, "the file; it may be compressed (.gz)")
    num_prompts: int = option(1000, "requests, or all rows of the dataset if it has fewer", low=1, high=10**7)
    shuffle: bool = option(True, "sharegpt, custom: take the rows in an order drawn from --seed")
    seed: int = option(0, "seed of all that is drawn: arrivals, order, made-up prompts", low=0, high=2**63)
    input_len: int = option(512, "random: mean length of a prompt in tokens", low=1, high=_MOST_TOKENS)
    random_range_ratio: float = option(
        0.0, "random: both lengths are drawn evenly from their means, less and more by this share", low=0, high=0.99
    )
    max_total_len: int | None = option(
        None, "trace: leave out rows with more tokens than this in prompt and answer (default: keep all)",
        low=2, high=_MOST_TOKENS,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ArrivalOptions(Options):
    """When the requests are sent."""

    request_rate: float = option(
        math.inf, "requests per second; inf sends all at once, or a trace's by its times", low=1e-6, high=math.inf
    )
    burstiness: float = option(
        1.0, "shape of the Gamma distribution of the gaps: 1 is Poisson, less comes in bursts, inf is a fixed beat",
        low=1e-3, high=math.inf,
    )  # fmt: skip
    max_concurrency: int | None = option(
        None, "most requests at the same time; what arrives meanwhile waits at the client (default: no limit)",
        low=1, high=2**20,
    )  # fmt: skip
    time_scale: float = option(
        1.0, "trace: its gaps are multiplied by this; 0.5 is twice as fast, 0 all at once", low=0, high=1e6
    )
    timeout: float = option(600.0, "seconds after which a request is given up", low=0.001, high=1e6)
    retry: bool = option(False, "send again what got a 429, after its Retry-After; the time counts as the request's")
    warmups: int = option(
        1, "short requests before the clock starts, with a prompt of their own; not counted", low=0, high=10**6
    )


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(Options):
    """What a request must keep to count for goodput. Without any, no goodput is reported."""

    slo_ttft_ms: float | None = option(None, "most milliseconds to the first token", low=0.001, high=1e9)
    slo_tpot_ms: float | None = option(None, "most milliseconds per token after the first", low=0.001, high=1e9)
    slo_e2el_ms: float | None = option(None, "most milliseconds for the whole answer", low=0.001, high=1e9)


@dataclass(frozen=True, kw_only=True)
class ResultOptions(Options):
    """Where the figures go, besides the screen."""

    save_result: str | None = option(None, "file for the figures, as JSON in the shape of `vllm bench serve`")
    save_detailed: bool = option(False, "with --save-result: every request's times, lengths, text and error as well")


@dataclass(frozen=True, kw_only=True)
class LoadOptions(TargetOptions, DatasetOptions, ArrivalOptions, ObjectiveOptions, ResultOptions):
    """All options of `presize bench serve`. ConfigError for those that do not go together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise ConfigError("api_key must be printable ASCII, and not empty")  # not repeated: it is a secret
        if self.dataset == "random" and self.dataset_path is not None:
            raise ConfigError(f"dataset_path is {self.dataset_path!r}, but the dataset random has no file")
        if self.dataset != "random" and self.dataset_path is None:
            raise ConfigError(f"the dataset {self.dataset} is a file; give --dataset-path")
        if self.save_detailed and self.save_result is None:
            raise ConfigError("save_detailed needs a file; give --save-result")
        _ = self.root

    @property
    def dataset(self) -> str:
        """The name of the dataset; ConfigError if the ending of its path does not say it."""
        if self.dataset_name is not None:
            return self.dataset_name
        if self.dataset_path is None:
            return "random"
        path = self.dataset_path.removesuffix(".gz")
        for ending, name in _BY_ENDING.items():
            if path.endswith(ending):
                return name
        raise ConfigError(
            f"the ending of dataset_path {self.dataset_path!r} is none of {', '.join(_BY_ENDING)}; give --dataset-name"
        )

    @property
    def root(self) -> str:
        """The base URL without /v1; ConfigError if it is not one."""
        try:
            parts = urlsplit(self.base_url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # the port
            good = False
        if not good or parts.query or parts.fragment:
            raise ConfigError(f"base_url is {self.base_url!r}; it must be as http://127.0.0.1:8000")
        return self.base_url.rstrip("/").removesuffix("/v1").rstrip("/")
