"""Prometheus metrics: vLLM's stems under ``presize_``, and what only a server that forecasts can tell."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from presize.config import BLOCK_SIZE, EngineOptions
from presize.engine.outputs import RequestOutput
from presize.engine.sampling_params import SamplingParams
from presize.server.view import EngineView
from presize.version import __version__

OUTCOMES = ("success", "refused", "disconnect", "timeout", "error")
READING_SPEED_MS = 187.5  # a token, of S^3: what `slo_tpot_ms` is for goodput if only the first token's is asked for
RECENT = 256  # answers that the page's calibration is made of

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_BRIEF = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
# what `--metrics-compat vllm` publishes under vLLM's names as well
_VLLM = frozenset({
    "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions", "prompt_tokens",
    "generation_tokens", "request_success", "time_to_first_token_seconds", "inter_token_latency_seconds",
    "e2e_request_latency_seconds", "request_queue_time_seconds", "request_prompt_tokens", "request_generation_tokens",
    "request_params_max_tokens", "request_params_n",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ended:
    """An answer with its forecast, in tokens; censored: it was cut off."""

    predicted: int
    low: int
    high: int
    tokens: int
    censored: bool


class Metrics:
    """Counts what ends; gauges come from the `view` that was taken last."""

    def __init__(self, model: str, options: EngineOptions, *, compat: bool = False) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series beside every counter that nobody reads
        self.registry = CollectorRegistry()
        self.view: EngineView | None = None
        self.recent: deque[Ended] = deque(maxlen=RECENT)
        self._model = model
        self._slo_ttft_s = None if options.slo_ttft_ms is None else options.slo_ttft_ms / 1000
        asked = options.slo_ttft_ms is not None or options.slo_tpot_ms is not None
        self._slo_tpot_s = (options.slo_tpot_ms or READING_SPEED_MS) / 1000 if asked else None
        self._make()
        self.registry.register(_EngineGauges(self, options))
        self._published = CollectorRegistry()
        self._published.register(_Renamed(self.registry, "vllm:") if compat else _Renamed(self.registry, None))

    def _make(self) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            whole = Histogram(f"presize_{name}", text, ["model_name"], registry=self.registry, buckets=buckets)
            return whole.labels(self._model)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"presize_{name}", text, ["model_name", *labels], registry=self.registry)

        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens taken on.").labels(self._model)
        self._outcomes = counter("http_outcomes", "Requests for answers by what became of them.", "outcome")
        for outcome in OUTCOMES:
            self._outcomes.labels(self._model, outcome)
        self._in_work = Gauge(
            "presize_requests_in_work",
            "Requests for answers without an outcome yet.",
            ["model_name"],
            registry=self.registry,
        ).labels(self._model)
        self._success = counter("request_success", "Answers that ended, by their reason.", "finished_reason")
        for reason in ("stop", "length"):
            self._success.labels(self._model, reason)
        self._within_slo = counter("requests_within_slo", "Requests that kept their objectives.").labels(self._model)
        self._under = counter("under_predictions", "Answers longer than the forecast's central 90 %.").labels(
            self._model
        )
        self._covered = counter("covered_predictions", "Answers within the forecast's central 90 %.").labels(
            self._model
        )
        self._ttft = histogram("time_to_first_token_seconds", "From arrival to the first token.", _SECONDS)
        self._itl = histogram("inter_token_latency_seconds", "Between two tokens of an answer.", _SECONDS)
        self._e2e = histogram("e2e_request_latency_seconds", "From arrival to the last token.", _SECONDS)
        self._queue = histogram("request_queue_time_seconds", "From arrival to admission.", _SECONDS)
        self._prompt = histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self._output = histogram("request_generation_tokens", "Tokens of an answer.", _TOKENS)
        self._max_tokens = histogram("request_params_max_tokens", "max_tokens, where it was given.", _TOKENS)
        self._n = histogram("request_params_n", "Answers asked for.", (1, 2, 5, 10, 20))
        self._predicted = histogram("predicted_tokens", "Median of the forecast at arrival.", _TOKENS)
        self._error = histogram("prediction_error_tokens", "Distance of an answer from that median.", _TOKENS)
        self._forecast = histogram("predictor_latency_seconds", "Time that a forecast took.", _BRIEF)

    def arrived(self) -> None:
        """A job has come."""
        self._in_work.inc()

    def started(self, prompt_tokens: int) -> None:
        """The engine has taken a job."""
        self._prompt_tokens.inc(prompt_tokens)

    def outcome(self, name: str) -> None:
        """A job is over."""
        self._outcomes.labels(self._model, name).inc()
        self._in_work.dec()

    def finished(self, output: RequestOutput, params: SamplingParams) -> None:
        """A request has ended."""
        metrics = output.metrics
        self._prompt.observe(len(output.prompt_token_ids))
        self._queue.observe(metrics.queue_s)
        self._ttft.observe(metrics.ttft_s)
        self._e2e.observe(metrics.latency_s)
        self._forecast.observe(metrics.forecast_s)
        self._n.observe(params.n)
        if params.max_tokens is not None:
            self._max_tokens.observe(params.max_tokens)
        for gap in metrics.token_gaps_s:
            self._itl.observe(gap)
        low, high = metrics.predicted_range
        for tokens, reason in metrics.answers:
            self._success.labels(self._model, reason).inc()
            self._output.observe(tokens)
            self._predicted.observe(metrics.predicted_tokens)
            self._error.observe(abs(tokens - metrics.predicted_tokens))
            if tokens > high:
                self._under.inc()
            elif tokens >= low:
                self._covered.inc()
            self.recent.append(Ended(metrics.predicted_tokens, low, high, tokens, reason != "stop"))
        if self._slo_tpot_s is not None and self._kept(output):
            self._within_slo.inc()

    def _kept(self, output: RequestOutput) -> bool:
        gaps = output.metrics.token_gaps_s
        quick = self._slo_ttft_s is None or output.metrics.ttft_s <= self._slo_ttft_s
        return quick and (not gaps or sum(gaps) / len(gaps) <= (self._slo_tpot_s or 0.0))

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._published)


class _EngineGauges(Collector):
    """What the last view says."""

    def __init__(self, metrics: Metrics, options: EngineOptions) -> None:
        self._metrics, self._options = metrics, options

    def collect(self) -> Iterator[Metric]:
        metrics, view = self._metrics, self._metrics.view
        model = metrics._model
        info = GaugeMetricFamily(
            "presize_info", "Version and choices of this server.",
            labels=["model_name", "version", "policy", "order", "predictor"],
        )  # fmt: skip
        options = self._options
        info.add_metric([model, __version__, options.policy, options.order, view.predictor if view else ""], 1)
        yield info
        if view is None:
            return
        now = view.snapshot
        capacity = now.kv_capacity_tokens

        def gauge(name: str, text: str, value: float) -> Metric:
            family = GaugeMetricFamily(f"presize_{name}", text, labels=["model_name"])
            family.add_metric([model], value)
            return family

        yield gauge("num_requests_running", "Sequences that run.", now.running)
        yield gauge("num_requests_waiting", "Sequences that wait.", now.waiting)
        yield gauge("kv_cache_usage_perc", "Share of the KV cache that is held, 0 to 1.", now.kv_used_tokens / capacity)
        yield gauge("kv_cache_booked_perc", "Share that is booked by the forecast.", now.kv_booked_tokens / capacity)
        yield gauge("kv_cache_capacity_tokens", "Size of the KV cache.", capacity)
        yield gauge("kv_block_size_tokens", "Size of a block.", BLOCK_SIZE)
        tokens = CounterMetricFamily("presize_generation_tokens", "Tokens generated.", labels=["model_name"])
        tokens.add_metric([model], now.output_tokens)
        yield tokens
        # vLLM's has no cause
        total = CounterMetricFamily("presize_num_preemptions", "Preemptions.", labels=["model_name"])
        total.add_metric([model], sum(view.preemptions.values()))
        yield total
        causes = CounterMetricFamily(
            "presize_preemptions_by_cause", "Preemptions: a booking ran out, or the pool did.",
            labels=["model_name", "cause"],
        )  # fmt: skip
        for cause, count in view.preemptions.items():
            causes.add_metric([model, cause], count)
        yield causes
        trouble = CounterMetricFamily(
            "presize_predictor_fallbacks", "Forecasts that the history stood in for: the predictor failed or was late.",
            labels=["model_name", "cause"],
        )  # fmt: skip
        trouble.add_metric([model, "failed"], view.failures)
        trouble.add_metric([model, "late"], view.late)
        yield trouble


class _Renamed(Collector):
    """All of a registry, and some of it once more under another prefix."""

    def __init__(self, registry: CollectorRegistry, prefix: str | None) -> None:
        self._registry, self._prefix = registry, prefix

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            yield family
            stem = family.name.removeprefix("presize_")
            if self._prefix is not None and stem in _VLLM:
                other = Metric(self._prefix + stem, family.documentation, family.type)
                other.samples = [
                    sample._replace(name=self._prefix + sample.name.removeprefix("presize_"))
                    for sample in family.samples
                ]
                yield other
