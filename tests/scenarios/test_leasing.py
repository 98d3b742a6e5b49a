"""Slots in the hands of gateways: granted while nobody waits, asked back the moment somebody does."""

from __future__ import annotations

import dataclasses

import pytest

from logos.domain.leases import SlotLease
from logos.domain.nouns import Place
from logos.prediction.pace import Situation
from logos.prediction.predictor import Predictor
from logos.scheduling.events import Ended, FirstToken, LeaseReported, Met
from logos.scheduling.state import LEASES_OVER_MAX
from tests.scenarios.world import World, dispatched, grants, loads, node, pooled, remote, request, revokes, sleeps


def leased(world: World, gateway: str = "g1") -> SlotLease:
    [lease] = grants(world.arrives(request(f"first-{gateway}", gateway=gateway)))
    return lease


def without_forecast(lease: SlotLease) -> SlotLease:
    return dataclasses.replace(lease, ttft_s=None, prompt_token_s=0.0)


def test_a_request_placed_at_once_earns_its_gateway_slots() -> None:
    world = World(remote(1, parallel=9))
    assert without_forecast(leased(world)) == SlotLease("1-1", "g1", Place(1), 4, 15.0)
    # Of the 8 - 4 - 1 slots that are free then, a second gateway gets a smaller part.
    assert leased(world, "g2").slots == 1


def test_a_lease_carries_the_forecast_of_its_place_as_learned_so_far() -> None:
    world = World(remote(1, parallel=9))
    fresh = leased(world)
    assert fresh.predicted_ttft_s(1000) > fresh.predicted_ttft_s(10) > 0.0
    for number in range(40):
        world.arrives(request(f"r{number}", gateway="g3"))
        world.starts(f"r{number}")
        world.now += 3.0
        world.hears(FirstToken(world.now, f"r{number}", 3.0))
        world.finishes(f"r{number}", total_s=4.0)
    assert 2.0 < leased(world, "g9").predicted_ttft_s(10) < 4.0


def test_with_a_time_to_live_of_nothing_none_is_granted() -> None:
    world = World(remote(1, parallel=9), lease_ttl_s=0.0)
    told = world.arrives(request("a"))
    assert dispatched(told) == ["a"]
    assert grants(told) == []


def test_the_last_slot_is_never_leased() -> None:
    world = World(remote(1, parallel=2))
    assert grants(world.arrives(request("a"))) == []


def test_what_runs_under_a_lease_takes_the_leases_slots_and_no_others() -> None:
    world = World(remote(1, parallel=4))
    lease = leased(world)
    assert lease.slots == 1
    world.reports(lease.lease_id, "x")
    assert world.endpoint(1)["running"] == 2
    assert world.endpoint(1)["leased_unused"] == 0
    world.reports(lease.lease_id, ended=("x",))
    assert world.endpoint(1)["running"] == 1
    assert world.endpoint(1)["leased_unused"] == 1


def test_the_moment_somebody_waits_leases_are_asked_back_once() -> None:
    world = World(remote(1, parallel=4))
    lease = leased(world)
    assert dispatched(world.arrives(request("b", gateway="g2"))) == ["b"]
    assert revokes(world.arrives(request("c", gateway="g2"))) == []  # the last free slot
    assert revokes(world.arrives(request("d", gateway="g2"))) == [lease.lease_id]
    assert revokes(world.arrives(request("e", gateway="g2"))) == []
    assert dispatched(world.returns(lease.lease_id)) == ["d"]


def test_nothing_is_leased_while_anybody_waits() -> None:
    world = World(remote(1, parallel=4))
    lease = leased(world)
    world.arrive(*(request(each, gateway="g2") for each in "bcde"))
    world.now += 6.0
    assert grants(world.reports(lease.lease_id, "x")) == []
    assert grants(world.finishes("b")) == []


def test_slots_that_were_asked_back_are_free_only_when_returned() -> None:
    world = World(remote(1, parallel=4))
    lease = leased(world)
    world.arrive(*(request(each, gateway="g2") for each in "bcd"))
    assert world.endpoint(1)["waiting"] == 1
    assert world.endpoint(1)["leased_unused"] == 1
    # It was used before the word reached the gateway: it goes on until it ends.
    assert dispatched(world.returns(lease.lease_id, "x")) == []
    assert dispatched(world.reports(lease.lease_id, ended=("x",))) == ["d"]
    assert world.scheduler.summary()["leases"] == 0


