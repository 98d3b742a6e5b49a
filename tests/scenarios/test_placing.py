"""Where a request goes: the policy's choice, healthy endpoints, and what happens when an endpoint is lost."""

from __future__ import annotations

import dataclasses

import pytest

from logos.domain.errors import InvalidDeclaration
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Place, Priority, Tier
from logos.prediction.predictor import Predictor
from logos.scheduling.affinity import PREFIXES_MAX
from logos.scheduling.commands import Dispatch
from logos.scheduling.events import EngineSeen
from logos.scheduling.settings import SchedulerSettings
from tests.scenarios.world import (
    World,
    dispatched,
    dispatches,
    grants,
    loads,
    node,
    pooled,
    rejected,
    rejects,
    remote,
    request,
    revokes,
    sleeps,
)


def test_a_request_is_dispatched_at_once_where_there_is_room() -> None:
    world = World(remote(1, parallel=1))
    assert world.arrives(request("a")) == [
        Dispatch("a", "g1", Place(1), Tier.REMOTE, 0.0, 0, 0, Priority.MID, predicted_ttft_s=0.3, slo_ttft_s=10.0)
    ]


def test_a_full_endpoint_makes_a_request_wait_until_a_slot_is_free() -> None:
    world = World(remote(1, parallel=1))
    world.arrives(request("a"))
    assert world.arrives(request("b")) == []
    world.now += 7.0
    [command] = world.finishes("a")
    assert isinstance(command, Dispatch)
    assert (command.request_id, command.queue_wait_s, command.queue_depth_at_enqueue) == ("b", 7.0, 0)


def test_a_batch_is_placed_request_by_request() -> None:
    world = World(remote(1, parallel=2), policy="fcfs")
    commands = world.arrives(request("a"), request("b"), request("c"))
    assert dispatched(commands) == ["a", "b"]
    assert world.endpoint(1)["waiting"] == 1


def test_a_request_id_that_is_known_is_ignored() -> None:
    world = World(remote(1))
    world.arrives(request("a"))
    assert world.arrives(request("a")) == []
    assert world.endpoint(1)["running"] == 1


def test_a_retry_replaces_the_attempt_whose_end_was_not_heard_of() -> None:
    world = World(remote(1), remote(2))
    world.arrives(request("a", 1))
    assert dispatches(world.arrives(request("a", 2, attempt=2))) == [("a", Place(2))]
    assert world.endpoint(1)["running"] == 0
    assert world.endpoint(2)["running"] == 1


@pytest.mark.parametrize("feed", ["starts", "finishes", "fails", "leaves"])
def test_an_event_about_an_unknown_request_changes_nothing(feed: str) -> None:
    world = World(remote(1))
    assert getattr(world, feed)("nobody") == []
    assert world.is_empty()


@pytest.mark.parametrize("feed", ["starts", "finishes", "fails"])
def test_a_waiting_request_can_neither_start_nor_end_by_itself(feed: str) -> None:
    world = World(remote(1, parallel=1))
    world.arrive(request("a"), request("b"))
    assert getattr(world, feed)("b") == []
    assert dispatched(world.finishes("a")) == ["b"]


@pytest.mark.parametrize("started", [False, True])
def test_a_client_that_leaves_frees_its_slot_for_the_next(started: bool) -> None:
    world = World(remote(1, parallel=1))
    world.arrive(request("a"), request("b"), request("c"))
    if started:
        world.starts("a")
    assert world.leaves("b") == []
    assert dispatched(world.leaves("a")) == ["c"]
    world.finishes("c")
    assert world.is_empty()


def test_fcfs_takes_the_first_candidate_even_if_it_is_full() -> None:
    world = World(remote(1, parallel=1), remote(2), policy="fcfs")
    assert dispatches(world.arrive(request("a", 1, 2), request("b", 1, 2))) == [("a", Place(1))]
    assert world.endpoint(1)["waiting"] == 1


