"""Every option of Presize: name, default, range and help in one place.

Flags (``--kv-tokens``), YAML keys (``kv_tokens:``) and environment names (``PRESIZE_KV_TOKENS``) are made from these
frozen dataclasses by ``presize.cli.flags``; Python callers pass the same names to ``LLM(...)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from presize.errors import ConfigError, check_range

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
BLOCK_SIZE = 32  # tokens in a KV block; the CPU attention kernel is compiled for it


def option(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    registry: str | None = None,
) -> Any:
    """A dataclass field that knows its help text and its range.

    ``registry`` names a kind whose known names are asked for when the flags are built ("policy", "order"),
    so that this module imports nothing above it.
    """
    return field(
        default=default,
        metadata={"help": text, "low": low, "high": high, "choices": choices, "registry": registry},
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base: checks every field against its metadata; ConfigError names field, value and range."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            kinds = str(f.type).split(" | ")  # annotations are strings here
            if value is None and "None" in kinds:
                continue
            low, high, choices = (f.metadata.get(k) for k in ("low", "high", "choices"))
            if choices and value not in choices:
                raise ConfigError(f"{f.name} is {value!r}; known: {', '.join(choices)}")
            if kinds[0] == "str" and not isinstance(value, str):
                raise ConfigError(f"{f.name} is {value!r}; it must be text")
            if kinds[0] == "bool" and not isinstance(value, bool):
                raise ConfigError(f"{f.name} is {value!r}; it must be true or false")
            if low is not None and high is not None:
                whole = kinds[0] == "int"
                if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                    kind = "a whole number" if whole else "a number"
                    raise ConfigError(f"{f.name} is {value!r}; it must be {kind} in [{low:g}, {high:g}]")
                check_range(f.name, value, low, high)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Which model, and where it runs."""

    model: str = option(
        DEFAULT_MODEL, "a name that `presize pull` knows, a Hugging Face directory, a .gguf file or a hub name"
    )
    dtype: str = option(
        "auto",
        "type of weights and KV cache; auto is bfloat16 where the device computes in it, else float32",
        choices=("auto", "float32", "bfloat16"),
    )
    device: str = option("auto", "auto takes CUDA if there is one", choices=("auto", "cpu", "cuda"))
    threads: int | None = option(None, "CPU threads (default: all cores this process may use)", low=1, high=1024)


@dataclass(frozen=True, kw_only=True)
class MemoryOptions(Options):
    """How much KV cache there is, and what one step may hold."""

    kv_tokens: int | None = option(
        None, "KV cache size in tokens (default: half of the free memory, at most 131,072)", low=32, high=2**31
    )
    max_model_len: int | None = option(
        None, "longest prompt + answer in tokens (default: the model's own limit)", low=2, high=2**24
    )
    max_num_seqs: int = option(256, "most sequences in one step", low=1, high=65536)
    max_num_batched_tokens: int = option(
        512, "token budget of a step: decodes first, what is left goes to prefill chunks", low=16, high=2**20
    )


@dataclass(frozen=True, kw_only=True)
class SchedulerOptions(Options):
    """What decides admission, order and preemption (`presize.core`)."""

    policy: str = option("payback", "admission policy", registry="policy")
    order: str = option("fcfs", "order of the waiting requests", registry="order")
    predictor: str = option(
        "auto",
        "where length forecasts come from: kaplan-meier (the answers so far), ewma (the same, old ones fade), oracle, "
        "max-tokens, a directory of `presize learn`, or auto: the one that comes with the default model, else "
        "kaplan-meier",
    )
    lengths: str | None = option(
        None, "for --predictor oracle: a JSONL file with `id` and `output_tokens`, such as an earlier OUT.jsonl"
    )
    learn_online: str | None = option(
        None,
        "directory in which a predictor goes on learning from what is served; it keeps prompts, as token ids "
        "(default: off)",
    )
    risk: float = option(2.0, "payback: standard deviations above the mean that count as an overflow", low=0, high=10)
    payback: float = option(
        3.0, "payback: an overflow is accepted if the request has repaid this many times its prefill before",
        low=0, high=1e6,
    )  # fmt: skip
    watermark: float = option(0.05, "watermark: share of the blocks kept free at admission", low=0, high=0.9)
    reserve_tokens: int | None = option(
        None, "worst-case: tokens booked for each sequence (default: its prompt + max_tokens)", low=1, high=2**24
    )
    slo_ttft_ms: float | None = option(
        None, "refuse a request whose first token is forecast later than this, in ms (default: never)", low=1, high=1e9
    )
    slo_tpot_ms: float | None = option(
        None, "run at most as many sequences as leave this many ms for each token, by the measured cost of a step "
        "(default: no limit; 187.5 is the reading speed of S^3)",
        low=0.1,
        high=1e9,
    )  # fmt: skip
    aging: float = option(
        0.02,
        "gittins and gittins-preemptive: seconds of waiting that outweigh one token of expected length; a request is "
        "overtaken by no request that came later than this times its length",
        low=1e-9,
        high=1e9,
    )


