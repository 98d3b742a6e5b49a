"""The instruments of one process, and the sum over all processes.

Each gateway counts in a registry of its own and pushes snapshots; the ledger actor adds them up, so that /metrics says
the same from every replica. Label values are names from the catalogue and codes of ours, never anything a client
wrote. What is worth alerting on is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
RATIOS = (0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)
OVERHEAD_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)

SILENT_AFTER_S = 15.0  # a process that pushes every 2 s is gone by then: its gauges no longer count
SILENT_PROCESSES_MAX = 32  # the counters of this many are kept apart, in case one of them was only cut off
FORGOTTEN_MAX = 10_000

Key = tuple[str, tuple[tuple[str, str], ...]]  # sample name, labels


class Family(msgspec.Struct, array_like=True):
    """One metric of a snapshot: its samples as (name, labels, value)."""

    name: str
    kind: str
    documentation: str
    samples: list[tuple[str, list[tuple[str, str]], float]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Family])
_dump_decoder = msgspec.msgpack.Decoder(tuple[dict[str, list[Family]], list[Family], list[str]])


class Instruments:
    """What a gateway counts. Each method is one call of the hot path; label children are looked up once."""

    def __init__(self) -> None:
        registry = CollectorRegistry(auto_describe=False)
        self._registry = registry
        self._requests = Counter(
            "logos_requests",
            "Accepted requests that ended, by outcome.",
            ["model", "provider", "outcome"],
            registry=registry,
        )
        self._refused = Counter(
            "logos_refused", "Requests refused before acceptance, by error code.", ["code"], registry=registry
        )
        self._tokens = Counter("logos_tokens", "Tokens, as billed, by type.", ["model", "type"], registry=registry)
        self._cost = Counter(
            "logos_cost_micro_cents",
            "Charges, in micro-cents (1e8 = 1 unit).",
            ["currency"],
            registry=registry,
        )
        self._hedged = Counter(
            "logos_hedged_requests",
            "Requests that ran at two places, by the one that served them.",
            ["winner"],
            registry=registry,
        )
        self._duration = self._histogram("request_duration", "From acceptance to the end of the answer.")
        self._ttft = self._histogram("time_to_first_token", "From acceptance to the first byte.", ["model"])
        self._ratio = Histogram(
            "logos_ttft_actual_to_predicted",
            "Time to first token over its predicted median; half of it should be below 1.",
            ("model",),
            registry=registry,
            buckets=RATIOS,
        )
        self._overhead = self._histogram("overhead", "Spent inside Logos, queueing excluded.", buckets=OVERHEAD_SECONDS)
        self._queue_wait = self._histogram("queue_wait", "Waited for a place.")
        self._steps = Counter(
            "logos_step_seconds", "Where a gateway's time per request goes.", ["step"], registry=registry
        )
        self._in_flight = Gauge("logos_in_flight", "Requests being served now.", registry=registry)
        self._outbox = Gauge("logos_outbox_records", "Records not yet in the database.", registry=registry)
        self._outbox_bytes = Gauge("logos_outbox_bytes", "Size of the outbox.", registry=registry)
        self._outbox_lag = Gauge(
            "logos_outbox_lag_seconds", "Age of the oldest record not yet stored.", registry=registry
        )
        self._children: dict[tuple[str, ...], Counter | Histogram] = {}

    def _histogram(
        self,
        name: str,
        documentation: str,
        labels: Iterable[str] = (),
        buckets: tuple[float, ...] = SECONDS,
    ) -> Histogram:
        return Histogram(
            f"logos_{name}_seconds", documentation, tuple(labels), registry=self._registry, buckets=buckets
        )

    def request_ended(self, model: str, provider: str, outcome: str, duration_s: float) -> None:
        self._counter(self._requests, "requests", model, provider, outcome).inc()
        self._duration.observe(duration_s)

    def refused(self, code: str) -> None:
        self._counter(self._refused, "refused", code).inc()

    def tokens_used(self, model: str, usage: Mapping[str, int]) -> None:
        for token_type, tokens in usage.items():
            if tokens > 0:
                self._counter(self._tokens, "tokens", model, token_type).inc(tokens)

    def charged(self, currency: str | None, micro_cents: int) -> None:
        if currency is not None and micro_cents > 0:
            self._counter(self._cost, "cost", currency).inc(micro_cents)

    def first_token(self, model: str, ttft_s: float) -> None:
        child = self._children.get(("ttft", model))
        if child is None:
            child = self._children["ttft", model] = self._ttft.labels(model)
        assert isinstance(child, Histogram)
        child.observe(ttft_s)

    def overhead(self, seconds: float) -> None:
        self._overhead.observe(seconds)

    def queue_waited(self, seconds: float) -> None:
        self._queue_wait.observe(seconds)

    def hedged(self, winner: str) -> None:
        """A request ended that had a second place; winner is first, second or none."""
        self._counter(self._hedged, "hedged", winner).inc()

    def steps(self, seconds: Mapping[str, float]) -> None:
        for step, spent_s in seconds.items():
            self._counter(self._steps, "step", step).inc(spent_s)

    def in_flight(self, requests: int) -> None:
        self._in_flight.set(requests)

    def outbox(self, records: int, size_bytes: int, lag_s: float) -> None:
        self._outbox.set(records)
        self._outbox_bytes.set(size_bytes)
        self._outbox_lag.set(lag_s)

    def snapshot(self) -> bytes:
        """Everything counted so far, for Aggregate.push."""
        return snapshot_of(self._registry)

    def predicted(self, model: str, predicted_s: float, actual_s: float) -> None:
        """What was expected of a request until its first token, and what it took, both from its acceptance."""
        if predicted_s > 0:
            child = self._children.get(("ratio", model))
            if child is None:
                child = self._children["ratio", model] = self._ratio.labels(model)
            assert isinstance(child, Histogram)
            child.observe(actual_s / predicted_s)

    def _counter(self, counter: Counter, name: str, *labels: str) -> Counter:
        child = self._children.get((name, *labels))
        if child is None:
            child = self._children[(name, *labels)] = counter.labels(*labels)
        assert isinstance(child, Counter)
        return child


@dataclass(frozen=True, slots=True)
class LedgerFigures:
    """What the ledger actor says about itself."""

    lag_s: float = 0.0
    pending_records: int = 0
    stored_records: int = 0
    refused_records: int = 0
    database_up: bool = True


@dataclass(slots=True)
class _Process:
    """The newest snapshot of one process."""

    seen_at: float
    families: list[Family] = field(default_factory=list)


class Aggregate:
    """Sums snapshots. Counters and histograms of the dead count for ever, gauges of the living only; a process
    that was merely cut off replaces its old snapshot, so nothing counts twice. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._processes: dict[str, _Process] = {}
        self._retired: dict[str, Metric] = {}
        self._forgotten: dict[str, None] = {}

    def push(self, process_id: str, snapshot: bytes, now: float) -> None:
        """Raises msgspec.ValidationError for what is no snapshot."""
        if process_id not in self._forgotten:
            self._processes[process_id] = _Process(now, _decoder.decode(snapshot))

    def dump(self) -> bytes:
        """What would be lost with this process, for `restore` in the next: snapshots by process, sums of the retired
        under no name, and the names never to be counted again."""
        snapshots = {name: process.families for name, process in self._processes.items()}
        retired = [_family_of(metric) for metric in self._retired.values()]
        return _encoder.encode((snapshots, retired, list(self._forgotten)))

    def restore(self, dumped: bytes, now: float) -> None:
        """Whoever pushed since is known better by itself; the others are taken for dead until they push. Raises
        msgspec.ValidationError for what is no dump."""
        snapshots, retired, forgotten = _dump_decoder.decode(dumped)
        for name, families in snapshots.items():
            self._processes.setdefault(name, _Process(now - 2 * SILENT_AFTER_S, families))
        for family in retired:
            _add(self._retired, family.name, family.kind, family.documentation, _samples_of(family))
        self._forgotten |= dict.fromkeys(forgotten)

    def render(self, now: float, ledger: LedgerFigures | None = None) -> bytes:
        """Prometheus text."""
        silent = [name for name, each in self._processes.items() if now - each.seen_at > SILENT_AFTER_S]
        for name in sorted(silent, key=lambda each: self._processes[each].seen_at)[:-SILENT_PROCESSES_MAX]:
            self._retire(name)
        metrics: dict[str, Metric] = {}
        for metric in self._retired.values():
            _add(metrics, metric.name, metric.type, metric.documentation, metric.samples)
        for process in self._processes.values():
            is_silent = now - process.seen_at > SILENT_AFTER_S
            for family in process.families:
                if not (is_silent and family.kind == "gauge"):
                    _add(metrics, family.name, family.kind, family.documentation, _samples_of(family))
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Fixed([*metrics.values(), *_figures(ledger)]))
        return generate_latest(registry)

    def _retire(self, process_id: str) -> None:
        """Fold the counters into the totals. The name is remembered and never counted again."""
        for family in self._processes.pop(process_id).families:
            if family.kind != "gauge":
                _add(self._retired, family.name, family.kind, family.documentation, _samples_of(family))
        self._forgotten[process_id] = None
        while len(self._forgotten) > FORGOTTEN_MAX:
            self._forgotten.pop(next(iter(self._forgotten)))


