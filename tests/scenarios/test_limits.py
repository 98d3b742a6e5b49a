"""What a remote provider admits: declared rates over any 60 s, and its own word."""

from __future__ import annotations

import pytest

from logos.domain.nouns import Place
from tests.scenarios.world import World, dispatched, dispatches, grants, rejects, remote, request, revokes

POLICIES = ["fcfs", "utilization", "ettft", "slo"]


def test_at_most_so_many_requests_go_in_any_minute() -> None:
    world = World(remote(1, requests_per_minute=2))
    assert dispatched(world.arrives(request("a"))) == ["a"]
    world.now += 10.0
    assert dispatched(world.arrives(request("b"))) == ["b"]
    world.finishes("a")
    world.arrive(request("c", queue_timeout_s=300.0), request("d", queue_timeout_s=300.0))
    assert dispatched(world.passes(49.9)) == []
    assert dispatched(world.passes(0.2)) == ["c"]
    assert dispatched(world.passes(9.8)) == []
    assert dispatched(world.passes(0.2)) == ["d"]


def test_at_most_so_many_tokens_go_in_any_minute() -> None:
    world = World(remote(1, tokens_per_minute=1000))
    more = {"prompt_tokens": 300, "output_tokens_max": 100, "queue_timeout_s": 300.0}
    assert dispatched(world.arrive(*(request(each, **more) for each in "abc"))) == ["a", "b"]
    assert dispatched(world.passes(60.1)) == ["c"]


def test_a_request_larger_than_the_limit_goes_when_nothing_else_went() -> None:
    world = World(remote(1, tokens_per_minute=1000))
    world.arrives(request("small", prompt_tokens=10, output_tokens_max=10))
    world.arrives(request("huge", prompt_tokens=5000, queue_timeout_s=300.0))
    assert dispatched(world.passes(60.1)) == ["huge"]


def test_a_change_of_the_limit_does_not_forget_what_went_before() -> None:
    world = World(remote(1, requests_per_minute=2))
    world.arrive(request("a"), request("b"))
    world.declares(remote(1, requests_per_minute=3))
    assert dispatched(world.arrive(request("c"), request("d", queue_timeout_s=300.0))) == ["c"]
    assert dispatched(world.passes(60.1)) == ["d"]


def test_nothing_left_by_the_providers_word_holds_until_its_reset() -> None:
    world = World(remote(1))
    world.limit_observed(1, 0, 20.0)
    assert dispatched(world.arrives(request("a"))) == []
    assert dispatched(world.passes(19.9)) == []
    assert dispatched(world.passes(0.2)) == ["a"]


def test_what_the_provider_says_is_left_is_counted_down() -> None:
    world = World(remote(1))
    world.limit_observed(1, 2, 20.0)
    assert dispatched(world.arrive(*(request(each) for each in "abc"))) == ["a", "b"]
    assert dispatched(world.passes(20.1)) == ["c"]


def test_little_left_ends_leases() -> None:
    world = World(remote(1, parallel=9))
    [lease] = grants(world.arrives(request("a")))
    assert revokes(world.limit_observed(1, 100, 20.0)) == []
    assert revokes(world.limit_observed(1, 10, 20.0)) == [lease.lease_id]
    assert grants(world.arrives(request("b"))) == []


def test_an_answer_that_says_when_to_retry_holds_the_endpoint_until_then() -> None:
    world = World(remote(1))
    world.arrives(request("a"))
    world.fails("a", fault=False, retry_after_s=5.0)
    assert dispatched(world.arrives(request("b"))) == []
    assert dispatched(world.passes(5.1)) == ["b"]


@pytest.mark.parametrize("policy", POLICIES)
def test_who_would_be_held_back_beyond_its_time_out_is_told_so_at_once(policy: str) -> None:
    world = World(remote(1), policy=policy)
    world.arrives(request("a"))
    world.fails("a", fault=False, retry_after_s=100.0)
    [reject] = rejects(world.arrives(request("b")))
    assert (reject.code, reject.retry_after_s) == ("no_capacity", 100.0)
    assert reject.message == "its provider takes no more for 100 s and it may wait 60 s"
    assert world.arrives(request("c", queue_timeout_s=101.0)) == []
    world.passes(40.5)
    assert world.arrives(request("d")) == []
    assert dispatched(world.passes(60.0)) == ["c", "d"]
    world.fails("c", fault=False, retry_after_s=3600.0)
    [reject] = rejects(world.arrives(request("e")))
    assert reject.retry_after_s == 600.0


def test_a_declared_rate_that_is_used_up_for_too_long_is_told_at_once() -> None:
    world = World(remote(1, requests_per_minute=1))
    world.arrives(request("a"))
    world.now += 20.0
    [reject] = rejects(world.arrives(request("b", queue_timeout_s=39.0)))
    assert (reject.code, reject.retry_after_s) == ("no_capacity", 40.0)
    assert rejects(world.arrives(request("c", queue_timeout_s=41.0))) == []


@pytest.mark.parametrize("policy", POLICIES)
def test_who_would_be_held_back_beyond_its_time_out_goes_elsewhere_if_it_can(policy: str) -> None:
    world = World(remote(1), remote(2), policy=policy)
    world.arrives(request("a"))
    world.fails("a", fault=False, retry_after_s=3600.0)
    assert dispatches(world.arrives(request("b", 1, 2))) == [("b", Place(2))]


def test_what_a_provider_says_of_an_endpoint_that_has_gone_changes_nothing() -> None:
    world = World(remote(1), remote(2))
    world.declares(remote(2))
    assert world.limit_observed(1, 0, 60.0) == []
    assert dispatched(world.arrives(request("a", 2))) == ["a"]