def test_an_unused_lease_frees_its_slots_after_its_deadline_and_a_grace() -> None:
    world = World(remote(1, parallel=2 + 1))
    lease = leased(world)
    world.arrive(request("b", gateway="g2"), request("c", gateway="g2", queue_timeout_s=100.0))
    assert dispatched(world.passes(lease.ttl_s + 1.9)) == []
    assert dispatched(world.passes(0.2)) == ["c"]
    assert world.scheduler.summary()["leases"] == 0


def test_a_deadline_does_not_free_what_runs() -> None:
    world = World(remote(1, parallel=3))
    lease = leased(world)
    world.reports(lease.lease_id, "x")
    world.passes(60.0)
    assert world.endpoint(1)["running"] == 2
    world.reports(lease.lease_id, ended=("x",))
    world.finishes("first-g1")
    assert world.is_empty()


def test_a_lease_in_use_is_renewed_under_its_id_once_in_a_while() -> None:
    world = World(remote(1, parallel=9))
    lease = leased(world)
    world.now += 1.0
    assert grants(world.reports(lease.lease_id, "x", ended=("x",))) == []
    world.now += 4.0
    assert grants(world.reports(lease.lease_id, "y", ended=("y",))) == [lease]
    world.passes(14.0)
    assert world.scheduler.summary()["leases"] == 1


def test_a_lease_that_is_reported_of_is_renewed_even_if_nothing_ran_and_returned_when_its_holder_likes() -> None:
    world = World(remote(1, parallel=9))
    lease = leased(world)
    world.finishes("first-g1")
    world.now += 6.0
    assert grants(world.reports(lease.lease_id)) == [lease]
    world.passes(14.0)
    assert world.scheduler.summary()["leases"] == 1
    world.returns(lease.lease_id)
    assert world.is_empty()


def test_a_lease_that_is_not_heard_of_runs_out_so_that_everything_returns_to_zero() -> None:
    world = World(remote(1, parallel=9))
    leased(world)
    world.finishes("first-g1")
    world.passes(60.0)
    assert world.is_empty()


def test_a_report_does_not_renew_a_lease_that_was_asked_back() -> None:
    world = World(remote(1, parallel=4))
    lease = leased(world)
    world.arrive(*(request(each, gateway="g2") for each in "bcd"))
    world.leaves("d")
    world.now += 6.0
    assert grants(world.reports(lease.lease_id)) == []


def test_a_lease_that_is_full_grows_when_it_is_renewed() -> None:
    world = World(remote(1, parallel=17))
    lease = leased(world)
    assert lease.slots == 8
    world.now += 6.0
    [renewed] = grants(world.reports(lease.lease_id, *(f"x{each}" for each in range(8))))
    assert without_forecast(renewed) == SlotLease(lease.lease_id, "g1", lease.place, 8 + 4, 15.0)


def test_a_lease_that_is_full_grows_when_its_gateway_has_to_ask() -> None:
    world = World(remote(1, parallel=17))
    lease = leased(world)
    assert grants(world.arrives(request("b"))) == []  # it has slots that it does not use
    world.reports(lease.lease_id, *(f"x{each}" for each in range(8)))
    [grown] = grants(world.arrives(request("c")))
    assert (grown.lease_id, grown.slots) == (lease.lease_id, 8 + 3)


def test_ids_that_came_and_went_between_two_reports_are_history() -> None:
    world = World(remote(1, parallel=9))
    lease = leased(world)
    world.reports(lease.lease_id, "x", "y", ended=("x",))
    assert world.endpoint(1)["running"] == 2
    assert world.endpoint(1)["service_p50_s"] == 1.0


def test_a_report_of_a_lease_that_is_over_changes_nothing() -> None:
    world = World(remote(1, parallel=9))
    leased(world)
    assert world.reports("9-9", "x", ended=("y",)) == []
    assert world.returns("9-9", "x") == []
    assert world.endpoint(1)["running"] == 1


def ran_out(world: World) -> SlotLease:
    """A lease whose holder was out of reach when its time was over."""
    lease = leased(world)
    world.finishes("first-g1")
    world.passes(lease.ttl_s + 2.1)
    assert world.is_empty()
    return lease