def test_ettft_goes_elsewhere_when_the_wait_outweighs_the_weight() -> None:
    world = World(remote(1, parallel=1), remote(2, parallel=1), policy="ettft")
    weights = {1: 1.0, 2: 0.8}
    placed = world.arrive(*(request(each, weights=weights, queue_timeout_s=600.0) for each in "abcdef"))
    # S = 1: each request waiting at 1 costs it 3 s / 60 s * 1.5 = 0.075, so three of them and it falls behind.
    assert dispatches(placed) == [("a", Place(1)), ("e", Place(2))]
    assert (world.endpoint(1)["waiting"], world.endpoint(2)["waiting"]) == (3, 1)


def test_a_request_goes_to_no_endpoint_that_is_not_its_candidate() -> None:
    world = World(remote(1, parallel=1), remote(2))
    world.arrive(request("a", 1), request("b", 1))
    assert world.endpoint(2)["running"] == 0
    assert world.endpoint(1)["waiting"] == 1


def test_a_policy_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidDeclaration, match="fcfs, utilization, ettft"):
        World(remote(1), policy="best")


# Health.


def faulty(world: World, endpoint_id: int = 1) -> None:
    """Three faults in a row open the circuit."""
    for each in range(3):
        name = f"fault-{world.now}-{each}"
        world.arrives(request(name, endpoint_id))
        world.fails(name)


def test_an_endpoint_that_failed_three_times_in_a_row_is_skipped() -> None:
    world = World(remote(1), remote(2), policy="fcfs")
    faulty(world)
    assert dispatches(world.arrives(request("a", 1, 2))) == [("a", Place(2))]
    assert world.endpoint(1)["circuit"] == "open"


def test_faults_that_are_not_the_endpoints_do_not_count() -> None:
    world = World(remote(1), remote(2), policy="fcfs")
    for each in "abc":
        world.arrives(request(each))
        world.fails(each, fault=False)
    assert dispatches(world.arrives(request("d", 1, 2))) == [("d", Place(1))]


def test_an_unhealthy_endpoint_is_used_when_there_is_no_other() -> None:
    world = World(remote(1), policy="fcfs")
    faulty(world)
    assert dispatched(world.arrives(request("a"))) == ["a"]


def test_after_the_back_off_one_probe_decides() -> None:
    world = World(remote(1), remote(2), policy="fcfs", circuit_backoff_s=5.0)
    faulty(world)
    world.now += 5.0
    assert dispatches(world.arrives(request("probe", 1, 2))) == [("probe", Place(1))]
    assert dispatches(world.arrives(request("other", 1, 2))) == [("other", Place(2))]
    world.fails("probe")
    world.now += 9.0  # twice the back-off now
    assert dispatches(world.arrives(request("early", 1, 2))) == [("early", Place(2))]
    world.now += 1.0
    world.arrives(request("second", 1, 2))
    world.finishes("second")
    assert world.endpoint(1)["circuit"] == "closed"
    assert dispatches(world.arrives(request("later", 1, 2))) == [("later", Place(1))]


def test_a_probe_that_is_cancelled_makes_way_for_another() -> None:
    world = World(remote(1), remote(2), policy="fcfs")
    faulty(world)
    world.now += 5.0
    world.arrives(request("probe", 1, 2))
    world.leaves("probe")
    assert dispatches(world.arrives(request("next", 1, 2))) == [("next", Place(1))]


def test_when_the_circuit_opens_who_waits_and_has_a_choice_goes_elsewhere() -> None:
    world = World(remote(1, parallel=1), remote(2), policy="fcfs", circuit_faults=1)
    world.arrive(request("a", 1), request("b", 1), request("c", 1, 2))
    assert dispatches(world.fails("a")) == [("b", Place(1)), ("c", Place(2))]


def test_when_the_circuit_opens_leases_are_asked_back() -> None:
    world = World(remote(1, parallel=8), circuit_faults=1)
    [lease] = grants(world.arrives(request("a")))
    assert revokes(world.fails("a")) == [lease.lease_id]


def test_faults_under_a_lease_count_too() -> None:
    world = World(remote(1, parallel=8), remote(2), policy="fcfs", circuit_faults=2)
    [lease] = grants(world.arrives(request("a", 1, 2)))
    assert revokes(world.reports(lease.lease_id, "x", "y", ended=("x", "y"), ok=False)) == [lease.lease_id]
    assert dispatches(world.arrives(request("b", 1, 2))) == [("b", Place(2))]


