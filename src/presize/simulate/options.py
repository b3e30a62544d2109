"""The options of `presize simulate` and `presize plan`, beside those of memory and scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from presize.config import Options, option

_MOST_TOKENS = 2**24
MOST_KV_TOKENS = 2**26  # the block pool is a list


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """What is modelled."""

    device: str = option(
        "H100", "A100-40G, A100-80G, H100, H200, L4, L40S, cpu-2-cores, or a JSON file of `presize calibrate`"
    )
    model: str = option(
        "llama-3.1-8b",
        "gpt-j-6b, gpt-neox-20b, llama-7b, llama-13b, llama-33b, opt-30b, gpt-3-175b, llama-3-8b, llama-3.1-8b, "
        "SmolLM2-135M-Instruct, or a directory with a Hugging Face config.json",
    )
    tensor_parallel: int = option(1, "devices that share every layer", low=1, high=1024)
    pipeline_parallel: int = option(1, "devices that take the layers one after the other", low=1, high=1024)
    weights_on_host: float = option(
        0.0, "share of the weights that stays in the host's memory and is streamed in every step", low=0, high=1
    )
    kv_tokens: int | None = option(
        None, "KV cache size in tokens (default: what fits beside the weights in 0.9 of the memory, at most 2^26)",
        low=32, high=MOST_KV_TOKENS,
    )  # fmt: skip
    max_num_seqs: int = option(256, "most sequences in one step", low=1, high=65536)
    max_num_batched_tokens: int = option(
        2048, "token budget of a step: decodes first, what is left goes to prefill chunks", low=16, high=2**20
    )


@dataclass(frozen=True, kw_only=True)
class TraceOptions(Options):
    """Which requests, and when they come."""

    num_requests: int | None = option(
        None, "so many: the first rows, or more than there are, drawn again (default: all rows; synthetic: 1,000)",
        low=1, high=10**7,
    )  # fmt: skip
    time_scale: float = option(
        1.0, "the trace's times are multiplied by this; 0.5 is twice as fast, 0 all at once", low=0, high=1e6
    )
    request_rate: float | None = option(
        None, "requests per second, drawn (default: the trace's times; without any, all at once)",
        low=1e-6, high=1e9,
    )  # fmt: skip
    burstiness: float = option(
        1.0, "with --request-rate: shape of the Gamma distribution of the gaps; 1 is Poisson, less comes in bursts",
        low=1e-3, high=1e6,
    )  # fmt: skip
    max_tokens: int = option(2048, "where an answer is cut off, for rows that do not say it", low=1, high=_MOST_TOKENS)
    truncate: bool = option(
        False, "cut requests that are longer than the model's context, instead of refusing the trace"
    )
    input_len: int = option(512, "synthetic: mean length of a prompt in tokens", low=1, high=_MOST_TOKENS)
    output_len: int = option(256, "synthetic: mean length of an answer in tokens", low=1, high=_MOST_TOKENS)
    length_distribution: str = option(
        "lognormal", "synthetic: how both lengths are distributed", choices=("lognormal", "zipf", "bimodal")
    )
    length_spread: float = option(
        0.8, "synthetic: standard deviation of the log length; zipf: the larger, the heavier the tail", low=0, high=4
    )
    seed: int = option(0, "seed of all that is drawn: rows, lengths, arrivals, errors of forecasts", low=0, high=2**31)


@dataclass(frozen=True, kw_only=True)
class ForecastOptions(Options):
    """How wrong the forecasts are. The predictors noisy and adversary know the true lengths, and blur them."""

    forecast_error: float = option(
        0.5, "noisy: standard deviation of log(forecast / length); 0.5 is what a good predictor has", low=0, high=5
    )
    forecast_bias: float = option(
        1.0, "noisy: forecasts are too long by this factor; below 1 too short", low=0.01, high=100
    )
    adversary_share: float = option(
        0.1, "adversary: share of the answers, the longest, that are forecast to have one token", low=0, high=1
    )


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(Options):
    """How many engines, and who gets what."""

    replicas: int = option(1, "engines, each with its own devices", low=1, high=4096)
    router: str = option(
        "round-robin", "which engine a request goes to", choices=("round-robin", "least-requests", "least-forecast")
    )


@dataclass(frozen=True, kw_only=True)
class SimulateOptions(DeviceOptions, TraceOptions, ForecastOptions, ClusterOptions):
    """All options of `presize simulate` besides the scheduler's."""