@pytest.mark.parametrize("how", ["reported", "returned"])
def test_what_a_gateway_out_of_reach_had_started_counts_after_the_lease_is_over(how: str) -> None:
    world = World(remote(1, parallel=3))
    lease = ran_out(world)
    tell = world.reports if how == "reported" else world.returns
    tell(lease.lease_id, "x")
    arrived = [request(each, gateway="g2", queue_timeout_s=600.0) for each in "abc"]
    assert dispatched(world.arrives(*arrived)) == ["a", "b"]
    assert dispatched(world.reports(lease.lease_id, "y", ended=("x", "y"))) == ["c"]
    for each in "abc":
        world.finishes(each)
    assert world.is_empty()


def test_more_than_there_is_room_for_by_then_runs_off() -> None:
    world = World(remote(1, parallel=3))
    lease = ran_out(world)
    arrived = [request(each, gateway="g2", queue_timeout_s=600.0) for each in "abc"]
    assert dispatched(world.arrives(*arrived)) == ["a", "b"]  # and a slot is leased
    world.reports(lease.lease_id, "x")
    assert dispatched(world.finishes("a")) == []
    assert dispatched(world.reports(lease.lease_id, ended=("x",))) == ["c"]


def test_an_engine_on_which_something_runs_that_was_told_late_is_not_put_to_sleep() -> None:
    world = World(pooled(1), pooled(2), policy="fcfs")
    world.node_seen(node("n", 24))
    world.arrives(request("a"))
    world.awake("n/m1/1")
    [lease] = grants(world.arrives(request("b")))
    world.finishes("a")
    world.finishes("b")
    world.passes(lease.ttl_s + 2.1)
    world.reports(lease.lease_id, "x")
    assert sleeps(world.arrives(request("c", 2))) == []
    assert sleeps(world.reports(lease.lease_id, ended=("x",))) == ["n/m1/1"]


def test_what_a_lost_gateway_had_started_is_not_counted_when_it_is_told_late() -> None:
    world = World(remote(1, parallel=8))
    lease = ran_out(world)
    world.gateway_lost("g1")
    world.reports(lease.lease_id, "x")
    assert world.is_empty()


def test_a_lost_gateway_frees_its_leases_and_what_ran_under_them() -> None:
    world = World(remote(1, parallel=4))
    lease = leased(world)
    world.reports(lease.lease_id, "x")
    world.arrive(*(request(each, gateway="g2") for each in "bcde"))
    assert dispatched(world.gateway_lost("g1")) == ["d", "e"]


def test_a_retry_after_a_failure_under_a_lease_is_placed_even_before_the_report_of_it() -> None:
    world = World(remote(1, parallel=9), remote(2))
    lease = leased(world)
    world.reports(lease.lease_id, "x")
    assert dispatched(world.arrives(request("x", 2, attempt=2))) == ["x"]
    world.reports(lease.lease_id, ended=("x",), ok=False)
    assert world.endpoint(2)["running"] == 1
    assert world.endpoint(1)["running"] == 1


def test_a_retry_under_another_lease_counts_even_before_the_report_of_the_failure() -> None:
    world = World(remote(1, parallel=9), remote(2, parallel=3))
    first = leased(world)
    [second] = grants(world.arrives(request("a", 2)))
    world.reports(first.lease_id, "x")
    world.reports(second.lease_id, "x")
    world.returns(second.lease_id, "x")
    world.reports(first.lease_id, ended=("x",), ok=False)
    assert (world.endpoint(1)["running"], world.endpoint(2)["running"]) == (1, 2)
    assert dispatched(world.arrive(request("b", 2), request("c", 2))) == ["b"]
    assert dispatched(world.reports(second.lease_id, ended=("x",))) == ["c"]


def test_what_others_started_or_the_scheduler_placed_is_not_taken_for_a_retry_under_a_lease() -> None:
    world = World(remote(1, parallel=9))
    lease, other = leased(world), leased(world, "g2")
    world.reports(lease.lease_id, "x", "first-g1")
    assert (world.endpoint(1)["running"], world.endpoint(1)["leased_unused"]) == (3, 4)
    world.reports(other.lease_id, "x")
    world.gateway_lost("g2")
    assert (world.endpoint(1)["running"], world.endpoint(1)["leased_unused"]) == (2, 3)