# The catalogue.


def test_when_an_endpoint_leaves_the_catalogue_who_waits_goes_elsewhere() -> None:
    world = World(remote(1, parallel=1), remote(2), policy="fcfs")
    world.arrive(request("a", 1), request("b", 1, 2))
    assert dispatches(world.declares(remote(2))) == [("b", Place(2))]
    world.finishes("a")
    world.finishes("b")
    assert [each["endpoint_id"] for each in world.scheduler.summary()["endpoints"]] == [2]


def test_who_has_nowhere_else_to_go_is_told_so() -> None:
    world = World(remote(1, parallel=1), catalogue_grace_s=2.0)
    world.arrive(request("a"), request("b"))
    world.now += 2.0
    [reject] = rejects(world.declares())
    assert (reject.request_id, reject.code) == ("b", "no_capacity")
    assert reject.queue_wait_s == 2.0


def test_a_request_waits_a_moment_for_a_catalogue_that_its_gateway_has_seen_first() -> None:
    world = World(remote(1))
    assert world.arrives(request("a", 7)) == []
    assert dispatches(world.declares(remote(1), remote(7))) == [("a", Place(7))]


def test_a_request_for_endpoints_that_stay_unknown_is_rejected() -> None:
    world = World(remote(1), catalogue_grace_s=2.0)
    world.arrives(request("a", 7))
    assert rejected(world.passes(2.5)) == [("a", "no_capacity")]
    assert world.is_empty()
    assert [each["endpoint_id"] for each in world.scheduler.summary()["endpoints"]] == [1]


def test_a_request_without_candidates_is_rejected() -> None:
    world = World(remote(1))
    assert rejected(world.arrives(request("a", weights={}))) == [("a", "no_capacity")]


def test_a_larger_capacity_is_used_at_once() -> None:
    world = World(remote(1, parallel=1))
    world.arrive(request("a"), request("b"), request("c"))
    assert dispatched(world.declares(remote(1, parallel=2))) == ["b"]


def test_a_smaller_capacity_cuts_nothing_and_lets_the_excess_run_off() -> None:
    world = World(remote(1, parallel=3, requests_per_minute=1000))  # so it is not leased
    world.arrive(*(request(each) for each in "abcd"))
    assert dispatched(world.declares(remote(1, parallel=1, requests_per_minute=1000))) == []
    assert dispatched(world.finishes("a") + world.finishes("b")) == []
    assert dispatched(world.finishes("c")) == ["d"]


def test_an_older_catalogue_is_ignored() -> None:
    world = World(remote(1))
    world.declares(remote(1), remote(2), version=5)
    world.declares(version=4)
    assert dispatched(world.arrives(request("a", 2))) == ["a"]


def test_an_endpoint_may_turn_from_remote_to_pooled() -> None:
    world = World(remote(1))
    world.arrives(request("a"))
    world.node_seen(node("n", 24))
    world.declares(pooled(1))
    world.arrives(request("b"))
    assert dispatches(world.awake("n/m1/1")) == [("b", Place(1, "n/m1/1"))]
    world.finishes("a")
    world.finishes("b")
    world.passes(60.0)
    assert world.is_empty()


def promise_for_one() -> float:
    """Seconds for a whole answer that are kept alone in the batch, and not by two."""
    predictor = Predictor()
    predictor.introduce(1, pooled(1).engine)
    alone, beside = (predictor.tpot(1, running).p50 for running in (1, 2))
    return (alone + beside) / 2 * SchedulerSettings().output_prior_tokens


def promising() -> World:
    """An engine of endpoint 1 serves one request that was promised its answer in time."""
    world = World(pooled(1, replicas=(1, 1)))
    [load] = loads(world.node_seen(node("n1", 20)))
    world.awake(load.engine_id)
    assert dispatched(world.arrives(request("a", slo_total_s=promise_for_one()))) == ["a"]
    return world


