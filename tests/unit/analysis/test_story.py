import math
from typing import Any

import pytest

from logos.analysis.story import Change, Phase, Story, in_time, request_table, span_table, summary, waiting

NOTHING = span_table([], 0.0)


def request(at_s: float, **more: Any) -> dict[str, Any]:
    return {"at_s": at_s, "model": "m", "key": "k", "is_answered": True, "wait_s": 0.0, "ttft_s": 1.0, **more}


def change(began_s: float, ended_s: float, **more: Any) -> Change:
    given: dict[str, Any] = {"engine": "e", "model": "m", "is_coming": True, "is_awake": True, **more}
    return Change(began_s, ended_s, **given)


def spans(*changes: Change, ends_s: float = 100.0) -> list[tuple[Any, ...]]:
    table = span_table(changes, ends_s)
    return list(zip(table.engine, table.phase, table.began_s, table.ended_s, strict=True))


def test_an_engine_is_awake_from_its_coming_until_its_going() -> None:
    away = change(30.0, 36.0, is_coming=False, is_awake=False)
    assert spans(change(2.0, 5.0), away) == [
        ("e", Phase.COMING, 2.0, 5.0),
        ("e", Phase.AWAKE, 5.0, 30.0),
        ("e", Phase.GOING, 30.0, 36.0),
    ]


def test_who_is_awake_at_the_end_stays_so_until_then() -> None:
    assert spans(change(2.0, 5.0))[-1] == ("e", Phase.AWAKE, 5.0, 100.0)


def test_a_load_that_failed_leaves_nobody_awake() -> None:
    assert spans(change(2.0, 5.0, is_awake=False)) == [("e", Phase.COMING, 2.0, 5.0)]


def test_a_crash_ends_being_awake_and_takes_no_time() -> None:
    crash = change(9.0, 9.0, is_coming=False, is_awake=False)
    assert spans(change(0.0, 1.0), crash) == [("e", Phase.COMING, 0.0, 1.0), ("e", Phase.AWAKE, 1.0, 9.0)]


def test_engines_of_one_model_are_kept_apart() -> None:
    found = spans(change(0.0, 1.0, engine="a"), change(5.0, 6.0, engine="b"))
    assert ("a", Phase.AWAKE, 1.0, 100.0) in found
    assert ("b", Phase.AWAKE, 6.0, 100.0) in found


def test_the_queue_is_counted_at_every_coming_and_going() -> None:
    requests = request_table([request(1.0, wait_s=4.0), request(2.0, wait_s=1.0), request(3.0, wait_s=None)])
    assert waiting(Story("x", requests, NOTHING)) == ([1.0, 2.0, 3.0, 5.0], [1, 2, 1, 0])


def test_a_request_that_does_not_wait_is_never_in_the_queue_below_zero() -> None:
    requests = request_table([request(1.0), request(1.0, wait_s=2.0)])
    assert min(waiting(Story("x", requests, NOTHING))[1]) >= 0


def test_in_time_is_over_everything_sent_and_by_what_was_promised() -> None:
    rows = [
        request(0.0, ttft_s=1.0, slo_ttft_s=2.0),
        request(1.0, ttft_s=3.0, slo_ttft_s=2.0),
        request(2.0, ttft_s=3.0),  # promised nothing
        request(3.0, ttft_s=None, is_answered=False),
        request(4.0, ttft_s=1.0, is_answered=False),  # broken off after its first token
    ]
    requests = request_table(rows)
    assert in_time(requests).tolist() == [True, False, True, False, False]
    assert in_time(requests, 1.5).tolist() == [True, False, False, False, False]


def test_a_summary_counts_swaps_time_lost_and_unevenness() -> None:
    rows = [request(0.0, ttft_s=1.0, model="a"), request(1.0, ttft_s=3.0, model="b", wait_s=2.5)]
    changes = [change(0.0, 1.0, model="a"), change(7.0, 9.0, model="a", is_coming=False, is_awake=False)]
    row = summary([Story("x", request_table(rows), span_table(changes, 10.0))]).loc["x"]
    assert (row.requests, row.answered, row.swaps, row.swap_s) == (2, 1.0, 1, 3.0)
    assert (row.ttft_mean_s, row.ttft_p50_s, row.worst_wait_s) == (2.0, 2.0, 2.5)
    assert (row.model_ratio, row.key_ratio) == (3.0, 1.0)


@pytest.mark.parametrize("by", ["model", "key"])
def test_where_one_that_asked_got_nothing_nothing_is_more_uneven(by: str) -> None:
    rows = [request(0.0, ttft_s=1.0), request(1.0, ttft_s=None, is_answered=False, **{by: "starved"})]
    row = summary([Story("x", request_table(rows), NOTHING)]).loc["x"]
    other = "key" if by == "model" else "model"
    assert (row[f"{by}_ratio"], row[f"{other}_ratio"]) == (math.inf, 1.0)


def test_what_ended_before_a_model_was_chosen_starved_no_model() -> None:
    rows = [request(0.0, ttft_s=1.0), request(1.0, ttft_s=None, is_answered=False, model="none")]
    assert summary([Story("x", request_table(rows), NOTHING)]).loc["x"].model_ratio == 1.0


def test_a_story_in_which_nothing_happened_has_a_summary() -> None:
    row = summary([Story("x", request_table([]), NOTHING)]).loc["x"]
    assert row.requests == row.swaps == 0
    assert math.isnan(row.ttft_mean_s)


@pytest.mark.parametrize("ends", ["by a request", "by an engine"])
def test_a_story_ends_with_its_last_request_or_engine(ends: str) -> None:
    later = 50.0 if ends == "by an engine" else 5.0
    requests = request_table([request(8.0, wait_s=1.0, ttft_s=4.0)])
    story = Story("x", requests, span_table([change(0.0, 1.0)], later))
    assert story.ends_s == max(12.0, later)