def test_endpoints_with_rates_are_never_leased() -> None:
    world = World(remote(1, parallel=9, requests_per_minute=100))
    assert grants(world.arrives(request("a"))) == []


def test_an_engine_that_fails_or_leaves_loses_its_leases() -> None:
    world = World(pooled(1, parallel=9))
    world.node_seen(node("n", 24))
    world.arrives(request("a"))
    world.awake("n/m1/1")
    [lease] = grants(world.arrives(request("b")))
    assert revokes(world.engine_fails("n/m1/1")) == [lease.lease_id]
    world.returns(lease.lease_id)
    world.fails("a")
    world.fails("b")
    world.cold("n/m1/1")
    assert world.is_empty()


# What is learned from what ran under a lease.


ALONE = Met(10, 0)


def learned(world: World) -> Predictor:
    return Predictor(world.scheduler.learned().predictor)


def ran(world: World, lease: SlotLease, times: int, *, ttft_s: float = 3.0, met: Met | None = ALONE) -> None:
    """So many requests, one after the other, each told of half a second after it was over."""
    for number in range(times):
        name = f"{lease.gateway_id}-{number}"
        world.reports(lease.lease_id, name)
        world.now += ttft_s + 1.5
        end = Ended(name, True, ttft_s, ttft_s + 1.0, 10, 51, key_id=7, output_tokens_max=400, met=met, batch=1.0)
        world.hears(LeaseReported(world.now, lease.lease_id, (), (end,)))


def first_token_s(world: World) -> float:
    [forecast] = learned(world).score([(1, Situation(10, 10))])
    return forecast.ttft_p50_s


def test_what_ran_under_a_lease_teaches_first_tokens_paces_and_lengths() -> None:
    world = World(remote(1, parallel=9))
    lease = leased(world)
    world.finishes("first-g1")
    ran(world, lease, 100)
    assert first_token_s(world) == pytest.approx(3.0, rel=0.05)
    assert learned(world).tpot(1, 1).p50 == pytest.approx(1.0 / 50, rel=0.1)
    assert learned(world).answers.span(1, 7, 400).p50 == 51


def test_a_first_token_that_may_come_from_a_cache_teaches_lengths_alone() -> None:
    world = World(remote(1, parallel=9))
    lease, before = leased(world), first_token_s(world)
    world.finishes("first-g1")
    ran(world, lease, 30, met=None)
    assert first_token_s(world) == before
    assert learned(world).answers.span(1, 7, 400).p50 == 51


@pytest.mark.parametrize("how", ["runs", "ran until lately", "ran under a lease in between"])
def test_what_ran_beside_requests_of_other_gateways_teaches_no_pace(how: str) -> None:
    world = World(remote(1, parallel=9))
    lease, other = leased(world), leased(world, "g2")
    world.finishes("first-g1")
    before = first_token_s(world)
    if how != "runs":
        world.finishes("first-g2")
    for number in range(30):
        if how == "ran until lately":
            world.reports(other.lease_id, f"g2-{number}")
        world.reports(lease.lease_id, f"g1-{number}")
        world.now += 0.5
        if how == "ran until lately":
            world.reports(other.lease_id, ended=(f"g2-{number}",))
        if how == "ran under a lease in between":
            world.reports(other.lease_id, f"g2-{number}", ended=(f"g2-{number}",))
        world.now += 3.0
        end = Ended(f"g1-{number}", True, 2.5, 3.5, 10, 51, key_id=7, met=Met(10, 0), batch=1.0)
        world.hears(LeaseReported(world.now, lease.lease_id, (), (end,)))
    assert first_token_s(world) == before


def test_what_a_request_met_under_its_lease_counts() -> None:
    """Behind 1,000 prompt tokens it takes 3 s, alone 0.5: both are expected again."""
    world = World(remote(1, parallel=9))
    lease = leased(world)
    world.finishes("first-g1")
    for _ in range(40):
        ran(world, lease, 1, ttft_s=0.5)
        ran(world, lease, 1, ttft_s=3.0, met=Met(10, 1, 1000.0, 500_000.0))
    [alone, behind] = learned(world).score(
        [(1, Situation(10, 10)), (1, Situation(10, 10, 1, prefill_tokens=1_000, prefill_pairs=500_000.0))]
    )
    assert alone.ttft_p50_s == pytest.approx(0.5, rel=0.1)
    assert behind.ttft_p50_s == pytest.approx(3.0, rel=0.1)


