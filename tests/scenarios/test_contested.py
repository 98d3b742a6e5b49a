"""Who makes room for whom, and when: the reference's rules (`ettft`, scheduling.md section 2), and first come."""

from __future__ import annotations

from logos.domain.leases import SlotLease
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Place
from logos.scheduling.events import EngineSeen
from tests.scenarios.contested import FOUR, GIB, ONE, THREE, TWO, patient, served, until, world
from tests.scenarios.world import World, dispatched, node, pooled, request, sleeps, wakes

# ettft: protection.


def test_an_engine_is_protected_for_five_seconds_after_it_came() -> None:
    it = world("ettft")
    until(it, 104.9)
    assert it.arrives(patient("a", 2)) == []
    until(it, 105.1)
    assert sleeps(it.arrives(patient("b", 2))) == [ONE]


def test_an_engine_that_was_woken_for_its_queue_is_protected_for_fifteen() -> None:
    it = world("ettft", awake=(), asleep=(1, 2))
    assert wakes(it.arrives(request("x", 1))) == [ONE]
    until(it, 101.0)
    assert dispatched(it.awake(ONE, 1.0)) == ["x"]
    it.finishes("x")
    until(it, 106.5)
    assert it.arrives(patient("a", 2)) == []
    assert sleeps(until(it, 115.9)) == []  # at the cycle of 110 s neither
    until(it, 116.1)
    assert sleeps(it.arrives(patient("b", 2))) == [ONE]


def test_who_was_turned_away_tries_again_at_the_next_cycle() -> None:
    it = world("ettft")
    until(it, 104.0)
    assert it.arrives(patient("a", 2)) == []
    assert sleeps(until(it, 109.9)) == []
    assert sleeps(until(it, 110.1)) == [ONE]


def test_who_was_turned_away_does_not_try_again_because_somebody_left() -> None:
    it = world("ettft")
    until(it, 104.0)
    it.arrive(patient("a", 2), patient("b", 2))
    until(it, 106.0)
    assert it.leaves("b") == []
    assert sleeps(until(it, 109.9)) == []
    assert sleeps(until(it, 110.1)) == [ONE]


# ettft: victims that idle.


def test_an_idle_engine_yields_to_whoever_comes() -> None:
    it = world("ettft")
    served(it, 1, 20)
    until(it, 106.0)
    assert sleeps(it.arrives(patient("a", 2))) == [ONE]


def test_an_idle_engine_yields_at_a_cycle_only_to_a_score_half_as_high_again() -> None:
    """m1: 4 arrivals at 100 s are 4 * 0.7 = 2.8 at 110 s and 1.96 at 120 s. m2 waits with 1 * 0.7 + 0.5 = 1.2 at 110 s,
    0.99 at 120 s; it comes once that is half as much again."""
    it = world("ettft", parallel=1)
    served(it, 1, 4)
    until(it, 103.0)
    assert it.arrives(patient("a", 2)) == []  # protected
    claimed_at = next(at for at in range(110, 300, 10) if until(it, at + 0.5) and it.states()[ONE] != "awake")
    mine, theirs = 4.0, 1.0
    for at in range(110, 300, 10):
        mine, theirs = mine * 0.7, theirs * 0.7
        if theirs + 0.5 >= 1.5 * mine:
            assert claimed_at == at
            assert at > 110
            return


def test_an_idle_engine_for_which_more_wait_than_for_the_claimant_stays() -> None:
    """What waits at an idle engine waits for slots that a gateway holds and does not give back."""
    it = World(pooled(1, parallel=2), pooled(2), policy="ettft")
    engines = ((ONE, 1, EngineState.AWAKE), (TWO, 2, EngineState.ASLEEP))
    it.node_seen(node("n", 24), *(EngineSeen(each, number, (0,), state, 16 * GIB) for each, number, state in engines))
    it.gateway_seen("g2", SlotLease("old", "g2", Place(1, ONE), 2, 60.0))
    until(it, 106.0)
    it.arrive(patient("x", 1), patient("y", 1))
    assert (it.endpoint(1)["running"], it.endpoint(1)["waiting"]) == (0, 2)
    it.arrives(patient("a", 2))
    assert it.states()[ONE] == "awake"
    it.arrives(patient("b", 2))
    assert it.states()[ONE] == "draining"


def test_of_several_idle_engines_the_least_wanted_goes() -> None:
    it = world("ettft", awake=(1, 2), asleep=(3,), parallel=1, room_gib=40)
    served(it, 1, 3)
    served(it, 2, 1)
    until(it, 106.0)
    assert sleeps(it.arrives(patient("a", 3))) == [TWO]


# ettft: victims that run.