def test_where_a_pace_is_promised_nobody_who_would_break_it_is_let_in() -> None:
    world = promising()
    assert dispatched(world.arrives(request("b"))) == []
    assert dispatched(world.finishes("a")) == ["b"]
    assert dispatched(world.arrives(request("c"))) == ["c"], "the promise ended with its request"


def test_a_promised_pace_keeps_others_out_only_until_they_are_late() -> None:
    world = promising()
    world.arrives(request("b", slo_ttft_s=4.0))
    assert dispatched(world.passes(3.9)) == []
    assert dispatched(world.passes(0.2)) == ["b"]


def test_what_an_engine_had_computed_before_it_slept_draws_nobody_to_it() -> None:
    world = World(pooled(1, replicas=(0, 2)))
    pair = [EngineSeen(f"n/m1/{each}", 1, (each,), EngineState.AWAKE, 16 * 1024) for each in (0, 1)]
    world.node_seen(node("n", 16, 16), *pair)
    prompt = {"prompt_tokens": 1000, "prefix": 7, "prefix_tokens": 900}
    first, second = Place(1, "n/m1/0"), Place(1, "n/m1/1")
    assert dispatches(world.arrives(request("a", **prompt))) == [("a", first)]
    world.finishes("a")
    assert set(sleeps(world.passes(150.0))) == {"n/m1/0", "n/m1/1"}
    world.asleep("n/m1/0")
    world.asleep("n/m1/1")
    world.arrive(*(request(f"b{each}") for each in range(8)))
    world.awake("n/m1/0")
    world.awake("n/m1/1")
    for each in range(1, 8):
        world.finishes(f"b{each}")
    assert world.endpoint(1)["running"] == 1  # at the first
    assert dispatches(world.arrives(request("c", **prompt))) == [("c", second)]


def test_the_answers_of_a_model_are_forgotten_with_its_last_endpoint() -> None:
    def models(world: World) -> set[int]:
        return {each.model_id for each in world.scheduler.learned().predictor.answers}

    again = dataclasses.replace(remote(3), model_id=1)
    world = World(remote(1), remote(2), again, lease_ttl_s=0.0)
    world.arrive(request("a", 1), request("b", 2))
    world.finishes("a")
    assert models(world) == {1}
    world.declares(remote(2), again)
    assert models(world) == {1}
    world.declares(remote(2), version=3)
    assert models(world) == set()
    world.finishes("b")
    assert models(world) == {2}


def test_slo_displaces_a_model_that_is_seldom_asked_for_and_none_that_is_in_demand() -> None:
    for came, chosen in ((1, []), (60, ["a"])):
        world = World(pooled(1), pooled(2), remote(3), policy="slo", idle_sleep_s=900.0, idle_in_the_way_s=900.0)
        awake = EngineSeen("n/m1/1", 1, (0,), EngineState.AWAKE, 16 * 1024)
        world.node_seen(node("n", 24), awake, EngineSeen("n/m2/1", 2, (0,), EngineState.ASLEEP, 16 * 1024))
        for number in range(came):
            world.arrives(request(f"x{number}", 1))
            world.finishes(f"x{number}")
        world.passes(30.0)
        asked = request("a", weights={2: 9.0, 3: 0.0}, slo_ttft_s=900.0)
        assert dispatched(world.arrives(asked)) == chosen


def test_where_a_gateway_does_not_say_how_long_an_answer_took_the_core_counts_for_itself() -> None:
    world = World(remote(1, parallel=1))
    world.arrives(request("a"))
    world.now += 40.0
    world.finishes("a", total_s=0.0)
    assert world.scheduler._state.service_s(1) == pytest.approx(40.0, rel=0.2)


def test_a_place_remembers_the_newest_beginnings_of_prompts_and_no_more() -> None:
    world = World(remote(1, parallel=1))
    for number in range(PREFIXES_MAX + 1):
        world.arrives(request(f"r{number}", prefix=number, prefix_tokens=10))
        world.finishes(f"r{number}")
    [place] = world.scheduler._state.endpoints[1].places.values()
    assert list(place.prefixes) == list(range(1, PREFIXES_MAX + 1))
