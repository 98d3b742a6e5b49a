"""Who makes room for whom, and when, by the rules of `slo`: `logos.scheduling.marginal_swaps`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Endpoint
from logos.scheduling.drains import Drains
from logos.scheduling.events import EngineSeen
from tests.scenarios.contested import FOUR, GIB, ONE, TWO, Prompt, patient, served, until, world
from tests.scenarios.platform import Mishaps, Platform
from tests.scenarios.world import World, catalogue, dispatched, loads, node, pooled, request, sleeps, wakes

# What is still admitted.


def running(tokens: int, **settings: object) -> World:
    """m1 runs `x`, which has `tokens` at most to go; requests for m2 wait and claim its memory."""
    it = world("slo", **{"parallel": 16} | settings)
    it.arrives(patient("x", 1, output_tokens_max=tokens))
    return it


def two_for_one(*running_tokens: int, at_once: int | None = 1, parallel: int = 4, **settings: object) -> World:
    """m1 and m2 are awake, and run one request each of at most so many tokens; m4 would need the memory of both."""
    models = (pooled(1, parallel=parallel), pooled(2, parallel=parallel), pooled(4, gib=32))
    it = Prompt(*models, policy="slo", **settings)
    engines = (EngineSeen(each, int(each[3]), (0,), EngineState.AWAKE, 16 * GIB) for each in (ONE, TWO))
    machine = replace(node("n", 32), transitions_at_once=at_once)
    it.node_seen(machine, *engines, EngineSeen(FOUR, 4, (0,), EngineState.ASLEEP, 32 * GIB))
    served(it, 1, 1)
    served(it, 2, 1)
    until(it, 150.0)
    for endpoint_id, tokens in enumerate(running_tokens, start=1):
        it.arrives(patient(f"x{endpoint_id}", endpoint_id, output_tokens_max=tokens))
    return it


def test_what_ends_before_the_drain_does_is_admitted_however_many_wait() -> None:
    it = running(1000)
    it.arrive(*(patient(f"a{each}", 2) for each in range(20)))
    assert it.states()[ONE] == "draining"
    assert dispatched(it.arrives(patient("short", 1, output_tokens_max=10))) == ["short"]


def test_what_would_prolong_the_drain_is_admitted_only_while_few_wait() -> None:
    for waiting, admitted in ((1, ["longer"]), (20, [])):
        it = running(600)
        it.arrive(*(patient(f"a{each}", 2) for each in range(waiting)))
        assert dispatched(it.arrives(patient("longer", 1, output_tokens_max=900))) == admitted


def test_one_more_slows_those_that_run_beside_it_which_many_claimants_feel() -> None:
    """It would end long before the drain does."""
    for waiting, admitted in ((20, ["beside"]), (2_000, [])):
        it = running(1000)
        it.arrive(*(patient(f"a{each}", 2) for each in range(waiting)))
        assert dispatched(it.arrives(patient("beside", 1, output_tokens_max=500))) == admitted


def test_an_idle_engine_that_gets_busy_slows_the_drain_beside_it_which_many_claimants_feel() -> None:
    """m4 would need the memory of both; m1 runs, and what comes for m2 would end before m1 has drained."""
    for waiting, admitted in ((10, ["beside"]), (60, [])):
        it = two_for_one()
        served(it, 2, 10)
        it.arrives(patient("x", 1, output_tokens_max=600))
        it.arrive(*(patient(f"a{each}", 4) for each in range(waiting)))
        assert it.states()[TWO] == "draining"
        assert dispatched(it.arrives(patient("beside", 2, output_tokens_max=200))) == admitted


def test_of_two_victims_one_alone_may_run_on_while_the_other_falls_asleep() -> None:
    """Whoever is asked: what ends by then is not waited for, and no sleep is waited for twice."""
    for tokens, admitted in ((250, ["longer"]), (900, [])):
        for endpoint_id in (1, 2):
            it = two_for_one(200, 200)
            it.arrive(*(patient(f"a{each}", 4) for each in range(500)))
            assert it.states()[ONE] == it.states()[TWO] == "draining"
            longer = patient("longer", endpoint_id, output_tokens_max=tokens)
            assert dispatched(it.arrives(longer)) == admitted
            other = patient("other", 3 - endpoint_id, output_tokens_max=250)
            assert dispatched(it.arrives(other)) == ([] if admitted else ["other"])


def test_who_runs_on_alone_takes_all_of_its_own_that_is_worth_it_past_shorter_ones_of_the_other() -> None:
    it = two_for_one(200, 200)
    it.arrive(*(patient(f"a{each}", 4) for each in range(500)))
    assert dispatched(it.arrives(patient("first", 1, output_tokens_max=205))) == ["first"]
    assert dispatched(it.arrives(patient("other", 2, output_tokens_max=212))) == []
    assert dispatched(it.arrives(patient("second", 1, output_tokens_max=214))) == ["second"]


def test_where_a_node_takes_no_turns_nobody_falls_asleep_for_anothers_good() -> None:
    it = two_for_one(200, 200, at_once=None)
    it.arrive(*(patient(f"a{each}", 4) for each in range(500)))
    assert dispatched(it.arrives(patient("longer", 1, output_tokens_max=250))) == []


def test_while_one_victim_falls_asleep_the_other_still_admits_what_ends_by_then() -> None:
    for tokens, admitted in ((30, ["late"]), (900, [])):
        it = two_for_one(30)
        commands = it.arrive(*(patient(f"a{each}", 4) for each in range(500)))
        assert sleeps(commands) == [TWO]
        assert dispatched(it.arrives(patient("late", 1, output_tokens_max=tokens))) == admitted
        assert it.states()[ONE] == "draining"


def test_who_waits_for_a_victim_that_has_left_would_wait_longer_too() -> None:
    for behind, admitted in ((0, ["late"]), (300, [])):
        it = two_for_one(30)
        it.arrive(*(patient(f"a{each}", 4) for each in range(4)))
        it.passes(1.0)
        assert it.states()[TWO] == "falling_asleep"
        it.arrive(*(patient(f"b{each}", 2) for each in range(behind)))
        assert dispatched(it.arrives(patient("late", 1, output_tokens_max=200))) == admitted


def left_behind(it: World) -> list[str]:
    """Whose waiting requests are out until the one claim that there is has been served."""
    [claim] = it.scheduler._state.claims.values()
    rules = it.scheduler._capacity._rules
    return [each.model_name for each in rules._left_behind(claim, rules._group(claim))]


def crowded(*more: Endpoint, replicas: int = 1, m4_gib: int = 32) -> World:
    """m1, m2 and m3 are awake, m4 wants memory of theirs; m1 runs something short, and m2 has left or begun to."""
    it = Prompt(pooled(1), pooled(2, gib=8, replicas=(0, replicas)), pooled(4, gib=m4_gib), *more, policy="slo")
    awake = [(ONE, 16), (TWO, 8), ("n/m2/93" if replicas > 1 else "n/m3/93", 8)]
    engines = [EngineSeen(each, int(each[3]), (0,), EngineState.AWAKE, gib * GIB) for each, gib in awake]
    asleep = EngineSeen(FOUR, 4, (0,), EngineState.ASLEEP, m4_gib * GIB)
    it.node_seen(replace(node("n", 40), transitions_at_once=1), *engines, asleep)
    served(it, 1, 1)
    served(it, 2, 1)
    until(it, 150.0)
    it.arrives(patient("x", 1, output_tokens_max=30))
    if replicas > 1:
        it.arrives(patient("y", 2, output_tokens_max=30))
    it.arrive(*(patient(f"a{each}", 4) for each in range(500)))
    it.passes(1.0)
    it.arrives(patient("b", 2, output_tokens_max=9000))
    return it


def test_who_waits_for_a_victim_that_has_left_is_left_behind() -> None:
    it = crowded(pooled(3, gib=8, pinned=True, replicas=(1, 1)))
    assert it.states() == {ONE: "draining", TWO: "falling_asleep", "n/m3/93": "awake", FOUR: "asleep"}
    assert left_behind(it) == ["m2"]


def test_nobody_is_left_behind_of_whose_engines_one_still_serves() -> None:
    it = crowded(replicas=2, m4_gib=40)
    assert sorted(it.states().values()) == ["asleep", "draining", "draining", "falling_asleep"]
    assert left_behind(it) == []


def test_nobody_is_left_behind_who_comes_in_with_the_claimant() -> None:
    it = crowded(pooled(3, gib=8, pinned=True, replicas=(1, 1)))
    it.asleep(TWO)
    it.declares(pooled(1), pooled(2, gib=8), pooled(4, gib=32))
    it.cold("n/m3/93")
    assert it.states() == {ONE: "draining", TWO: "asleep", FOUR: "asleep"}
    assert left_behind(it) == []


def test_nobody_is_left_behind_who_comes_elsewhere() -> None:
    it = crowded(pooled(3, gib=8, pinned=True, replicas=(1, 1)))
    it.asleep(TWO)
    assert left_behind(it) == ["m2"]
    assert [each.node_id for each in loads(it.node_seen(node("o", 8)))] == ["o"]
    assert left_behind(it) == []


def test_nobody_leaves_while_another_comes_on_the_same_gpus_however_many_may_at_once() -> None:
    it = Prompt(pooled(1), pooled(2, gib=24), pooled(3, gib=8), policy="slo")
    asleep = EngineSeen("n/m3/93", 3, (0,), EngineState.ASLEEP, 8 * GIB)
    it.node_seen(node("n", 40), EngineSeen(ONE, 1, (0,), EngineState.AWAKE, 16 * GIB), asleep)
    it.now += 100.0
    assert wakes(it.arrives(patient("c", 3))) == ["n/m3/93"]
    assert sleeps([*it.arrive(*(patient(f"a{each}", 2) for each in range(9))), *it.passes(5.0)]) == []
    assert it.states()[ONE] == "draining"
    assert sleeps(it.awake("n/m3/93", 5.0)) == [ONE]


def test_once_a_victim_has_left_the_other_does_not_run_on_and_on() -> None:
    """Each of a stream of short requests ends about when the one before it should, and lets the next one in."""
    it = two_for_one(30, parallel=16, swap_linger_max_s=2.0)
    assert sleeps(it.arrive(*(patient(f"a{each}", 4) for each in range(500)))) == [TWO]
    state = it.scheduler._state
    gone_s = Drains(state).drain([state.engines[ONE]], state.nodes["n"]).gone_s
    admitted = [dispatched(it.arrives(patient("s0", 1, output_tokens_max=20)))]
    it.finishes("x1")
    for number in range(1, 60):
        it.passes(0.25)
        admitted.append(dispatched(it.arrives(patient(f"s{number}", 1, output_tokens_max=20))))
        it.finishes(f"s{number - 1}")
        if it.states()[ONE] != "draining":
            break
    assert admitted[:4] == [["s0"], ["s1"], ["s2"], ["s3"]]
    assert it.states()[ONE] == "falling_asleep"
    assert it.now - 150.0 < gone_s + 2.0 + 1.0


def test_one_that_may_not_overtake_keeps_nobody_of_another_victim_back() -> None:
    """`old` would take too long for those who wait, and nobody may go before it; what waits for m2 may."""
    it = two_for_one(200, 200, overtakes_mid=0)
    it.arrive(*(patient(f"a{each}", 4) for each in range(500)))
    assert dispatched(it.arrives(patient("old", 1, output_tokens_max=3000))) == []
    assert dispatched(it.arrives(patient("kept", 1, output_tokens_max=250))) == []
    assert dispatched(it.arrives(patient("free", 2, output_tokens_max=250))) == ["free"]


def test_what_finds_no_place_anyway_does_not_speak_for_what_does() -> None:
    """One costs those who wait more than it saves, however many like it wait for the one place that is free."""
    for waiting in (1, 5, 20):
        it = running(600, parallel=2)
        it.arrive(*(patient(f"a{each}", 2) for each in range(10)))
        assert it.states()[ONE] == "draining"
        commands = it.arrive(*(patient(f"b{each}", 1, output_tokens_max=900) for each in range(waiting)))
        assert dispatched(commands) == []


def test_once_the_claimants_would_wait_beyond_the_bound_nothing_more_is_admitted() -> None:
    for waited_s, admitted in ((10.0, ["short"]), (200.0, [])):
        it = running(300)  # which takes far longer than anybody could know
        it.arrive(*(patient(f"a{each}", 2) for each in range(3)))
        it.passes(waited_s)
        assert it.states()[ONE] == "draining"
        assert dispatched(it.arrives(patient("short", 1, output_tokens_max=1))) == admitted


def test_the_bound_counts_from_when_requests_began_to_wait_without_a_break() -> None:
    it = running(300)
    it.arrives(patient("first", 2))
    it.passes(200.0)
    it.arrives(patient("second", 2))
    it.leaves("first")
    assert it.states()[ONE] == "draining"
    assert dispatched(it.arrives(patient("short", 1, output_tokens_max=1))) == []


@pytest.mark.parametrize(
    ("may_wait_s", "since_s", "admitted"), [(900.0, 40.0, ["short"]), (20.0, 20.0, ["short"]), (20.0, 36.0, [])]
)
def test_no_model_is_kept_out_for_longer_than_twice_what_its_requests_may_wait(
    may_wait_s: float, since_s: float, admitted: list[str]
) -> None:
    it = running(300)
    start = it.now
    for number in range(8):  # one after the other gives up, or would
        it.arrive(request(f"a{number}", 2, queue_timeout_s=may_wait_s), request(f"b{number}", 2, queue_timeout_s=5.0))
        until(it, start + (number + 1) * since_s / 8)
    assert it.states()[ONE] == "draining"
    assert dispatched(it.arrives(patient("short", 1, output_tokens_max=1))) == admitted


def test_what_joins_must_let_the_others_in_in_time() -> None:
    it = running(300)
    it.arrives(patient("a", 2))
    it.passes(44.0)
    assert dispatched(it.arrives(patient("short", 1, output_tokens_max=1))) == ["short"]
    assert dispatched(it.arrives(patient("long", 1, output_tokens_max=3000))) == []


@pytest.mark.parametrize(("at_once", "leaves"), [(None, [ONE]), (2, [ONE]), (1, [])])
def test_a_transition_elsewhere_on_the_node_holds_nobody_up_unless_it_is_their_turn(
    at_once: int | None, leaves: list[str]
) -> None:
    it = Prompt(pooled(1), pooled(2), pooled(3), policy="slo")
    states = {ONE: EngineState.AWAKE, TWO: EngineState.ASLEEP}
    engines = (EngineSeen(each, int(each[3]), (0,), state, 16 * GIB) for each, state in states.items())
    it.node_seen(replace(node("n", 24, 24), transitions_at_once=at_once), *engines)
    it.arrives(patient("x", 1))
    (loading,) = loads(it.arrives(patient("c", 3)))
    it.arrives(patient("a", 2))
    commands = it.finishes("x") + it.passes(30.0)
    assert it.states()[loading.engine_id] == "loading"
    assert sleeps(commands) == leaves


def test_a_claim_that_can_no_longer_be_met_keeps_nobody_from_being_served() -> None:
    it = Prompt(pooled(1), pooled(4, gib=32), policy="slo")
    seen = (
        EngineSeen(ONE, 1, (0,), EngineState.AWAKE, 16 * GIB),
        EngineSeen(FOUR, 4, (0,), EngineState.ASLEEP, 32 * GIB),
    )
    it.node_seen(node("n", 40), *seen)
    it.arrives(patient("x", 1))
    it.arrives(patient("claimant", 4))
    assert it.states()[ONE] == "draining"
    it.declares(pooled(1), pooled(4, gib=32), pooled(3, pinned=True, replicas=(1, 1)))
    [loaded] = [each for each in it.states() if "m3" in each]
    it.awake(loaded)
    for number in range(12):
        it.passes(10.0)
        assert dispatched(it.arrives(patient(f"y{number}", 1))) == [f"y{number}"]
        it.finishes(f"y{number}")


def test_of_what_waits_for_a_victim_the_shortest_is_admitted_first() -> None:
    it = world("slo", parallel=2)
    it.arrives(patient("x", 1, output_tokens_max=1000))
    it.arrives(patient("y", 1, output_tokens_max=1000))
    it.arrive(*(patient(f"a{each}", 2) for each in range(5)))
    it.arrive(patient("long", 1, output_tokens_max=900), patient("short", 1, output_tokens_max=10))
    assert dispatched(it.finishes("y")) == ["short"]


def test_what_is_admitted_to_a_victim_overtakes_no_more_often_than_the_bound_allows() -> None:
    it = running(1000, overtakes_mid=2)
    it.arrive(*(patient(f"a{each}", 2) for each in range(20)))
    assert dispatched(it.arrives(patient("long", 1, output_tokens_max=5000))) == []
    shorts = [patient(f"s{each}", 1, output_tokens_max=10) for each in range(4)]
    assert dispatched(it.arrive(*shorts)) == ["s0", "s1"]


def test_once_it_has_run_dry_a_victim_with_too_long_requests_leaves_them_behind() -> None:
    it = running(1000)
    it.arrive(*(patient(f"a{each}", 2) for each in range(20)))
    it.arrives(patient("long", 1, output_tokens_max=5000))
    assert sleeps(it.finishes("x")) == [ONE]
    assert wakes(it.asleep(ONE)) == [TWO]
    assert len(dispatched(it.awake(TWO, 1.0))) == 16
    assert it.states()[TWO] == "draining"  # and now `long` claims in its turn


# When a victim leaves.


def test_an_idle_victim_leaves_before_the_others_have_drained_if_many_wait() -> None:
    """m4 would need the memory of both; m1 runs, m2 idles. Where a node takes no turns, nothing is gained by it."""
    for waiting, at_once, left in ((1, 1, []), (20, 1, [TWO]), (20, None, [])):
        it = two_for_one(300, at_once=at_once)
        commands = it.arrive(*(patient(f"a{each}", 4) for each in range(waiting)))
        assert sleeps(commands) == left
        assert it.endpoint(1)["running"] == 1


def test_a_victim_in_demand_lingers_until_enough_waits_for_the_claimant() -> None:
    it = world("slo", parallel=1)
    for _ in range(12):
        served(it, 1, 2)
        it.passes(10.0)
    assert sleeps(it.arrives(patient("a", 2))) == []
    assert it.states()[ONE] == "draining"
    served(it, 1, 1)  # it goes on
    left: list[str] = []
    for number in range(10):
        left += sleeps(it.passes(1.0) + it.arrives(patient(f"b{number}", 2)))
    assert left == [ONE]


def test_a_victim_lingers_no_longer_than_it_may() -> None:
    it = world("slo", parallel=1, swap_linger_max_s=12.0)
    for _ in range(10):
        served(it, 1, 2)
        it.passes(1.0)
    assert sleeps(it.arrives(patient("a", 2))) == []
    left: list[str] = []
    while it.now < 130.0 and not left:
        left = sleeps(it.passes(1.0))
        if not left:
            served(it, 1, 2)
    assert left == [ONE]
    assert it.now <= 110.0 + 12.0 + 1.5


def test_a_victim_that_nobody_asks_for_leaves_at_once() -> None:
    it = world("slo")
    until(it, 102.0)
    assert sleeps(it.arrives(patient("a", 2))) == [ONE]


# How long anybody waits.


@pytest.mark.parametrize(
    ("every_s", "parallel"),
    [({1: 0.4, 2: 100.0}, 4), ({1: 0.4, 2: 37.0, 3: 53.0}, 4), ({1: 0.2, 2: 37.0, 3: 53.0}, 2)],
)
def test_a_model_that_is_seldom_asked_for_is_not_starved_by_one_that_always_is(
    every_s: dict[int, float], parallel: int
) -> None:
    """In the last case m1 is asked for more than it could serve if it were alone."""
    known = catalogue(*(pooled(each, parallel=parallel) for each in every_s))
    done = Platform(1, known, (node("n", 24),), policy="slo", gateways=1, rate=0.0, mishaps=Mishaps.none())
    for endpoint_id, seconds in every_s.items():
        done.after(0.5, partial(done.clients_come_evenly, endpoint_id, seconds, 1.0))
    done.run(200.0)
    for endpoint_id in every_s:
        if endpoint_id != 1:
            waits = done.waits_s(endpoint_id)
            assert len(waits) >= 2
            assert max(waits) <= done.settings.swap_wait_max_s + 5.0


def test_two_models_in_equal_demand_wait_alike_and_not_for_ever() -> None:
    known = catalogue(pooled(1), pooled(2))
    done = Platform(1, known, (node("n", 24),), policy="slo", gateways=1, rate=0.0, mishaps=Mishaps.none())
    for endpoint_id in (1, 2):
        done.after(0.5, partial(done.clients_come_evenly, endpoint_id, 0.6, 1.0))
    done.run(200.0)
    means = [sum(done.waits_s(each)) / len(done.waits_s(each)) for each in (1, 2)]
    assert max(means) <= 1.5 * min(means)
    assert max(*done.waits_s(1), *done.waits_s(2)) <= done.settings.swap_wait_max_s + 5.0


# Idling.


def test_an_idle_engine_in_the_way_sleeps_soon_and_one_that_is_more_wanted_late() -> None:
    for times, within_s in ((0, 3.1), (1, 120.1)):
        it = world("slo", parallel=1, idle_in_the_way_s=3.0, idle_sleep_s=120.0)
        served(it, 1, times)
        assert sleeps(it.passes(within_s - 0.2)) == []
        assert sleeps(it.passes(0.2)) == [ONE]


def test_an_idle_engine_that_is_in_nobodys_way_stays() -> None:
    it = world("slo", room_gib=40, parallel=1, idle_in_the_way_s=3.0, idle_sleep_s=120.0)
    assert sleeps(it.passes(119.9)) == []
    assert sleeps(it.passes(0.2)) == [ONE]
