"""Who waits, in which order, for how long at most."""

from __future__ import annotations

import pytest

from logos.domain.nouns import Mode, Place, Priority
from tests.scenarios.world import World, dispatched, dispatches, grants, rejected, rejects, remote, request, revokes


def served(world: World, first: str) -> list[str]:
    """Finishes one request after the other and tells in which order the rest was dispatched."""
    order: list[str] = []
    running = [first]
    while running:
        running += (more := dispatched(world.finishes(running.pop(0))))
        order += more
    return order


def test_the_more_urgent_goes_first_and_batch_goes_last() -> None:
    world = World(remote(1, parallel=1))
    world.arrives(request("running"))
    world.arrive(
        request("batch", priority=Priority.HIGH, mode=Mode.BATCH),
        request("low", priority=Priority.LOW),
        request("mid"),
        request("high", priority=Priority.HIGH),
    )
    assert served(world, "running") == ["high", "mid", "low", "batch"]


@pytest.mark.parametrize("policy", ["ettft", "slo"])
def test_the_more_urgent_goes_first_however_many_wait(policy: str) -> None:
    world = World(remote(1, parallel=1), policy=policy)
    world.arrives(request("running"))
    world.arrive(*(request(f"mid-{each}", key=1, queue_timeout_s=3600.0) for each in range(200)))
    world.arrives(request("high", key=2, priority=Priority.HIGH, queue_timeout_s=3600.0))
    assert dispatched(world.finishes("running")) == ["high"]


def test_keys_share_an_endpoint_evenly_whoever_sends_more() -> None:
    world = World(remote(1, parallel=1))
    world.arrives(request("running"))
    world.arrive(*(request(f"greedy-{each}", key=1, prompt_tokens=100) for each in range(4)))
    world.arrive(*(request(f"modest-{each}", key=2, prompt_tokens=100) for each in range(2)))
    order = served(world, "running")
    assert order[:4] == ["greedy-0", "modest-0", "greedy-1", "modest-1"]


def test_shares_are_counted_in_tokens_and_output_weighs_double() -> None:
    world = World(remote(1, parallel=1))
    world.arrives(request("running"))
    # One request of key 1 costs 100 + 2 * 100 = 300, as much as three of key 2.
    world.arrive(*(request(f"long-{each}", key=1, prompt_tokens=100, output_tokens_max=100) for each in range(2)))
    world.arrive(*(request(f"short-{each}", key=2, prompt_tokens=98, output_tokens_max=1) for each in range(4)))
    assert served(world, "running") == ["long-0", "short-0", "short-1", "short-2", "long-1", "short-3"]


def test_a_request_is_overtaken_by_so_many_later_ones_at_most() -> None:
    world = World(remote(1, parallel=1), overtakes_low=3)
    world.arrives(request("running"))
    world.arrives(request("low", priority=Priority.LOW))
    world.arrive(*(request(f"high-{each}", priority=Priority.HIGH) for each in range(6)))
    assert served(world, "running") == ["high-0", "high-1", "high-2", "low", "high-3", "high-4", "high-5"]


def test_batch_ages_too_only_slower() -> None:
    world = World(remote(1, parallel=1), overtakes_low=1, overtakes_batch_factor=2)
    world.arrives(request("running"))
    world.arrives(request("batch", priority=Priority.LOW, mode=Mode.BATCH))
    world.arrive(*(request(f"mid-{each}") for each in range(4)))
    assert served(world, "running") == ["mid-0", "mid-1", "batch", "mid-2", "mid-3"]


def test_a_request_that_waited_as_long_as_it_may_is_rejected() -> None:
    world = World(remote(1, parallel=1))
    world.arrive(request("a"), request("b", queue_timeout_s=10.0), request("c", queue_timeout_s=20.0))
    assert world.passes(9.9) == []
    [reject] = rejects(world.passes(0.2))
    assert (reject.request_id, reject.code, reject.queue_wait_s) == ("b", "queue_timeout", 10.0)
    assert dispatched(world.finishes("a")) == ["c"]


def test_a_request_that_may_not_wait_goes_at_once_or_is_rejected_at_once() -> None:
    world = World(remote(1, parallel=1))
    assert dispatched(world.arrives(request("a", queue_timeout_s=0.0))) == ["a"]
    world.arrives(request("b"))
    [reject] = rejects(world.arrives(request("c", queue_timeout_s=0.0)))
    assert (reject.request_id, reject.code, reject.queue_wait_s) == ("c", "queue_timeout", 0.0)
    assert dispatched(world.finishes("a")) == ["b"]


