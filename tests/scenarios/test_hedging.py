"""A request whose first token is late gets a second place, within the bound, and nothing of it stays behind."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from logos.domain.errors import InvalidDeclaration
from logos.domain.nouns import Place
from logos.scheduling import events as ev
from logos.scheduling.commands import Command, Dispatch
from logos.scheduling.replay import replay
from logos.scheduling.settings import SchedulerSettings
from tests.scenarios.hedging_platform import HedgingPlatform
from tests.scenarios.platform import Mishaps
from tests.scenarios.test_conservation import POLICIES, SWAPPING, assert_nothing_is_left
from tests.scenarios.world import (
    World,
    catalogue,
    dispatched,
    dispatches,
    grants,
    node,
    pooled,
    rejected,
    remote,
    request,
)

PROMISE_S = 1.0


def hedgeable(request_id: str, *endpoint_ids: int, **more: Any) -> ev.Request:
    settings: dict[str, Any] = {"may_hedge": True, "slo_ttft_s": PROMISE_S, "prompt_tokens": 100}
    return request(request_id, *(endpoint_ids or (1, 2)), **(settings | more))


def world(*endpoints: Any, share: float = 1.0, **settings: Any) -> World:
    return World(*(endpoints or (remote(1), remote(2))), hedge_share=share, policy="slo", **settings)


def first_token(made: World, request_id: str, ttft_s: float = 0.4) -> list[Command]:
    return made.hears(ev.FirstToken(made.now, request_id, ttft_s))


def outrun(made: World, request_id: str) -> list[Command]:
    return made.hears(ev.RequestCancelled(made.now, request_id, outrun=True))


def running(made: World, endpoint_id: int) -> int:
    found: int = made.endpoint(endpoint_id)["running"]
    return found


def raced(made: World, request_id: str = "a") -> str:
    """It runs at both places; the second one's id."""
    made.arrives(hedgeable(request_id, weights={1: 10.0, 2: 0.0}))
    made.starts(request_id)
    [hedge] = made.passes(PROMISE_S)
    assert isinstance(hedge, Dispatch)
    made.starts(hedge.request_id)
    assert (running(made, 1), running(made, 2)) == (1, 1)
    return hedge.request_id


# When.


def test_a_late_first_token_gets_the_request_a_second_place_at_another_endpoint() -> None:
    made = world()
    assert dispatches(made.arrives(hedgeable("a"))) == [("a", (1, None))]
    made.starts("a")
    [hedge] = made.passes(PROMISE_S)
    assert isinstance(hedge, Dispatch)
    assert (hedge.hedge_of, hedge.gateway_id, hedge.place) == ("a", "g1", (2, None))
    assert hedge.request_id != "a"


def test_it_is_not_hedged_before_its_own_quantile_has_passed_however_short_the_promise() -> None:
    made = world()
    made.arrives(hedgeable("a", slo_ttft_s=0.001))
    made.starts("a")
    assert made.passes(0.3) == []
    assert len(made.passes(0.3)) == 1


def test_it_is_not_hedged_while_there_is_slack() -> None:
    made = world()
    made.arrives(hedgeable("a", slo_ttft_s=30.0))
    made.starts("a")
    assert made.passes(20.0) == []
    assert len(made.passes(10.0)) == 1


def test_it_is_hedged_once() -> None:
    made = world(remote(1), remote(2), remote(3))
    made.arrives(hedgeable("a", 1, 2, 3))
    made.starts("a")
    [hedge] = made.passes(PROMISE_S)
    assert isinstance(hedge, Dispatch)
    made.starts(hedge.request_id)
    assert made.passes(60.0) == []


def test_never_after_the_first_byte() -> None:
    made = world()
    made.arrives(hedgeable("a"))
    made.starts("a")
    made.passes(0.1)
    first_token(made, "a")
    assert made.passes(60.0) == []


@pytest.mark.parametrize("end", ["leaves", "finishes", "fails"])
def test_never_for_a_request_that_has_ended(end: str) -> None:
    made = world()
    made.arrives(hedgeable("a"))
    made.starts("a")
    getattr(made, end)("a")
    assert made.passes(60.0) == []
    assert made.is_empty()