def test_a_running_engine_yields_if_at_least_two_wait_and_more_than_it_runs_and_holds() -> None:
    it = world("ettft")
    it.arrive(patient("x", 1), patient("y", 1))
    until(it, 106.0)
    assert it.arrive(patient("a", 2), patient("b", 2)) == []
    assert it.states()[ONE] == "awake"
    it.arrives(patient("c", 2))  # three wait, two run
    assert it.states()[ONE] == "draining"
    assert sleeps(it.finishes("x")) == []
    assert sleeps(it.finishes("y")) == [ONE]


def test_a_running_engine_does_not_yield_to_one_that_waits() -> None:
    it = world("ettft", parallel=1)
    it.arrives(patient("x", 1))
    until(it, 106.0)
    it.arrives(patient("a", 2))
    assert it.states()[ONE] == "awake"
    it.arrives(patient("b", 2))
    assert it.states()[ONE] == "draining"


def test_when_a_request_arrives_scores_do_not_count_against_what_runs() -> None:
    it = world("ettft", parallel=1)
    it.arrives(patient("x", 1))
    until(it, 196.0)  # its score has faded to next to nothing
    it.arrives(patient("a", 2))
    assert it.states()[ONE] == "awake"
    until(it, 200.1)
    assert it.states()[ONE] == "draining"


def test_what_waits_for_the_running_engine_counts_for_it() -> None:
    it = world("ettft", parallel=1)
    it.arrive(patient("x", 1), patient("y", 1))
    until(it, 106.0)
    it.arrive(patient("a", 2), patient("b", 2))
    assert it.states()[ONE] == "awake"
    it.arrives(patient("c", 2))
    assert it.states()[ONE] == "draining"


def test_at_a_cycle_a_running_engine_yields_to_three_times_its_score() -> None:
    """m1: one arrival at 100 s; m2: one at 106 s, and it waits: 1.2 to 0.7 at 110 s, 0.99 to 0.49, 0.84 to 0.34, 0.74
    to 0.24 at 140 s, which is three times as much."""
    it = world("ettft", parallel=1)
    it.arrives(patient("x", 1))
    until(it, 106.0)
    it.arrives(patient("a", 2))
    until(it, 139.9)
    assert it.states()[ONE] == "awake"
    until(it, 140.1)
    assert it.states()[ONE] == "draining"


# ettft: one at a time.


def test_on_a_node_one_transition_comes_after_the_other() -> None:
    it = world("ettft", awake=(1, 2), asleep=(3, 4), room_gib=40)
    until(it, 106.0)
    assert len(sleeps(it.arrives(patient("a", 3)))) == 1
    assert it.arrives(patient("b", 4)) == []
    assert wakes(it.asleep(ONE)) == [THREE]
    assert sleeps(it.awake(THREE)) == [TWO]
    assert wakes(it.asleep(TWO)) == [FOUR]


def test_after_a_transition_the_most_wanted_is_first() -> None:
    it = world("ettft", awake=(1,), asleep=(2, 3, 4), room_gib=40)
    until(it, 106.0)
    assert wakes(it.arrives(request("x", 2))) == [TWO]
    it.arrives(patient("a", 3))  # waits longest
    it.arrive(patient("b", 4), patient("c", 4))
    it.awake(TWO, 1.0)
    it.finishes("x")
    claimed = [each["engine_id"] for each in it.scheduler.summary()["engines"] if each["state"] == "falling_asleep"]
    assert claimed == [ONE]
    assert wakes(it.asleep(ONE)) == [FOUR]


def test_an_awake_model_that_idles_for_two_minutes_sleeps() -> None:
    it = world("ettft")
    until(it, 150.0)
    served(it, 1, 1)
    assert sleeps(until(it, 269.9)) == []
    assert sleeps(until(it, 270.1)) == [ONE]


def test_with_nobody_waiting_there_are_no_cycles() -> None:
    it = world("ettft", asleep=())
    it.asked.clear()
    until(it, 219.0)
    assert it.asked == []


# fcfs.


def test_first_come_changes_places_at_once_and_weighs_nothing() -> None:
    it = world("fcfs", parallel=1)
    served(it, 1, 20)
    assert sleeps(it.arrives(patient("a", 2))) == [ONE]


def test_first_come_the_model_of_the_request_that_waits_longest_is_next() -> None:
    it = world("fcfs", asleep=(2, 3))
    it.arrives(patient("x", 1))
    it.arrives(patient("a", 3))
    it.passes(1.0)
    it.arrive(*(patient(f"b{each}", 2) for each in range(5)))
    assert sleeps(it.finishes("x")) == [ONE]
    assert wakes(it.asleep(ONE)) == [THREE]