@pytest.mark.parametrize("policy", ["fcfs", "utilization", "ettft", "slo"])
def test_a_request_that_may_not_wait_goes_to_any_of_its_candidates_that_is_free(policy: str) -> None:
    world = World(remote(1, parallel=1), remote(2, parallel=1), remote(3, requests_per_minute=1), policy=policy)
    world.arrive(request("a"), request("b", 3, queue_timeout_s=10.0))
    better = {1: 90.0, 3: 50.0, 2: 0.0}
    assert dispatches(world.arrives(request("c", weights=better, queue_timeout_s=0.0))) == [("c", Place(2))]
    assert rejected(world.arrives(request("d", weights=better, queue_timeout_s=0.0))) == [("d", "queue_timeout")]


def test_what_an_idle_lease_holds_is_asked_back_for_a_request_that_may_not_wait() -> None:
    world = World(remote(1, parallel=3))
    [lease] = grants(world.arrives(request("a")))
    assert dispatched(world.arrives(request("b", gateway="g2", queue_timeout_s=0.0))) == ["b"]
    commands = world.arrives(request("c", gateway="g2", queue_timeout_s=0.0))
    assert (revokes(commands), rejected(commands)) == ([lease.lease_id], [("c", "queue_timeout")])


def test_the_core_asks_to_be_woken_for_the_earliest_deadline_only() -> None:
    world = World(remote(1, parallel=1))
    world.arrives(request("a"))
    world.arrives(request("b", queue_timeout_s=30.0))
    world.arrives(request("c", queue_timeout_s=40.0))
    assert world.asked == [130.0]
    world.arrives(request("d", queue_timeout_s=10.0))
    assert world.asked == [110.0, 130.0]


def test_a_deadline_holds_even_if_the_wake_up_is_late() -> None:
    world = World(remote(1, parallel=1))
    world.arrive(request("a"), request("b", queue_timeout_s=10.0))
    world.now += 11.0
    commands = world.finishes("a")
    assert rejected(commands) == [("b", "queue_timeout")]
    assert dispatched(commands) == []


@pytest.mark.parametrize("mode", [Mode.BATCH, Mode.INTERACTIVE])
def test_nobody_is_turned_away_because_of_what_waits_in_lower_classes(mode: Mode) -> None:
    world = World(remote(1, parallel=1), policy="slo")
    world.arrives(request("running"))
    many = [f"low-{each}" for each in range(100)]
    world.arrive(*(request(each, priority=Priority.LOW, mode=mode, queue_timeout_s=3600.0) for each in many))
    assert world.arrives(request("high", key=2, priority=Priority.HIGH, queue_timeout_s=60.0)) == []
    assert dispatched(world.finishes("running")) == ["high"]


@pytest.mark.parametrize("priority", [Priority.MID, Priority.HIGH])
def test_who_would_not_be_served_before_its_time_out_is_told_at_once(priority: Priority) -> None:
    world = World(remote(1, parallel=1), policy="slo")
    world.arrives(request("running"))
    world.arrive(*(request(f"{each}", priority=priority, queue_timeout_s=3600.0) for each in range(100)))
    [reject] = rejects(world.arrives(request("late", key=2, queue_timeout_s=60.0)))
    assert (reject.code, reject.queue_wait_s) == ("no_capacity", 0.0)
    assert "may wait 60 s" in reject.message
    assert len(dispatched(world.finishes("running"))) == 1


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    world = World(remote(1, parallel=1), queue_length_max=2, service_prior_s=4.0)
    world.arrive(request("a"), request("b"), request("c"))
    [reject] = rejects(world.arrives(request("d")))
    assert (reject.code, reject.retry_after_s) == ("no_capacity", 3 * 4.0)
    assert "2 requests are waiting already" in reject.message


def test_a_full_queue_does_not_refuse_what_an_idle_endpoint_can_take() -> None:
    world = World(remote(1, parallel=1), remote(2), queue_length_max=1)
    world.arrive(request("a", 1), request("b", 1))
    assert dispatched(world.arrives(request("c", 2))) == ["c"]


def test_retry_after_follows_the_observed_pace() -> None:
    world = World(remote(1, parallel=1), queue_length_max=1)
    for each in range(5):
        world.arrives(request(f"quick-{each}"))
        world.finishes(f"quick-{each}", total_s=8.0)
    world.arrive(request("a"), request("b"))
    [reject] = rejects(world.arrives(request("c")))
    assert reject.retry_after_s == 2 * 8.0


def test_a_lost_gateway_leaves_nothing_behind() -> None:
    world = World(remote(1, parallel=2))
    world.arrive(request("a", gateway="g1"), request("b", gateway="g1"), request("c", gateway="g1"))
    world.arrive(request("d", gateway="g2"))
    assert dispatched(world.gateway_lost("g1")) == ["d"]
    assert world.gateway_lost("g1") == []
    world.finishes("d")
    assert world.is_empty()