def test_not_before_its_gateway_has_taken_it_up() -> None:
    made = world()
    made.arrives(hedgeable("a"))
    assert made.passes(60.0) == []


def test_a_retry_is_not_hedged() -> None:
    made = world(remote(1), remote(2), remote(3))
    made.arrives(hedgeable("a", 1, 2, 3))
    made.starts("a")
    made.fails("a")
    made.arrives(hedgeable("a", 2, 3, attempt=2))
    made.starts("a")
    assert made.passes(60.0) == []


def test_a_request_whose_gateway_would_not_take_it_is_not_hedged() -> None:
    made = world()
    made.arrives(hedgeable("a", may_hedge=False))
    made.starts("a")
    assert made.passes(60.0) == []


def test_off_by_default_nothing_is_hedged_and_nothing_is_watched() -> None:
    made = World(remote(1), remote(2), policy="slo")
    assert SchedulerSettings().hedge_share == 0.0
    assert len(grants(made.arrives(hedgeable("a")))) == 1
    asked = list(made.asked)
    made.starts("a")
    assert made.asked == asked
    assert dispatched(made.passes(60.0)) == []


# Where to.


def test_never_to_the_endpoint_where_it_runs_and_never_to_one_it_may_not_use() -> None:
    made = world(remote(1), remote(2), remote(3))
    [(_, first)] = dispatches(made.arrives(hedgeable("a", 1, 2)))
    made.arrives(hedgeable("b", 3))
    made.starts("a")
    made.starts("b")
    assert dispatches(made.passes(60.0)) == [("a~2", Place(3 - first.endpoint_id))]


def test_not_where_no_place_is_free_but_as_soon_as_one_is() -> None:
    made = world(remote(1), remote(2, parallel=1))
    made.arrives(request("x", 2))
    made.arrives(hedgeable("a"))
    made.starts("a")
    assert made.passes(5.0) == []
    made.finishes("x")
    assert dispatched(made.passes(10.0)) == ["a~2"]


def test_a_full_endpoint_is_passed_over_for_the_next_best_one() -> None:
    made = world(remote(1), remote(2, parallel=1), remote(3))
    made.arrives(request("x", 2))
    made.arrives(hedgeable("a", weights={1: 50.0, 2: 40.0, 3: 0.0}))
    made.starts("a")
    assert dispatches(made.passes(PROMISE_S)) == [("a~2", Place(3))]


def test_not_to_an_endpoint_where_somebody_waits_though_a_place_is_free() -> None:
    """One that waits for the sake of another's pace goes first: the engine is expected to take 32.3 ms a token with one
    request and 34.0 ms with two."""
    made = world(remote(1), pooled(2, gib=10))
    made.node_seen(node("n1", 24))
    made.arrives(request("w", 2, slo_total_s=33.0, output_tokens_max=1000))
    [engine_id] = made.states()
    made.awake(engine_id, seconds=0.0)
    made.arrives(request("paced", 2, slo_total_s=3.3, output_tokens_max=100))
    made.finishes("w")
    made.arrives(request("waits", 2, slo_ttft_s=50.0))
    assert (made.endpoint(2)["waiting"], made.endpoint(2)["running"]) == (1, 1)
    made.arrives(hedgeable("a", weights={1: 50.0, 2: 0.0}))
    made.starts("a")
    assert made.passes(20.0) == []


def test_not_to_an_endpoint_that_is_broken_or_at_its_limit() -> None:
    made = world(remote(1), remote(2), circuit_faults=1, circuit_backoff_s=1000.0)
    made.arrives(request("x", 2))
    made.fails("x")
    made.arrives(hedgeable("a"))
    made.starts("a")
    assert made.passes(30.0) == []
    limited = world(remote(1), remote(2, requests_per_minute=1))
    limited.arrives(request("x", 2))
    limited.finishes("x")
    limited.arrives(hedgeable("a"))
    limited.starts("a")
    assert limited.passes(30.0) == []


def test_not_to_an_endpoint_that_has_left_the_catalogue() -> None:
    made = world()
    made.arrives(hedgeable("a"))
    made.starts("a")
    made.declares(remote(1))
    assert made.passes(60.0) == []


