"""What must pass before an endpoint can begin with a request at all."""

from __future__ import annotations

import pytest

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Node
from logos.prediction.service import Transition
from logos.prediction.spans import AT_ONCE, Span
from logos.scheduling.delays import Delays
from logos.scheduling.drains import Drains
from logos.scheduling.events import EngineSeen
from tests.scenarios.world import World, node, pooled, request

LOAD, WAKE, SLEEP = Transition.LOAD, Transition.WAKE, Transition.SLEEP


class Told(World):
    """A core with m1 and m2, and delays read from its books."""

    def __init__(self, there: Node, **states: EngineState) -> None:
        super().__init__(pooled(1, parallel=2), pooled(2), policy="fcfs")
        engines = (EngineSeen(f"n/{model}/9", int(model[1]), (0,), state, 16 * 1024) for model, state in states.items())
        self.node_seen(there, *engines)

    def delay(self, endpoint_id: int) -> Span:
        state, capacity = self.scheduler._state, self.scheduler._capacity
        endpoint = state.endpoints[endpoint_id]
        outlook = None if endpoint.live else capacity.outlook(endpoint)
        return Delays(state, capacity._claims).until_served(endpoint, outlook)

    def displaced_s(self, endpoint_id: int) -> float:
        state, capacity = self.scheduler._state, self.scheduler._capacity
        endpoint = state.endpoints[endpoint_id]
        return Delays(state, capacity._claims).displaced_s(endpoint, capacity.outlook(endpoint))

    def takes(self, endpoint_id: int, transition: Transition) -> Span:
        return self.scheduler._state.predictor.transition(endpoint_id, "n", transition)


def test_what_is_open_serves_at_once() -> None:
    assert Told(node("n", 24), m1=EngineState.AWAKE).delay(1) == AT_ONCE


def test_what_sleeps_and_has_room_wakes() -> None:
    told = Told(node("n", 24), m1=EngineState.ASLEEP)
    assert told.delay(1) == told.takes(1, WAKE)


def test_what_is_nowhere_and_has_room_loads() -> None:
    told = Told(node("n", 24))
    assert told.delay(1) == told.takes(1, LOAD)


def test_of_a_transition_under_way_what_has_elapsed_is_taken_off() -> None:
    told = Told(node("n", 24), m1=EngineState.ASLEEP)
    told.arrives(request("a"))
    told.passes(1.0)
    told.node_lost("elsewhere")
    assert told.delay(1) == told.takes(1, WAKE).less(1.0)
    assert told.delay(1).p50 < told.takes(1, WAKE).p50


def test_who_must_be_made_room_for_waits_for_drain_and_sleep_and_load() -> None:
    told = Told(node("n", 24), m1=EngineState.AWAKE)
    idle_s = told.delay(2).p50
    assert idle_s == pytest.approx(told.takes(1, SLEEP).p50 + told.takes(2, LOAD).p50)
    told.arrives(request("x", 1, output_tokens_max=100))
    state = told.scheduler._state
    drain_s = Drains(state).drain([state.engines["n/m1/9"]], state.nodes["n"]).seconds
    assert drain_s > 0.0
    assert told.delay(2).p50 == pytest.approx(idle_s + drain_s)
    sleep_s = told.takes(1, SLEEP).p50
    gone = Span(sleep_s + drain_s, sleep_s + 2.0 * drain_s)  # nobody knows how long answers will be
    assert told.delay(2).p90 == pytest.approx(gone.then(told.takes(2, LOAD)).p90)
    told.arrives(request("a", 2))
    assert told.states()["n/m1/9"] == "draining"
    assert told.delay(2).p50 == pytest.approx(idle_s + drain_s)


def test_a_claim_that_has_been_made_is_what_counts() -> None:
    told = Told(node("n", 24), m1=EngineState.AWAKE, m2=EngineState.ASLEEP)
    told.arrives(request("a", 2))
    assert told.states()["n/m1/9"] == "falling_asleep"
    assert told.delay(2).p50 == pytest.approx(told.takes(1, SLEEP).p50 + told.takes(2, WAKE).p50)


def test_who_makes_room_itself_is_back_after_once_there_and_back() -> None:
    told = Told(node("n", 24), m1=EngineState.AWAKE, m2=EngineState.ASLEEP)
    told.arrives(request("a", 2))
    back = told.delay(1)
    ways_s = told.takes(1, SLEEP).p50 + told.takes(1, WAKE).p50
    assert back.p50 > 2.0 * ways_s
    assert back.p90 == 2.0 * back.p50


def test_who_was_never_there_and_has_nothing_to_hope_for_yet_is_told_a_load() -> None:
    told = Told(node("n", 24), m1=EngineState.STOPPING)
    assert told.delay(2).p50 == told.scheduler._state.settings.load_prior_s


def test_those_are_displaced_who_come_while_a_model_is_out_and_wait_for_its_way_back() -> None:
    told = Told(node("n", 24), m1=EngineState.AWAKE, m2=EngineState.ASLEEP)
    for number in range(30):
        told.arrives(request(f"x{number}", 1))
        told.finishes(f"x{number}")
        told.now += 1.0
    state = told.scheduler._state
    stay_s = state.predictor.stay(2, state.predictor.answers.span(2, -1), 1).p50
    back_s = told.takes(2, SLEEP).p50 + told.takes(1, WAKE).p50
    out_s = told.takes(2, WAKE).p50 + stay_s + back_s
    assert told.displaced_s(2) == pytest.approx(state.endpoints[1].demand.per_s(state.now) * out_s * back_s)
    assert told.displaced_s(2) > 10.0


def test_where_there_is_room_nobody_is_displaced() -> None:
    assert Told(node("n", 40), m1=EngineState.AWAKE, m2=EngineState.ASLEEP).displaced_s(2) == 0.0
