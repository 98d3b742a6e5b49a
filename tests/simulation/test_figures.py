"""The figures of merit, on stories told by hand."""

from __future__ import annotations

import pytest

from logos.domain.lifecycle import EngineState
from logos.simulation.arrivals import Arrival
from logos.simulation.figures import fairness, figures, quantile, spread
from logos.simulation.run import Outcome, Run, Status, Transition


def answered(at: float, wait_s: float, ttft_s: float, total_s: float, tokens: int = 11, **more: object) -> Outcome:
    arrival = Arrival(f"r{at}", at, (("m", 0.0),), 10, key_id=int(more.pop("key", 1)))  # type: ignore[call-overload]
    return Outcome(
        arrival,
        Status.OK,
        "m",
        1,
        "e",
        "warm",
        at + wait_s,
        at + ttft_s,
        at + total_s,
        tokens,
        slo_ttft_s=more.pop("slo", None),  # type: ignore[arg-type]
    )


def turned_away(at: float, waited_s: float) -> Outcome:
    return Outcome(Arrival(f"r{at}", at, (("m", 0.0),), 10), Status.REJECTED, ended_at=at + waited_s)


def test_times_count_from_arrival_and_only_of_what_was_answered() -> None:
    run = Run("w", "p", 1, [answered(5.0, 1.0, 2.0, 4.0), turned_away(6.0, 9.0)], ended_at=15.0)
    found = figures(run)
    assert (found["requests"], found["ok"], found["rejected"]) == (2, 1, 1)
    assert found["ttft_s"] == {"mean": 2.0, "p50": 2.0, "p95": 2.0, "p99": 2.0}
    assert found["latency_s"]["mean"] == 4.0
    assert found["tpot_s"]["mean"] == pytest.approx(0.2)
    assert found["queue_wait_s"]["mean"] == pytest.approx(5.0)
    assert found["worst_wait_s"] == 9.0
    assert found["per_model"]["m"]["mean_ttft_s"] == 2.0
    assert found["per_model"]["m"]["mean_wait_s"] == pytest.approx(5.0)


def test_why_requests_were_not_answered_is_said_once_for_each_kind_of_reason() -> None:
    outcomes = [answered(0.0, 0.0, 1.0, 2.0), *(turned_away(float(number), 9.0) for number in range(1, 8))]
    reasons = (
        "queue_full: 5 wait",
        "queue_full: 6 wait",
        "no_capacity: none",
        "429",
        "503",
        "12 + 3 are 15",
        "1 + 2 are 3",
    )
    for outcome, reason in zip(outcomes[1:], reasons, strict=True):
        outcome.reason = reason
    outcomes[4].status = outcomes[5].status = outcomes[6].status = outcomes[7].status = Status.FAILED
    assert [tuple(each.values()) for each in figures(Run("w", "p", 1, outcomes))["unanswered"]] == [
        ("rejected", 2, "queue_full: 5 wait"),
        ("failed", 2, "12 + 3 are 15"),
        ("rejected", 1, "no_capacity: none"),
        ("failed", 1, "429"),
        ("failed", 1, "503"),
    ]


def test_attainment_is_over_everything_sent() -> None:
    outcomes = [
        answered(0.0, 0.0, 1.0, 2.0),
        answered(1.0, 0.0, 3.0, 4.0),
        turned_away(2.0, 0.0),
        turned_away(3.0, 0.0),
    ]
    run = Run("w", "p", 1, outcomes)
    assert figures(run, 2.0)["slo_attainment"] == 0.25
    assert figures(run, 3.0)["slo_attainment"] == 0.5


def test_without_a_common_slo_each_request_has_its_own() -> None:
    outcomes = [
        answered(0.0, 0.0, 1.0, 2.0, slo=0.5),
        answered(1.0, 0.0, 3.0, 4.0, slo=5.0),
        answered(2.0, 0.0, 9.0, 9.5),
    ]
    assert figures(Run("w", "p", 1, outcomes))["slo_attainment"] == pytest.approx(2 / 3)


def test_a_promised_end_is_kept_by_the_end_and_not_by_the_first_token() -> None:
    outcomes = [answered(0.0, 0.0, 1.0, 4.0, slo=5.0), answered(1.0, 0.0, 1.0, 6.0, slo=5.0)]
    for each in outcomes:
        each.slo_total_s = 5.0
    run = Run("w", "p", 1, outcomes)
    assert figures(run)["slo_attainment"] == 0.5
    assert figures(run, 2.0)["slo_attainment"] == 1.0


def test_swaps_are_engines_brought_in_and_all_transitions_cost_time() -> None:
    asleep, awake = EngineState.ASLEEP, EngineState.AWAKE
    transitions = [
        Transition(0.0, 3.0, "n", "a", "m", 1, awake, asleep),
        Transition(3.0, 4.0, "n", "b", "m", 1, asleep, awake),
        Transition(4.0, 9.0, "n", "c", "m", 1, EngineState.COLD, EngineState.FAILED, "out of memory"),
    ]
    found = figures(Run("w", "p", 1, [], transitions))
    assert (found["swaps"], found["swap_seconds"]) == (1, 9.0)


def test_percentiles_are_linear_between_ranks() -> None:
    assert spread([4.0, 1.0, 2.0, 3.0]) == {
        "mean": 2.5,
        "p50": 2.5,
        "p95": pytest.approx(3.85),
        "p99": pytest.approx(3.97),
    }
    assert quantile([], 0.5) == 0.0
    assert quantile([7.0], 0.99) == 7.0


def test_fairness_is_one_when_keys_get_alike_and_half_when_one_of_two_gets_nearly_nothing() -> None:
    even = [answered(0.0, 0.0, 1.0, 10.0, key=1), answered(1.0, 0.0, 1.0, 10.0, key=2)]
    uneven = [answered(0.0, 0.0, 1.0, 1.0, key=1), answered(1.0, 0.0, 1.0, 1e6, key=2)]
    assert fairness(even) == pytest.approx(1.0)
    assert fairness(uneven) == pytest.approx(0.5, abs=0.01)


def test_a_key_that_asked_and_got_nothing_counts_as_one_that_got_nothing() -> None:
    starved = turned_away(1.0, 5.0)
    assert starved.arrival.key_id == 1
    assert fairness([answered(0.0, 0.0, 1.0, 10.0, key=2), starved]) == pytest.approx(0.5)
    assert fairness([answered(0.0, 0.0, 1.0, 10.0, key=1), starved]) == pytest.approx(1.0)


def test_a_run_without_an_answer_has_no_times_and_no_fairness() -> None:
    found = figures(Run("w", "p", 1, [turned_away(0.0, 5.0)], ended_at=5.0))
    nothing = {"mean": None, "p50": None, "p95": None, "p99": None}
    assert found["ttft_s"] == found["latency_s"] == found["tpot_s"] == nothing
    assert found["fairness"] is None
    assert found["per_model"]["m"]["mean_ttft_s"] is None
    assert found["per_model"]["m"]["mean_wait_s"] == 5.0
    assert found["prediction"] == {"predicted": 0, "mape": None, "median_ape": None}
    assert found["slo_attainment"] == 0.0


def test_an_empty_run_has_figures_too() -> None:
    found = figures(Run("w", "p", 1, []))
    assert found["requests"] == 0
    assert found["ttft_s"]["p95"] is None
    assert found["slo_attainment"] == 1.0