@dataclass(frozen=True, kw_only=True)
class EngineOptions(ModelOptions, MemoryOptions, SchedulerOptions):
    """All that an engine needs to start."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> EngineOptions:
        """From keyword arguments; an unknown name is an error that lists the known ones."""
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ConfigError(f"unknown option {unknown[0]!r}; known: {', '.join(known)}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class HttpOptions(Options):
    """Where the server listens, and to whom."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 is all of this machine's")
    port: int = option(8000, "port to listen on; 0 takes a free one and says which", low=0, high=65535)
    served_model_name: str | None = option(None, "name of the model in requests and answers (default: as it was given)")
    api_key: tuple[str, ...] = option((), "key that clients must send; without any the server asks for none")
    api_key_file: str | None = option(None, "file with more keys, one a line; # begins a comment")
    stream_interval: int = option(
        1, "tokens in an event of a streamed answer, but for the first and the last; more of them cost less", low=1,
        high=1000,
    )  # fmt: skip
    cors_origin: tuple[str, ...] = option((), "origin whose pages may call the server; * is all (default: none)")
    ssl_certfile: str | None = option(None, "certificate chain, PEM: serve HTTPS")
    ssl_keyfile: str | None = option(None, "its private key, PEM")


@dataclass(frozen=True, kw_only=True)
class LimitOptions(Options):
    """How much the server takes on. What is more is refused at once, with the time to try again."""

    max_queued_requests: int = option(1024, "most sequences that wait", low=1, high=2**20)
    max_queued_tokens: int = option(262_144, "most prompt tokens that wait", low=1, high=2**40)
    max_connections: int = option(1024, "most HTTP requests at the same time, of every kind", low=1, high=2**20)
    max_body_bytes: int = option(4_194_304, "largest body of a request", low=1024, high=2**30)
    max_header_bytes: int = option(16_384, "largest head of a request", low=1024, high=2**20)
    request_timeout: float = option(600.0, "seconds after which an unfinished request is given up", low=0.1, high=1e6)
    shutdown_timeout: float = option(
        30.0, "seconds that a stop (SIGTERM) leaves to what is in work; then the rest gets an error", low=0, high=1e5
    )
    stuck_after: float = option(
        120.0, "seconds of one engine step after which /health says that it is stuck", low=0.1, high=1e5
    )


@dataclass(frozen=True, kw_only=True)
class SeeingOptions(Options):
    """What the server tells of itself."""

    log_format: str = option("text", "lines for people, or one JSON object a line", choices=("text", "json"))
    log_interval: float = option(10.0, "seconds between lines on the state; 0 is never", low=0, high=1e5)
    metrics_compat: str = option(
        "none", "vllm publishes the metrics that vLLM has under its names as well", choices=("none", "vllm")
    )


@dataclass(frozen=True, kw_only=True)
class ServeOptions(HttpOptions, LimitOptions, SeeingOptions):
    """All options of `presize serve` besides the engine's."""


@dataclass(frozen=True, kw_only=True)
class LearnOptions(Options):
    """What is learned, from what."""

    model: str = option(DEFAULT_MODEL, "the model that gave the answers; its tokenizer reads the prompts")
    predictor: str = option("attention", "what is learned", choices=("attention", "encoder", "hidden", "linear", "s3"))
    teacher: str | None = option(
        None, "attention: directory of a predictor to learn from as well, such as an encoder learned from the same log"
    )
    prompts: str | None = option(
        None, "attention with a teacher: JSONL file of rows with `prompt` or `messages`, more prompts to ask it about"
    )
    variants: int = option(
        120_000, "attention with a teacher: prompts made of the known ones to ask it about", low=0, high=2_000_000
    )
    held_out: float = option(
        0.1, "share of the prompts that is not learned from: it says when to stop, calibrates, and is reported",
        low=0.01, high=0.5,
    )  # fmt: skip
    licence: str = option("unknown", "licence of what is learned, kept in its header")
    seed: int = option(0, "seed of the split and of the training", low=0, high=2**31)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """What forecasts are compared with."""

    model: str | None = option(None, "the model that gave the answers (default: the one the predictor is for)")
    save_plot: str | None = option(
        None, "write a picture: predicted against true lengths, and how often answers fall below each quantile"
    )


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(Options):
    """How the prompt is read, and what is asked of the answer."""

    model: str | None = option(None, "the model that would answer (default: the one the predictor is for)")
    raw: bool = option(False, "take the prompt as raw text, not as one user message in the chat template")
    max_tokens: int | None = option(
        None, "where the answer is cut off, in tokens (default: as in the log learned from, geometric mean)",
        low=1, high=2**20,
    )  # fmt: skip
    temperature: float | None = option(
        None, "randomness of the answer (default: as in the log learned from, mean)", low=0, high=100
    )