def test_the_pace_is_learned_from_what_ran_beside_a_request_and_not_from_what_it_met() -> None:
    """Alone a token takes 20 ms, in a batch of nine 100: whoever came first met nobody in both."""
    world = World(pooled(1, parallel=40))
    [load] = loads(world.node_seen(node("n", 24)) + world.arrives(request("first-g1")))
    world.awake(load.engine_id)
    world.finishes("first-g1")
    lease = leased(world)
    world.finishes("first-g1")
    for number in range(120):
        batch, total_s = ((1.0, 1.5), (9.0, 5.5))[number % 2]
        world.reports(lease.lease_id, f"r{number}")
        world.now += total_s + 0.5
        end = Ended(f"r{number}", True, 0.5, total_s, 10, 51, key_id=7, met=ALONE, batch=batch)
        world.hears(LeaseReported(world.now, lease.lease_id, (), (end,)))
    assert learned(world).tpot(1, 1).p50 == pytest.approx(0.02, rel=0.15)
    assert learned(world).tpot(1, 9).p50 == pytest.approx(0.10, rel=0.15)


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_pace_beside_a_busy_engine_on_the_same_gpu_is_not_learned_under_leases(is_busy: bool) -> None:
    world = World(pooled(1, gib=8, parallel=9), pooled(2, gib=8, parallel=9))
    first, second = loads(world.node_seen(node("n", 24)) + world.arrives(request("a")) + world.arrives(request("b", 2)))
    world.awake(first.engine_id)
    world.awake(second.engine_id)
    world.finishes("a")
    lease = leased(world)
    world.finishes("first-g1")
    world.now += 1.0
    if not is_busy:
        world.finishes("b")
    before = first_token_s(world)
    world.now += 10.0
    ran(world, lease, 30)
    assert (first_token_s(world) == before) is is_busy


def test_a_first_token_told_late_counts_from_when_it_came() -> None:
    """50 tokens in a second, of whose first the scheduler hears when nearly half of it is over."""
    world = World(remote(1, parallel=9))
    for number in range(40):
        world.arrives(request(f"r{number}"))
        world.starts(f"r{number}")
        world.now += 1.0
        world.hears(FirstToken(world.now, f"r{number}", 0.5))
        world.now += 0.5
        world.finishes(f"r{number}", total_s=1.5, tokens=51)
    assert learned(world).tpot(1, 1).p50 == pytest.approx(1.0 / 50, rel=0.1)


def test_of_leases_that_are_over_only_so_many_are_remembered() -> None:
    """What is told of a lease late is still heard, unless more than those have ended since."""
    world = World(remote(1, parallel=9))
    first, state = leased(world), world.scheduler._state
    world.returns(first.lease_id)
    kept = next(iter(state.leases_over.values()))
    for number in range(LEASES_OVER_MAX - 1):
        state.leases_over[f"older-{number}"] = kept
    world.reports(first.lease_id, "x")
    assert world.endpoint(1)["running"] == 2
    world.returns(leased(world, "g2").lease_id)
    assert len(state.leases_over) == LEASES_OVER_MAX
    world.reports(first.lease_id, "y")
    assert world.endpoint(1)["running"] == 3


def test_what_its_holder_does_not_name_when_it_hands_a_lease_back_has_ended() -> None:
    world = World(remote(1, parallel=9))
    lease = leased(world)
    world.reports(lease.lease_id, "x", "y")
    world.returns(lease.lease_id, "y")
    assert (world.endpoint(1)["running"], world.endpoint(1)["leased_unused"]) == (2, 0)
    world.reports(lease.lease_id, ended=("y",))
    world.finishes("first-g1")
    assert world.is_empty()


def test_what_runs_under_a_lease_is_demand_like_what_is_asked_for() -> None:
    world = World(remote(1, parallel=9))
    lease = leased(world)
    endpoint = world.scheduler._state.endpoints[1]
    world.now += 9.0
    before = endpoint.demand.per_s(world.now)
    world.reports(lease.lease_id, "x", "y", "z")
    assert endpoint.demand.per_s(world.now) > 2 * before
