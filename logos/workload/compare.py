"""Two earlier runs side by side: what changed, with intervals that say how much of it may be chance.

Percentile bootstrap (Efron and Tibshirani, 1993, section 13.3) over requests. Where both runs replayed the same
requests they are resampled in pairs, because most of the spread lies between requests, not between runs. Arrivals and
queues tie requests together, so an interval is honest about the requests at hand, not about another day's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
COVERAGE = 0.95
DRAWN_AT_ONCE = 2_000_000  # values

Floats = npt.NDArray[np.float64]
Row = Mapping[str, str]
Rows = Sequence[Row]
ValueOf = Callable[[Row], float | None]
Statistic = Callable[[Floats], Floats]

TIMES = {"ttft": "ttft_ms", "tpot": "tpot_ms", "total_latency": "total_latency_ms", "queue_wait": "queue_wait_ms"}
STATISTICS: dict[str, Statistic] = {
    "avg_": lambda values: np.mean(values, axis=-1),
    "p50_": lambda values: np.quantile(values, 0.50, axis=-1),
    "p95_": lambda values: np.quantile(values, 0.95, axis=-1),
    "p99_": lambda values: np.quantile(values, 0.99, axis=-1),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of run A and run B; `low` to `high` holds B - A with 95 %. `requests` are those that it rests on."""

    metric: str
    a: float
    b: float
    low: float
    high: float
    unit: str
    requests: int

    @property
    def change(self) -> float:
        return self.b - self.a

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class _Sample:
    """One measure of both runs. Paired: `a[i]` and `b[i]` are of the same request."""

    a: Floats
    b: Floats
    is_paired: bool


def compare(a: Rows, b: Rows, *, seed: int = 0, resamples: int = RESAMPLES) -> list[Difference]:
    """The differences of the metrics that both runs have."""
    chance = np.random.default_rng(seed)
    differences: list[Difference] = []
    for name, value_of in RATES.items():
        differences += _differences(name, _sample(a, b, value_of), {"": STATISTICS["avg_"]}, chance, resamples, "ratio")
    for name, column in TIMES.items():
        sample = _sample(a, b, functools.partial(_time, column))
        if len(sample.a) and len(sample.b):
            differences += _differences(name, sample, STATISTICS, chance, resamples, "ms")
    return differences


def _failed(row: Row) -> float:
    return float(row["status"] != "success")


def _met(row: Row) -> float:
    return float(row.get("slo_met") == "true")


RATES: dict[str, ValueOf] = {"error_rate": _failed, "slo_attainment_rate": _met}


def _time(column: str, row: Row) -> float | None:
    """A time of a request that was answered."""
    text = row.get(column, "")
    return float(text) if text and row["status"] == "success" else None


def _sample(a: Rows, b: Rows, value_of: ValueOf) -> _Sample:
    """Paired if both runs replayed the same requests: then those that have a value in both."""
    of_a, of_b = ({row["request_id"]: value_of(row) for row in rows} for rows in (a, b))
    is_paired = of_a.keys() == of_b.keys()
    if is_paired:
        names = [name for name in of_a if of_a[name] is not None and of_b[name] is not None]
        return _Sample(_array(of_a[name] for name in names), _array(of_b[name] for name in names), True)
    return _Sample(_array(of_a.values()), _array(of_b.values()), False)


def _array(values: Iterable[float | None]) -> Floats:
    return np.array([value for value in values if value is not None], dtype=np.float64)


def _differences(
    name: str,
    sample: _Sample,
    statistics: Mapping[str, Statistic],
    chance: np.random.Generator,
    resamples: int,
    unit: str,
) -> list[Difference]:
    """One difference per statistic, all from the same resamples, which are drawn in blocks to bound the memory."""
    changes: dict[str, list[Floats]] = {prefix: [] for prefix in statistics}
    block = max(1, min(resamples, DRAWN_AT_ONCE // max(len(sample.a), len(sample.b))))
    for begin in range(0, resamples, block):
        drawn_a, drawn_b = _drawn(sample, min(block, resamples - begin), chance)
        for prefix, statistic in statistics.items():
            changes[prefix].append(statistic(drawn_b) - statistic(drawn_a))
    requests = min(len(sample.a), len(sample.b))
    found = []
    for prefix, statistic in statistics.items():
        low, high = np.quantile(np.concatenate(changes[prefix]), ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2))
        a, b = float(statistic(sample.a)), float(statistic(sample.b))
        found.append(Difference(f"{prefix}{name}", a, b, float(low), float(high), unit, requests))
    return found


def _drawn(sample: _Sample, count: int, chance: np.random.Generator) -> tuple[Floats, Floats]:
    """`count` resamples of both runs, one per row."""
    picks_a = chance.integers(0, len(sample.a), (count, len(sample.a)))
    picks_b = picks_a if sample.is_paired else chance.integers(0, len(sample.b), (count, len(sample.b)))
    return sample.a[picks_a], sample.b[picks_b]