def test_an_engine_is_a_second_place_if_it_is_awake_and_none_is_loaded_for_it() -> None:
    made = world(remote(1), pooled(2, gib=10))
    made.node_seen(node("n1", 24))
    made.arrives(hedgeable("a"))
    made.starts("a")
    assert made.passes(5.0) == []
    assert made.states() == {}
    made.arrives(request("x", 2))
    [engine_id] = made.states()
    made.awake(engine_id)
    made.finishes("x")
    assert dispatches(made.passes(20.0)) == [("a~2", (2, engine_id))]


def test_what_may_be_hedged_brings_no_lease_that_would_take_the_second_places() -> None:
    made = world()
    assert grants(made.arrives(hedgeable("a"))) == []
    assert len(grants(made.arrives(hedgeable("b", may_hedge=False)))) == 1


# How many.


def test_the_bound_holds_over_any_beginning() -> None:
    made = world(remote(1, parallel=1000), remote(2, parallel=1000), share=0.05)
    hedges = 0
    for number in range(1, 301):
        made.arrives(hedgeable(f"r{number}"))
        made.starts(f"r{number}")
        hedges += len(dispatched(made.passes(2.0)))
        assert hedges <= 0.05 * number
    assert hedges == 15


def test_of_a_long_rest_only_a_part_is_saved_for_a_burst() -> None:
    made = world(remote(1, parallel=5000), remote(2, parallel=5000), share=0.05)
    for number in range(2000):
        made.arrives(hedgeable(f"quiet{number}"))
        made.leaves(f"quiet{number}")
    burst = [hedgeable(f"late{number}") for number in range(100)]
    made.arrive(*burst)
    for each in burst:
        made.starts(each.request_id)
    assert len(dispatched(made.passes(30.0))) == 20


def test_retries_do_not_raise_the_bound() -> None:
    made = world(share=0.5)
    made.arrives(hedgeable("a"))
    made.starts("a")
    for attempt in range(2, 9):
        made.fails("a", fault=False)
        made.arrives(hedgeable("a", attempt=attempt))
    made.starts("a")
    made.leaves("a")
    made.arrives(hedgeable("b"))
    made.arrives(hedgeable("c"))
    made.starts("b")
    made.starts("c")
    assert len(dispatched(made.passes(60.0))) == 1


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(InvalidDeclaration, match=r"hedge_share is .*: choose a share from 0"):
        SchedulerSettings(hedge_share=share)


# How it ends.


@pytest.mark.parametrize("winner", ["a", "a~2"])
def test_the_loser_frees_its_place_and_the_winner_goes_on(winner: str) -> None:
    made = world()
    loser = ({"a", raced(made)} - {winner}).pop()
    first_token(made, winner)
    outrun(made, loser)
    assert running(made, 1) + running(made, 2) == 1
    made.finishes(winner)
    assert made.is_empty()


def test_a_first_byte_of_the_loser_after_that_of_the_winner_changes_nothing() -> None:
    made = world()
    hedge = raced(made)
    first_token(made, "a")
    first_token(made, hedge)
    outrun(made, hedge)
    assert (running(made, 1), running(made, 2)) == (1, 0)
    made.finishes("a")
    assert made.is_empty()


def test_when_one_place_fails_the_other_goes_on() -> None:
    for failing, place in (("a", 1), ("a~2", 2)):
        made = world()
        raced(made)
        made.fails(failing)
        assert running(made, place) == 0
        assert running(made, 3 - place) == 1
        other = "a~2" if failing == "a" else "a"
        first_token(made, other)
        made.finishes(other)
        assert made.is_empty()


def test_when_both_fail_the_retry_is_placed_elsewhere() -> None:
    made = world(remote(1), remote(2), remote(3))
    made.arrives(hedgeable("a", 1, 2, 3))
    made.starts("a")
    made.passes(PROMISE_S)
    made.starts("a~2")
    made.fails("a")
    made.fails("a~2")
    assert dispatches(made.arrives(hedgeable("a", 3, attempt=3))) == [("a", (3, None))]
    made.finishes("a")
    assert made.is_empty()


