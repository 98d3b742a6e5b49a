from pathlib import Path
from random import Random

import pytest

from logos.workload.compare import Difference, compare
from logos.workload.exchanges import Exchange
from logos.workload.results import read_details, write_details
from tests.support.exchanges import exchange, failed, run_of


def differences(tmp_path: Path, a: list[Exchange], b: list[Exchange]) -> dict[str, Difference]:
    """By metric, through the files as a person would."""
    for name, exchanges in (("a", a), ("b", b)):
        write_details(tmp_path / name, run_of(*exchanges))
    found = compare(read_details(tmp_path / "a.csv"), read_details(tmp_path / "b.csv"))
    return {each.metric: each for each in found}


def latencies(seed: int, count: int = 200, more_ms: float = 0.0, first: int = 0) -> list[Exchange]:
    """Widely spread."""
    random = Random(seed)
    return [exchange(first + n, latency_ms=random.lognormvariate(6, 1) + more_ms) for n in range(count)]


def test_the_same_run_differs_in_nothing(tmp_path: Path) -> None:
    run = latencies(1)
    for each in differences(tmp_path, run, run).values():
        assert (each.change, each.low, each.high, each.is_clear) == (0, 0, 0, False)


def test_requests_that_both_replayed_are_compared_in_pairs(tmp_path: Path) -> None:
    slower = differences(tmp_path, latencies(1), latencies(1, more_ms=7.0))["avg_total_latency"]
    assert slower.change == pytest.approx(7.0, abs=0.01)
    assert slower.low == pytest.approx(7.0, abs=0.1)
    assert slower.is_clear


def test_other_requests_are_compared_as_a_whole(tmp_path: Path) -> None:
    found = differences(tmp_path, latencies(1), latencies(1, more_ms=7.0, first=5000))["avg_total_latency"]
    assert found.low < 0 < found.high
    assert not found.is_clear


def test_the_interval_covers_what_is_true_in_nearly_all_cases(tmp_path: Path) -> None:
    covered = 0
    for seed in range(40):
        a, b = latencies(seed, 100), latencies(1000 + seed, 100, first=5000)
        found = differences(tmp_path, a, b)["p50_total_latency"]
        covered += found.low <= 0 <= found.high
    assert covered >= 34


def test_rates_are_over_all_requests_and_times_over_those_answered_in_both(tmp_path: Path) -> None:
    a = [exchange(1), exchange(2), exchange(3), failed(4)]
    b = [exchange(1), failed(2), failed(3), exchange(4)]
    found = differences(tmp_path, a, b)
    assert (found["error_rate"].a, found["error_rate"].b) == (0.25, 0.5)
    assert found["slo_attainment_rate"].change == -0.25
    assert found["avg_ttft"].requests == 1


def test_a_metric_that_one_run_has_not_is_left_out(tmp_path: Path) -> None:
    found = differences(tmp_path, [exchange(1)], [failed(1)])
    assert set(found) == {"error_rate", "slo_attainment_rate"}
