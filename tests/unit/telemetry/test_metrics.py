"""Counters of many processes as one text, through the death of some."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from logos.telemetry.metrics import SILENT_PROCESSES_MAX, Aggregate, Instruments, LedgerFigures


def counted(requests: int, in_flight: int = 0) -> Instruments:
    instruments = Instruments()
    for _ in range(requests):
        instruments.request_ended("small", "pool", "success", 0.3)
        instruments.tokens_used("small", {"prompt": 10, "completion": 5, "cached_prompt": 0})
        instruments.charged("EUR", 100)
        instruments.first_token("small", 0.02)
        instruments.overhead(0.0007)
        instruments.queue_waited(0.0)
    instruments.refused("rate_limit_exceeded")
    instruments.in_flight(in_flight)
    instruments.outbox(3, 1000, 0.5)
    return instruments


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def requests_in(text: bytes) -> float:
    return sum(number for (name, _), number in samples(text).items() if name == "logos_requests_total")


def test_counters_histograms_and_gauges_are_summed() -> None:
    aggregate = Aggregate()
    aggregate.push("a", counted(2, in_flight=1).snapshot(), now=0.0)
    aggregate.push("b", counted(3, in_flight=4).snapshot(), now=0.0)
    found = samples(aggregate.render(1.0))
    labels = (("model", "small"), ("outcome", "success"), ("provider", "pool"))
    assert found["logos_requests_total", labels] == 5
    assert found["logos_tokens_total", (("model", "small"), ("type", "prompt"))] == 50
    assert ("logos_tokens_total", (("model", "small"), ("type", "cached_prompt"))) not in found
    assert found["logos_cost_micro_cents_total", (("currency", "EUR"),)] == 500
    assert found["logos_refused_total", (("code", "rate_limit_exceeded"),)] == 2
    assert found["logos_time_to_first_token_seconds_count", (("model", "small"),)] == 5
    assert found["logos_request_duration_seconds_bucket", (("le", "0.5"),)] == 5
    assert found["logos_request_duration_seconds_bucket", (("le", "0.25"),)] == 0
    assert found["logos_in_flight", ()] == 5
    assert found["logos_outbox_records", ()] == 6


def test_a_newer_snapshot_replaces_the_older_of_the_same_process() -> None:
    aggregate = Aggregate()
    instruments = counted(2)
    aggregate.push("a", instruments.snapshot(), now=0.0)
    instruments.request_ended("small", "pool", "success", 0.3)
    aggregate.push("a", instruments.snapshot(), now=2.0)
    assert requests_in(aggregate.render(2.0)) == 3


def test_counters_survive_the_death_of_a_process_and_gauges_do_not() -> None:
    aggregate = Aggregate()
    aggregate.push("dead", counted(7, in_flight=7).snapshot(), now=0.0)
    aggregate.push("alive", counted(1, in_flight=1).snapshot(), now=100.0)
    found = aggregate.render(100.0)
    assert requests_in(found) == 8
    assert samples(found)["logos_in_flight", ()] == 1


def test_a_process_that_comes_back_is_not_counted_twice() -> None:
    aggregate = Aggregate()
    instruments = counted(7)
    aggregate.push("a", instruments.snapshot(), now=0.0)
    assert requests_in(aggregate.render(100.0)) == 7
    instruments.request_ended("small", "pool", "success", 0.3)
    aggregate.push("a", instruments.snapshot(), now=101.0)
    assert requests_in(aggregate.render(101.0)) == 8


def test_the_counters_of_very_many_dead_processes_are_kept_and_bounded() -> None:
    aggregate = Aggregate()
    count = SILENT_PROCESSES_MAX + 10
    snapshot = counted(1).snapshot()
    for number in range(count):
        aggregate.push(f"gateway-{number}", snapshot, now=float(number))
    assert requests_in(aggregate.render(1e6)) == count
    assert requests_in(aggregate.render(1e6 + 1)) == count
    assert len(aggregate._processes) == SILENT_PROCESSES_MAX
    aggregate.push("gateway-0", snapshot, now=1e6 + 2)  # its counters are in the totals for good
    assert requests_in(aggregate.render(1e6 + 2)) == count


def test_the_ledger_speaks_for_itself() -> None:
    found = samples(Aggregate().render(0.0, LedgerFigures(lag_s=2.5, stored_records=9, database_up=False)))
    assert found["logos_ledger_lag_seconds", ()] == 2.5
    assert found["logos_ledger_stored_records_total", ()] == 9
    assert found["logos_database_up", ()] == 0