def test_the_winner_may_still_fail_after_its_first_byte() -> None:
    made = world()
    hedge = raced(made)
    first_token(made, hedge)
    outrun(made, "a")
    made.fails(hedge)
    assert made.is_empty()


def test_a_client_that_leaves_frees_both_places() -> None:
    made = world()
    hedge = raced(made)
    made.leaves("a")
    made.leaves(hedge)
    assert made.is_empty()


def test_a_gateway_that_dies_frees_both_places() -> None:
    made = world()
    raced(made)
    made.gateway_lost("g1")
    assert made.is_empty()


def test_a_restarted_scheduler_hears_of_both_places() -> None:
    made = world(reconvene_s=2.0)
    made.gateway_seen("g1", running=(("a", Place(1)), ("a~2", Place(2))))
    assert (running(made, 1), running(made, 2)) == (1, 1)
    outrun(made, "a")
    made.finishes("a~2")
    assert made.is_empty()


def test_an_engine_that_breaks_while_a_request_races_there_leaves_the_other_place_alone() -> None:
    made = world(remote(1), pooled(2, gib=10))
    made.node_seen(node("n1", 24))
    made.arrives(request("x", 2))
    [engine_id] = made.states()
    made.awake(engine_id)
    made.finishes("x")
    hedge = raced(made)
    made.engine_fails(engine_id)
    made.fails(hedge)
    first_token(made, "a")
    made.finishes("a")
    assert made.is_empty()


def test_a_second_place_counts_in_the_queue_of_its_endpoint_like_any_request() -> None:
    made = world(remote(1), remote(2, parallel=1))
    hedge = raced(made)
    assert dispatched(made.arrives(request("x", 2))) == []
    assert dispatched(outrun(made, hedge)) == ["x"]


def test_a_rate_limit_counts_second_places() -> None:
    made = world(remote(1), remote(2, requests_per_minute=1))
    raced(made)
    outrun(made, "a~2")
    assert rejected(made.arrives(request("x", 2, queue_timeout_s=1.0))) == [("x", "no_capacity")]


def test_what_a_slow_place_was_given_up_after_is_learned_of_it() -> None:
    """Else the slow tries, which are the ones given up, would never be heard of."""

    def predicted_after(is_outrun: bool) -> float:
        made = world()
        for number in range(40):
            made.arrives(hedgeable(f"r{number}", weights={1: 100.0, 2: 0.0}))
            made.starts(f"r{number}")
            hedges = dispatched(made.passes(10.0))
            outrun(made, f"r{number}") if is_outrun else made.leaves(f"r{number}")
            for each in hedges:
                made.finishes(each)
        [dispatch] = [each for each in made.arrives(request("z", 1)) if isinstance(each, Dispatch)]
        assert dispatch.predicted_ttft_s is not None
        return dispatch.predicted_ttft_s

    assert predicted_after(True) > 2 * predicted_after(False)


# Whatever happens.

KNOWN = catalogue(
    *(remote(each, parallel=6) for each in (1, 4, 6)),
    *(pooled(each, gib=10, parallel=4) for each in (3, 5)),
    *(remote(each, parallel=12, requests_per_minute=600) for each in (2, 7)),
)
ALL_MISHAPS = Mishaps(upstream_fails=0.15, gateway_dies_s=20.0, scheduler_dies_s=25.0, catalogue_changes_s=15.0)


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_lost_doubled_or_overcommitted_while_requests_race_and_the_journal_replays(policy: str) -> None:
    races: Counter[str] = Counter()
    for seed in range(6):
        done = HedgingPlatform(
            seed,
            KNOWN,
            (node("n1", 24),),
            policy=policy,
            rate=20.0,
            service_s=0.8,
            mishaps=ALL_MISHAPS,
            hedge_share=0.4,
            **SWAPPING,
        )
        done.run(40.0)
        assert_nothing_is_left(done)
        assert not [each for each in done.first_of if done.second_of.get(each) is not None]
        for opening, entries in done.journals:
            assert replay(opening, entries) == [], seed
        races += done.races
    assert min(races[each] for each in ("first", "second", "both failed", "client left", "came too late")) >= 1, races
    assert races["broke after the first byte"] >= 1, races