@dataclass(frozen=True, kw_only=True)
class ShapeOptions(Options):
    """What network is looked for or judged, and where it would be served."""

    params: float | None = option(
        None, "parameters to spend, without embeddings: 12 x depth x width^2", low=1e5, high=1e14
    )
    model: str | None = option(
        None, "judge a network that is there: one that `presize simulate` knows, or a directory with config.json"
    )
    device: str = option("A100-80G", "what it would be served by: a device of `presize simulate`, or such a JSON file")
    context: int = option(2048, "tokens of a sequence, prompt and answer", low=2, high=2**24)
    layer_us: float = option(
        20.0, "microseconds that a layer adds to a step however little it computes, as layers wait for one another",
        low=0, high=1000,
    )  # fmt: skip
    head_size: int | None = option(
        None, "elements of a head (default: 64, and 128 from a width of 1,536 on)", low=1, high=1024
    )
    embedding_rank: int | None = option(
        None, "rank of the input embedding, such as the vocabulary if that is small: more width is of no use "
        "(default: no limit; with --model its vocabulary)", low=1, high=2**31,
    )  # fmt: skip
    save_plot: str | None = option(None, "write a picture: depth and width, the law's line, the candidates")


@dataclass(frozen=True, kw_only=True)
class SynSmallOptions(Options):
    """How the two classes are learned; without flags as in the paper's figure 4."""

    eta_z: float = option(1.0, "learning rate of the attention logits Z", low=1e-6, high=1e3)
    eta_ratio: float = option(1.0, "learning rate of the decoder Y, relative to that", low=1e-3, high=1e4)
    optimizer: str = option(
        "sgd", "sgd has momentum 0.9; with adam the paper takes --eta-z 0.1, 0.5 and 1", choices=("sgd", "adam")
    )
    steps: int = option(100, "batches of 128 sequences", low=1, high=100_000)
    seed: int = option(2, "seed of the data", low=0, high=2**31)
    save_plot: str | None = option(None, "write a picture: loss, attention over iterations, entropy")
    save_gif: str | None = option(None, "write an animation of attention over iterations")


@dataclass(frozen=True, kw_only=True)
class SynMediumOptions(Options):
    """Which cells of the paper's figure 6; without flags all 64 of them."""

    classes: tuple[int, ...] = option((), "number of classes: 2, 6, 10 or 20 (default: all)")
    eta_z: tuple[float, ...] = option((), "learning rate of the attention logits Z (default: 0.5, 1, 2, 3)")
    eta_ratio: tuple[float, ...] = option((), "that of the decoder Y, relative to it (default: 1, 2, 5, 10)")
    seeds: int = option(10, "runs of each cell", low=1, high=1000)
    save_plot: str | None = option(None, "write a picture: entropy against the ratio, a panel a number of classes")


@dataclass(frozen=True, kw_only=True)
class WikitextOptions(Options):
    """The transformer, its text and its training; without flags as the paper's notebook, but for the vocabulary."""

    text: str | None = option(None, "text to learn, .txt or .gz; its last tenth is held out")
    layers: int = option(1, "attention layers, one head each", low=1, high=12)
    rate: float = option(5.0, "learning rate of SGD without momentum", low=1e-4, high=1e3)
    steps: int = option(500, "batches of 20 windows of 35 words", low=1, high=1_000_000)
    vocabulary: int = option(5000, "most frequent words that are told apart", low=10, high=100_000)
    seed: int = option(0, "seed of the weights and of dropout", low=0, high=2**31)
    save_plot: str | None = option(None, "write a picture: attention maps and entropy over iterations")
    save_gif: str | None = option(None, "write an animation of the lowest layer's attention map")


@dataclass(frozen=True, kw_only=True)
class WatchOptions(Options):
    """What is made of the log; all but the picture is for a script."""

    script_args: str | None = option(None, "arguments of the script, in quotes")
    log: str | None = option(None, "where the script's log goes (default: SCRIPT.attention.jsonl, beside it)")
    every: int | None = option(None, "steps of the script between two looks (default: 10)", low=1, high=2**31)
    save_plot: str | None = option(None, "write a picture: evenness and sparsity of each layer over the steps")


@dataclass(frozen=True, kw_only=True)
class OptimReportOptions(Options):
    """What is looked at."""

    text: str | None = option(None, "text file for a model: the gradients are those of its next-token loss")
    samples: int = option(64, "gradients: batches of a script, pieces of the text", low=2, high=100_000)
    context: int = option(64, "tokens in a piece of the text", low=2, high=2**20)
    rows: int = option(24, "outputs of a layer that are looked at", low=1, high=1024)
    columns: int = option(40, "inputs of a layer that are looked at", low=1, high=1024)
    rank: tuple[int, ...] = option((1, 4, 16), "columns of a basis")
    heads: int = option(1, "runs of rows that have a basis of their own, beside one basis for all", low=1, high=1024)
    save_plot: str | None = option(None, "write a picture: heat maps of the second moments, and errors by rank")

    def __post_init__(self) -> None:
        super().__post_init__()
        for rank in self.rank:
            check_range("rank", rank, 1, 1024)
