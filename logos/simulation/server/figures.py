"""The figures of the simulated engine under vLLM's metric names, as Prometheus text.

Counting is a few additions per step; families are built only when somebody asks. Gauges are read from the engine at
that moment. No decision is made from these figures here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

# The boundaries that vLLM uses.
_REQUEST_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
_FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
_INTER_TOKEN_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip


class Histogram:
    """Counts per bucket, cumulated only when it is written."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound as text, values up to it), with +Inf at the end."""
        total = 0
        cumulated: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, map(float, self.bounds)), "+Inf"), self.counts, strict=True):
            total += count
            cumulated.append((bound, total))
        return cumulated


class Counts:
    """What has happened since the start; every number only grows."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.ended: dict[str, int] = {"stop": 0, "length": 0, "abort": 0}
        self.first_token_s = Histogram(_FIRST_TOKEN_S)
        self.inter_token_s = Histogram(_INTER_TOKEN_S)
        self.total_s = Histogram(_REQUEST_S)
        self.queue_s = Histogram(_REQUEST_S)
        self.prefill_s = Histogram(_REQUEST_S)
        self.decode_s = Histogram(_REQUEST_S)


class Observed(Protocol):
    """What the gauges read from an engine."""

    counts: Counts

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def kv_usage(self) -> float: ...
    @property
    def sleep_level(self) -> int | None: ...
    @property
    def prefix_queried_tokens(self) -> int: ...
    @property
    def prefix_hit_tokens(self) -> int: ...
    @property
    def preemptions(self) -> int: ...


class _Families(Collector):
    def __init__(self, engine: Observed, model: str) -> None:
        self._engine = engine
        self._labels = {"model_name": model, "engine": "0"}

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield from self._counters()
        yield from self._histograms()

    def describe(self) -> list[Metric]:
        return []  # names are fixed; nothing needs to be collected to register them

    def _gauges(self) -> Iterator[Metric]:
        engine = self._engine
        yield self._gauge("num_requests_running", "Number of requests in model execution batches.", engine.running)
        yield self._gauge(
            "num_requests_waiting", "Number of requests waiting to be processed.", engine.waiting + engine.held
        )
        yield self._gauge_by(
            "num_requests_waiting_by_reason",
            "Number of waiting requests by reason.",
            "reason",
            {"capacity": engine.waiting, "deferred": engine.held},
        )
        yield self._gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", engine.kv_usage)
        level = engine.sleep_level
        yield self._gauge_by(
            "engine_sleep_state",
            "Engine sleep state: awake, weights_offloaded (level 1) or discard_all (level 2).",
            "sleep_state",
            {"awake": level is None, "weights_offloaded": level == 1, "discard_all": level == 2},
        )

    def _counters(self) -> Iterator[Metric]:
        engine, counts = self._engine, self._engine.counts
        for name, text, value in (
            ("prefix_cache_queries", "Prefix cache queries, in tokens.", engine.prefix_queried_tokens),
            ("prefix_cache_hits", "Prefix cache hits, in tokens.", engine.prefix_hit_tokens),
            ("num_preemptions", "Cumulative number of preemptions.", engine.preemptions),
            ("prompt_tokens", "Number of prefill tokens processed.", counts.prompt_tokens),
            ("generation_tokens", "Number of generation tokens processed.", counts.generation_tokens),
        ):
            counter = CounterMetricFamily(f"vllm:{name}", text, labels=list(self._labels))
            counter.add_metric(list(self._labels.values()), value)
            yield counter
        ended = CounterMetricFamily(
            "vllm:request_success", "Finished requests by reason.", labels=[*self._labels, "finished_reason"]
        )
        for reason, value in counts.ended.items():
            ended.add_metric([*self._labels.values(), reason], value)
        yield ended

    def _histograms(self) -> Iterator[Metric]:
        counts = self._engine.counts
        for name, text, histogram in (
            ("time_to_first_token", "time to first token", counts.first_token_s),
            ("inter_token_latency", "inter-token latency", counts.inter_token_s),
            ("e2e_request_latency", "end-to-end request latency", counts.total_s),
            ("request_queue_time", "time spent waiting", counts.queue_s),
            ("request_prefill_time", "time spent in prefill", counts.prefill_s),
            ("request_decode_time", "time spent in decode", counts.decode_s),
        ):
            family = HistogramMetricFamily(
                f"vllm:{name}_seconds", f"Histogram of {text} in seconds.", labels=list(self._labels)
            )
            family.add_metric(list(self._labels.values()), histogram.buckets(), sum_value=histogram.sum)
            yield family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(f"vllm:{name}", text, labels=list(self._labels))
        gauge.add_metric(list(self._labels.values()), value)
        return gauge

    def _gauge_by(self, name: str, text: str, label: str, values: dict[str, int]) -> Metric:
        gauge = GaugeMetricFamily(f"vllm:{name}", text, labels=[*self._labels, label])
        for which, value in values.items():
            gauge.add_metric([*self._labels.values(), which], float(value))
        return gauge


class Metrics:
    """Writes the figures of one engine as Prometheus text."""

    def __init__(self, engine: Observed, model: str) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Families(engine, model))

    def text(self) -> bytes:
        return generate_latest(self._registry)
