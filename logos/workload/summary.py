"""A run in figures: the metrics that go into `x_summary.csv`, and how they are counted.

Every request that was sent counts in the rates: one that failed, however fast, or that still ran when the run was
broken off, has missed its objective. Times are those of answered requests alone, or a fast refusal would look like a
fast answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from logos.domain.nouns import Mode, Priority
from logos.workload.exchanges import Exchange, Run
from logos.workload.statistics import PERCENTILES, known, mean, quantile, share

MS = "ms"
RATIO = "ratio"
COUNT = "requests"
PER_SECOND = "1/s"

# Of answered requests: name in the metrics -> value. The server's own figures stand beside the client's.
TIMES: dict[str, Callable[[Exchange], float | None]] = {
    "ttft": lambda each: each.ttft_ms,
    "tpot": lambda each: each.tpot_ms,
    "total_latency": lambda each: each.latency_ms,
    "queue_wait": lambda each: each.server.queue_wait_ms,
    "predicted_ttft": lambda each: each.server.predicted_ttft_ms,
    "server_ttft": lambda each: None if each.ttft_ms is None else each.server.ttft_ms,  # of streams only
    "server_total_latency": lambda each: each.server.latency_ms,
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the summary. `value` is None where nothing was measured."""

    name: str
    value: float | None
    unit: str


def summarise(run: Run) -> list[Metric]:
    """All metrics of a run, the ones that people look at first."""
    return [*_counts(run), *_attainment(run), *_times(run), *_pace(run)]


def _counts(run: Run) -> Iterator[Metric]:
    sent = len(run.exchanges)
    answered = sum(each.is_success for each in run.exchanges)
    yield Metric("total_requests", sent, COUNT)
    yield Metric("successful_requests", answered, COUNT)
    yield Metric("failed_requests", sent - answered, COUNT)
    yield Metric("error_rate", share(sent - answered, sent), RATIO)
    yield Metric("not_sent_requests", run.not_sent, COUNT)
    yield Metric("run_complete", float(run.is_complete), "0 or 1")


def _attainment(run: Run) -> Iterator[Metric]:
    yield Metric("latency_slo", run.slo_ms, MS)
    yield Metric("slo_attainment_rate", attainment(run.exchanges, run.slo_ms), RATIO)
    for name, members in classes(run.exchanges):
        yield Metric(f"slo_attainment_rate_{name}", attainment(members, run.slo_ms), RATIO)


def classes(exchanges: Sequence[Exchange]) -> Iterator[tuple[str, list[Exchange]]]:
    """(`interactive_high`, its requests), most urgent first; without those that are empty."""
    for mode in Mode:
        for priority in sorted(Priority, reverse=True):
            members = [each for each in exchanges if (each.row.mode, each.row.priority) == (mode, priority)]
            if members:
                yield f"{mode.value}_{priority.name.lower()}", members


def attainment(exchanges: Sequence[Exchange], slo_ms: float) -> float | None:
    """The share of all requests sent that were answered within the objective."""
    return share(sum(each.meets(slo_ms) for each in exchanges), len(exchanges))


def _times(run: Run) -> Iterator[Metric]:
    answered = [each for each in run.exchanges if each.is_success]
    for name, value_of in TIMES.items():
        values = known(value_of(each) for each in answered)
        yield Metric(f"avg_{name}", mean(values), MS)
        yield from _percentiles(name, values, PERCENTILES)
    gaps = sorted(gap for each in answered for gap in each.gaps_ms)
    yield from _percentiles("inter_token", gaps, (50, 99))
    yield Metric("mape_predicted_ttft", prediction_error(answered), RATIO)


def _percentiles(name: str, ordered: Sequence[float], percents: Iterable[int]) -> Iterator[Metric]:
    for percent in percents:
        yield Metric(f"p{percent}_{name}", quantile(ordered, percent / 100), MS)


def prediction_error(exchanges: Iterable[Exchange]) -> float | None:
    """Mean absolute error of the predicted first token, as a share of the measured one (MAPE)."""
    errors = [
        abs(each.server.predicted_ttft_ms - each.ttft_ms) / each.ttft_ms
        for each in exchanges
        if each.server.predicted_ttft_ms is not None and each.ttft_ms
    ]
    return mean(errors)


def _pace(run: Run) -> Iterator[Metric]:
    """How the run itself went: whether requests left at their times, and how much came back."""
    lateness = sorted(each.lateness_ms for each in run.exchanges)
    yield from _percentiles("lateness", lateness, (50, 99))
    yield Metric("max_lateness", lateness[-1] if lateness else None, MS)
    if not run.exchanges:
        return
    seconds = max(each.ended_ms for each in run.exchanges) / 1000
    answered = [each for each in run.exchanges if each.is_success]
    tokens = sum(each.completion_tokens or 0 for each in answered)
    yield Metric("duration", seconds, "s")
    yield Metric("request_throughput", len(answered) / seconds if seconds else None, PER_SECOND)
    yield Metric("output_token_throughput", tokens / seconds if seconds else None, PER_SECOND)
