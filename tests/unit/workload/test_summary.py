import pytest

from logos.domain.nouns import Mode, Priority
from logos.workload.exchanges import Run, Status
from logos.workload.summary import Metric, summarise
from tests.support.exchanges import exchange, failed, run_of


def metrics(run: Run) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in summarise(run)}


NAMES = [
    "total_requests", "successful_requests", "failed_requests", "error_rate", "slo_attainment_rate",
    *(f"{s}_{t}" for t in ("ttft", "tpot", "total_latency", "queue_wait") for s in ("avg", "p50", "p95", "p99")),
]  # fmt: skip


def test_the_metrics_that_people_rely_on_are_there_with_units() -> None:
    found = {metric.name: metric for metric in summarise(run_of(exchange()))}
    assert set(NAMES) <= set(found)
    assert found["p95_ttft"] == Metric("p95_ttft", 100.0, "ms")
    assert found["error_rate"].unit == "ratio"


def test_fast_failures_are_no_hits() -> None:
    found = metrics(run_of(exchange(1), failed(2), failed(3), exchange(4, latency_ms=1000.5)))
    assert found["slo_attainment_rate"] == 0.25
    assert found["error_rate"] == 0.5
    assert (found["total_requests"], found["successful_requests"], found["failed_requests"]) == (4, 2, 2)


def test_a_fast_failure_does_not_look_like_a_fast_answer() -> None:
    found = metrics(run_of(exchange(1), failed(2)))
    assert found["avg_total_latency"] == 500.0


def test_an_answer_exactly_in_time_is_in_time() -> None:
    assert metrics(run_of(exchange(1, latency_ms=1000.0)))["slo_attainment_rate"] == 1.0


def test_a_request_that_still_ran_at_the_end_was_sent_and_missed() -> None:
    broken_off = failed(2, status=Status.INTERRUPTED)
    found = metrics(run_of(exchange(1), broken_off, rows=10))
    assert (found["total_requests"], found["failed_requests"], found["not_sent_requests"]) == (2, 1, 8)
    assert (found["slo_attainment_rate"], found["run_complete"]) == (0.5, 0.0)


def test_a_run_of_which_a_request_was_not_sent_is_not_complete() -> None:
    assert metrics(run_of(exchange(1), rows=2))["run_complete"] == 0.0


def test_a_complete_run_may_have_failures() -> None:
    assert metrics(run_of(failed(1)))["run_complete"] == 1.0


def test_attainment_is_told_per_class() -> None:
    found = metrics(
        run_of(
            exchange(1, priority=Priority.HIGH),
            failed(2, mode=Mode.BATCH, priority=Priority.LOW),
            exchange(3, mode=Mode.BATCH, priority=Priority.LOW),
        )
    )
    assert found["slo_attainment_rate_interactive_high"] == 1.0
    assert found["slo_attainment_rate_batch_low"] == 0.5
    assert "slo_attainment_rate_batch_mid" not in found


def test_tpot_is_per_token_after_the_first_and_inter_token_times_are_those_of_all() -> None:
    found = metrics(run_of(exchange(1, gaps_ms=(10.0, 30.0)), exchange(2, gaps_ms=(40.0,), completion_tokens=5)))
    assert found["avg_tpot"] == pytest.approx((20 + 10) / 2)
    assert found["p50_inter_token"] == 30.0


def test_an_answer_of_one_token_has_no_tpot() -> None:
    assert metrics(run_of(exchange(gaps_ms=())))["avg_tpot"] is None


def test_a_reply_that_was_not_streamed_has_a_latency_and_no_first_token() -> None:
    found = metrics(run_of(exchange(ttft_ms=None, gaps_ms=(), server={"ttft_ms": 480.0})))
    assert (found["avg_ttft"], found["avg_server_ttft"], found["avg_total_latency"]) == (None, None, 500.0)


def test_percentiles_are_interpolated() -> None:
    found = metrics(run_of(*(exchange(number, latency_ms=number * 10.0) for number in range(1, 102))))
    assert found["p50_total_latency"] == pytest.approx(510.0)
    assert found["p95_total_latency"] == pytest.approx(960.0)
    assert found["p99_total_latency"] == pytest.approx(1000.0)


def test_the_servers_figures_and_its_prediction_stand_beside() -> None:
    server = {"queue_wait_ms": 5.0, "predicted_ttft_ms": 150.0, "ttft_ms": 90.0}
    found = metrics(run_of(exchange(server=server)))
    assert (found["p50_queue_wait"], found["avg_server_ttft"], found["mape_predicted_ttft"]) == (5.0, 90.0, 0.5)


def test_lateness_is_told_for_every_request_sent() -> None:
    late = exchange(2, sent_ms=250.0)
    assert metrics(run_of(exchange(1), late))["max_lateness"] == 50.0


def test_a_run_of_nothing_has_no_rates() -> None:
    found = metrics(run_of(rows=3))
    assert (found["total_requests"], found["error_rate"], found["slo_attainment_rate"]) == (0, None, None)