class _Fixed(Collector):
    """Hands finished metrics to prometheus_client's own text format."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def snapshot_of(registry: CollectorRegistry) -> bytes:
    """Everything in a registry, for Aggregate.push."""
    return _encoder.encode([_family_of(metric) for metric in registry.collect()])


def _family_of(metric: Metric) -> Family:
    samples = [
        (sample.name, sorted(sample.labels.items()), float(sample.value))
        for sample in metric.samples
        if not sample.name.endswith("_created")
    ]
    return Family(metric.name, metric.type, metric.documentation, samples)


def _samples_of(family: Family) -> Iterator[Sample]:
    for name, labels, value in family.samples:
        yield Sample(name, dict(labels), value)


def _add(metrics: dict[str, Metric], name: str, kind: str, documentation: str, samples: Iterable[Sample]) -> None:
    """Add these samples to the metric of that name, in place."""
    metric = metrics.get(name)
    if metric is None:
        metric = metrics[name] = Metric(name, documentation, kind)
    at: dict[Key, int] = {
        (sample.name, tuple(sorted(sample.labels.items()))): index for index, sample in enumerate(metric.samples)
    }
    for sample in samples:
        key = (sample.name, tuple(sorted(sample.labels.items())))
        if key in at:
            index = at[key]
            metric.samples[index] = sample._replace(value=metric.samples[index].value + sample.value)
        else:
            at[key] = len(metric.samples)
            metric.samples.append(sample)


def _figures(ledger: LedgerFigures | None) -> Iterator[Metric]:
    if ledger is None:
        return
    for name, kind, documentation, value in (
        ("logos_ledger_lag_seconds", "gauge", "Age of the oldest record in the ledger.", ledger.lag_s),
        ("logos_ledger_pending_records", "gauge", "Records in the ledger.", ledger.pending_records),
        ("logos_ledger_stored_records", "counter", "Records committed.", ledger.stored_records),
        ("logos_ledger_refused_records", "counter", "Records that Postgres refused.", ledger.refused_records),
        ("logos_database_up", "gauge", "1 while the database answers.", float(ledger.database_up)),
    ):
        metric = Metric(name, documentation, kind)
        metric.add_sample(f"{name}_total" if kind == "counter" else name, {}, value)
        yield metric
