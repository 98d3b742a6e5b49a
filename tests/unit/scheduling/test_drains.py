"""How long running requests will run, and waiting ones would."""

from __future__ import annotations

import pytest

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Place
from logos.scheduling.drains import JUDGED_FOR_S, RUNNING_UPPER, WAITING_UPPER, Drains, between
from logos.scheduling.events import EngineSeen, FirstToken
from logos.scheduling.nodes import Engine
from logos.scheduling.state import State
from tests.scenarios.world import World, node, pooled, request

ENGINE_ID = "n/m1/1"


def running(*tokens: int) -> tuple[World, State, Engine]:
    """An engine that runs requests of at most so many tokens."""
    world = World(pooled(1, parallel=8), policy="slo")
    world.node_seen(node("n", 24), EngineSeen(ENGINE_ID, 1, (0,), EngineState.AWAKE, 16 * 1024))
    world.arrive(*(request(f"r{number}", output_tokens_max=each) for number, each in enumerate(tokens)))
    state = world.scheduler._state
    return world, state, state.engines[ENGINE_ID]


def test_what_runs_nothing_has_drained() -> None:
    _, state, engine = running()
    assert Drains(state).drain_s(engine) == 0.0


def test_an_engine_without_a_place_has_drained() -> None:
    _, state, engine = running()
    del state.endpoints[1].places[Place(1, ENGINE_ID)]
    assert Drains(state).drain_s(engine) == 0.0


def test_it_takes_as_long_as_the_longest_that_runs() -> None:
    _, state, engine = running(100, 1000, 10)
    tokens = state.predictor.answers.span(1, 1, 1000)
    per_token_s = state.predictor.tpot(1, 3).p50
    assert Drains(state).drain_s(engine) == pytest.approx(between(tokens, RUNNING_UPPER) * per_token_s)


def test_tokens_that_have_come_are_not_waited_for_again() -> None:
    world, state, engine = running(1000)
    before = Drains(state).drain_s(engine)
    world.starts("r0")
    world.hears(FirstToken(world.now, "r0", 0.1))
    world.now += before / 2
    world.hears(FirstToken(world.now, "r0"))  # time passes in the core; a second one changes nothing
    assert 0.0 < Drains(state).drain_s(engine) < 0.75 * before


def test_what_takes_longer_than_expected_still_needs_a_token() -> None:
    world, state, engine = running(10)
    world.starts("r0")
    world.hears(FirstToken(world.now, "r0", 0.1))
    world.now += 500.0
    world.hears(FirstToken(world.now, "r0"))
    assert Drains(state).drain_s(engine) == pytest.approx(state.predictor.tpot(1, 1).p50)


def test_what_was_worked_out_stands_for_a_moment() -> None:
    world, state, engine = running(1000)
    first = Drains(state).drain_s(engine)
    state.now += JUDGED_FOR_S * 0.9
    assert Drains(state).drain_s(engine) == pytest.approx(first - JUDGED_FOR_S * 0.9)
    state.now += JUDGED_FOR_S
    assert Drains(state).drain_s(engine) == pytest.approx(first)  # not a token has come
    assert world.now < state.now


def test_of_what_runs_under_a_lease_the_length_is_that_of_anybodys_answers() -> None:
    world, state, engine = running(10)
    world.gateway_seen("g2", running=(("y", Place(1, ENGINE_ID)),))
    tokens = state.predictor.answers.span(1, -1)
    expected_s = between(tokens, RUNNING_UPPER) * state.predictor.tpot(1, 2).p50
    assert Drains(state).drain_s(engine) == pytest.approx(expected_s)


def test_a_waiting_request_stays_for_its_prompt_and_its_answer() -> None:
    world = World(pooled(1), policy="slo")
    world.node_seen(node("n", 24), EngineSeen(ENGINE_ID, 1, (0,), EngineState.ASLEEP, 16 * 1024))
    world.arrive(request("short", output_tokens_max=100), request("long", output_tokens_max=100, prompt_tokens=5000))
    state = world.scheduler._state
    engine, drains = state.engines[ENGINE_ID], Drains(state)
    short, long = (drains.stay_s(state.waiting[each], engine, 0.05) for each in ("short", "long"))
    assert short == pytest.approx(between(state.predictor.answers.span(1, 1, 100), WAITING_UPPER) * 0.05)
    assert long == pytest.approx(short + 5000 * state.predictor.prompt_token_s(1))


def test_a_larger_batch_is_slower() -> None:
    _, state, engine = running(10, 10)
    drains = Drains(state)
    assert drains.token_s(engine, 6) > drains.token_s(engine) > 0.0
    assert drains.token_s(engine) == state.predictor.tpot(1, 2).p50
