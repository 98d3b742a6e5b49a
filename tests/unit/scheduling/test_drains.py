"""How long running requests will run, and waiting ones would."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Place
from logos.prediction.service import Transition
from logos.scheduling.drains import (
    JUDGED_FOR_S,
    RUNNING_UPPER,
    WAITING_UPPER,
    Batch,
    Drain,
    Drains,
    Leaving,
    Stay,
    between,
)
from logos.scheduling.events import EngineSeen, FirstToken
from logos.scheduling.nodes import Engine
from logos.scheduling.state import State
from tests.scenarios.world import World, node, pooled, request

GIB = 1024
LEAVES_S = 5.0
ENGINE_ID, OTHER_ID, THIRD_ID = "n/m1/1", "n/m2/2", "n/m3/3"


def running(*tokens: int) -> tuple[World, State, Engine]:
    """An engine that runs requests of at most so many tokens."""
    world = World(pooled(1, parallel=8), policy="slo")
    world.node_seen(node("n", 24), EngineSeen(ENGINE_ID, 1, (0,), EngineState.AWAKE, 16 * GIB))
    world.arrive(*(request(f"r{number}", output_tokens_max=each) for number, each in enumerate(tokens)))
    state = world.scheduler._state
    return world, state, state.engines[ENGINE_ID]


def answer(state: State, allowed: int | None = None, key_id: int = 1) -> float:
    """Tokens of one that runs."""
    return between(state.predictor.answers.span(1, key_id, allowed), RUNNING_UPPER)


def drain_s(state: State, engines: Sequence[Engine]) -> float:
    return Drains(state).drain(engines, state.nodes["n"]).seconds


def gone_s(state: State, engines: Sequence[Engine]) -> float:
    return Drains(state).drain(engines, state.nodes["n"]).gone_s


def pace(state: State) -> tuple[float, float]:
    """Seconds for a step, and for each sequence in it."""
    one, two = (state.predictor.tpot(1, each).p50 for each in (1, 2))
    return 2.0 * one - two, two - one


# What runs.


def test_what_runs_nothing_has_drained() -> None:
    _, state, engine = running()
    assert drain_s(state, [engine]) == 0.0
    assert drain_s(state, []) == 0.0


def test_an_engine_without_a_place_has_drained() -> None:
    _, state, engine = running()
    del state.endpoints[1].places[Place(1, ENGINE_ID)]
    assert drain_s(state, [engine]) == 0.0


def test_it_takes_a_step_for_each_token_of_the_longest_and_a_little_for_each_token_of_all() -> None:
    _, state, engine = running(100, 1000, 10)
    step_s, sequence_s = pace(state)
    longest, total = answer(state, 1000), sum(answer(state, each) for each in (100, 1000, 10))
    assert drain_s(state, [engine]) == pytest.approx(step_s * longest + sequence_s * total)


def test_prompts_that_are_still_computed_take_their_time() -> None:
    world, state, engine = running()
    world.arrives(request("short", output_tokens_max=10))
    before = drain_s(state, [engine])
    world, state, engine = running()
    world.arrives(request("long", output_tokens_max=10, prompt_tokens=5000))
    token_s, pair_s = state.predictor.prompt_cost_s(1)
    more_s = drain_s(state, [engine]) - before
    assert more_s > 0.9 * 4000 * token_s
    assert pair_s >= 0.0
    state.now += more_s
    assert drain_s(state, [engine]) == pytest.approx(before, rel=0.2)


def test_tokens_that_have_come_are_not_waited_for_again() -> None:
    world, state, engine = running(1000)
    before = drain_s(state, [engine])
    world.starts("r0")
    world.hears(FirstToken(world.now, "r0", 0.1))
    world.now += before / 2
    world.hears(FirstToken(world.now, "r0"))  # time passes in the core; a second one changes nothing
    assert 0.0 < drain_s(state, [engine]) < 0.75 * before


def test_what_takes_longer_than_expected_still_needs_a_token() -> None:
    world, state, engine = running(10)
    world.starts("r0")
    world.hears(FirstToken(world.now, "r0", 0.1))
    world.now += 500.0
    world.hears(FirstToken(world.now, "r0"))
    assert drain_s(state, [engine]) == pytest.approx(state.predictor.tpot(1, 1).p50)


def test_what_was_worked_out_stands_for_a_moment() -> None:
    world, state, engine = running(1000)
    world.starts("r0")
    world.hears(FirstToken(world.now, "r0", 0.1))
    first = drain_s(state, [engine])
    state.now += JUDGED_FOR_S * 0.9
    assert drain_s(state, [engine]) == first
    state.now += JUDGED_FOR_S
    assert drain_s(state, [engine]) < first
    assert world.now < state.now


def test_of_what_runs_under_a_lease_the_length_is_that_of_anybodys_answers() -> None:
    world, state, engine = running(10)
    world.gateway_seen("g2", running=(("y", Place(1, ENGINE_ID)),))
    step_s, sequence_s = pace(state)
    longest, total = answer(state, key_id=-1), answer(state, key_id=-1) + answer(state, 10)
    assert drain_s(state, [engine]) == pytest.approx(step_s * longest + sequence_s * total)


def test_a_busy_neighbour_slows_what_drains_and_one_that_drains_with_it_until_it_has() -> None:
    world = World(*(pooled(each, parallel=8) for each in (1, 2)), policy="slo")
    engines = (
        EngineSeen(each, number, (0,), EngineState.AWAKE, 16 * GIB) for number, each in ((1, ENGINE_ID), (2, OTHER_ID))
    )
    world.node_seen(node("n", 40), *engines)
    world.arrive(request("long", 1, output_tokens_max=1000), request("short", 2, output_tokens_max=100))
    state = world.scheduler._state
    long, short = (state.engines[each] for each in (ENGINE_ID, OTHER_ID))
    slowdown = state.predictor.tpot(1, 1, 1).p50 / state.predictor.tpot(1, 1).p50
    alone_s = slowdown_free(state, 1000)
    assert slowdown > 1.1
    assert drain_s(state, [long]) == pytest.approx(slowdown * alone_s)
    extra_s = (slowdown - 1.0) * slowdown_free(state, 100)
    assert drain_s(state, [long, short]) == pytest.approx(alone_s + extra_s)


def slowdown_free(state: State, allowed: int) -> float:
    """Seconds for one answer, alone in its batch and on its GPU."""
    return sum(pace(state)) * answer(state, allowed)


# What may join.


def batch(longest: float = 0.0, *, slowdown: float = 1.5, is_beside: bool = False) -> Batch:
    made = Batch(0.03, 0.002, slowdown, is_beside)
    if longest:
        made.add(Stay(longest))
    return made


def together(*batches: Batch, at_once: int | None = 1, under_way: Sequence[tuple[float, float]] = ()) -> Drain:
    ids = [str(number) for number, _ in enumerate(batches)]
    return Drain(dict(zip(ids, batches, strict=True)), [ids], Leaving(at_once, dict.fromkeys(ids, LEAVES_S), under_way))


def test_who_ends_before_the_longest_costs_only_a_place_in_the_batch() -> None:
    drain = together(batch(100.0))
    before = drain.seconds
    drain.add("0", Stay(50.0))
    assert drain.seconds == pytest.approx(before + 0.002 * 50.0)
    drain.add("0", Stay(150.0, prompt_s=0.4))
    assert drain.seconds == pytest.approx(before + 0.002 * 200.0 + 0.03 * 50.0 + 0.4)


def test_what_joins_one_engine_slows_the_other_for_as_long_as_it_stays() -> None:
    drain = together(batch(100.0), batch())
    assert drain.seconds == pytest.approx(3.2)
    drain.add("1", Stay(50.0))
    assert drain.seconds == pytest.approx(3.2 + 0.5 * 1.6)


def test_what_stays_longest_has_the_gpus_to_itself_at_the_end() -> None:
    assert together(batch(100.0), batch(300.0)).seconds == pytest.approx(1.5 * 3.2 + 6.4)


def test_a_busy_engine_that_does_not_drain_slows_them_to_the_end() -> None:
    assert together(batch(100.0, is_beside=True)).seconds == pytest.approx(1.5 * 3.2)
    both = (batch(100.0, is_beside=True), batch(300.0, is_beside=True))
    assert together(*both).seconds == pytest.approx(1.5 * 9.6)


def test_who_is_last_is_slowed_by_its_own_slowdown_until_the_last_but_one_has_drained() -> None:
    """3.2 s alone take 6.4 beside others, 3.5 take 4.4: in 6.4 s beside it, the other would have done all its work."""
    short, long = batch(100.0, slowdown=2.0), batch(110.0, slowdown=1.25)
    assert together(short, long).seconds == pytest.approx(3.2 + 1.25 * 3.52 * 0.5)
    assert together(long, short).seconds == together(short, long).seconds


@pytest.mark.parametrize("seed", range(20))
def test_what_joins_never_makes_a_drain_shorter(seed: int) -> None:
    chance = random.Random(seed)
    drain = together(*(batch(slowdown=chance.uniform(1.0, 3.0), is_beside=chance.random() < 0.2) for _ in range(3)))
    seconds, gone_s = [0.0], [3 * LEAVES_S]
    for _ in range(60):
        drain.add(str(chance.randrange(3)), Stay(chance.uniform(1.0, 400.0), chance.choice([0.0, 0.5])))
        seconds.append(drain.seconds)
        gone_s.append(drain.gone_s)
    assert seconds == sorted(seconds)
    assert seconds[-1] > seconds[0]
    assert gone_s == sorted(gone_s)


def test_engines_on_other_gpus_drain_at_their_own_pace() -> None:
    batches = {"a": batch(100.0), "b": batch(300.0)}
    assert Drain(batches, [["a"], ["b"]], Leaving(None, {"a": 1.0, "b": 1.0})).seconds == pytest.approx(9.6)


# Until they have left.


def test_they_leave_one_by_one() -> None:
    assert together(batch(), batch()).gone_s == pytest.approx(2 * LEAVES_S)
    alone = together(batch(100.0))
    assert alone.gone_s == pytest.approx(alone.seconds + LEAVES_S)


def test_who_has_drained_leaves_while_the_other_still_runs() -> None:
    drain = together(batch(100.0), batch())
    assert drain.gone_s == pytest.approx(LEAVES_S + LEAVES_S)  # 3.2 s, which the other's leaving covers
    drain.add("0", Stay(200.0))
    assert drain.seconds > LEAVES_S
    assert drain.gone_s == pytest.approx(drain.seconds + LEAVES_S)


def test_what_is_covered_is_a_sleep_or_as_much_of_it_as_the_others_run() -> None:
    assert together(batch(100.0), batch()).covered_s == pytest.approx(3.2)
    assert together(batch(1000.0), batch()).covered_s == pytest.approx(LEAVES_S)
    assert together(batch(1000.0), batch(), batch()).covered_s == pytest.approx(2 * LEAVES_S)
    assert together(batch(1000.0), batch(), at_once=None).covered_s == 0.0
    assert together(batch(1000.0)).covered_s == 0.0


def test_it_matters_who_drains_first_where_leaving_takes_longer() -> None:
    leaves_s = {"a": 1.0, "b": 9.0}
    for first, gone_s in (("a", 3.2 + 9.0), ("b", 9.0 + 1.0)):
        batches = {each: batch(0.0 if each == first else 100.0) for each in ("a", "b")}
        assert Drain(batches, [["a", "b"]], Leaving(1, leaves_s)).gone_s == pytest.approx(gone_s)


def test_nobody_leaves_before_the_node_is_through_with_what_it_is_at() -> None:
    under_way = [(-10.0, 20.0), (-10.0, 20.0)]  # the second waits for its turn
    assert together(batch(100.0), under_way=under_way).gone_s == pytest.approx(30.0 + LEAVES_S)
    assert together(batch(1000.0), under_way=under_way).gone_s == pytest.approx(32.0 + LEAVES_S)
    assert together(batch(100.0), under_way=under_way, at_once=2).gone_s == pytest.approx(10.0 + LEAVES_S)


def test_where_a_node_takes_no_turns_they_leave_side_by_side() -> None:
    assert together(batch(), batch(), at_once=None).gone_s == pytest.approx(LEAVES_S)
    assert together(batch(), batch(), at_once=2).gone_s == pytest.approx(LEAVES_S)
    long = together(batch(100.0), batch(), at_once=None)
    assert long.gone_s == pytest.approx(long.seconds + LEAVES_S)
    assert together(batch(), batch(), batch(), at_once=2).gone_s == pytest.approx(2 * LEAVES_S)


def test_a_node_is_busy_for_as_long_as_engines_are_still_falling_asleep() -> None:
    """m2 began 1 s before m3 did, which waits for it."""
    world = World(*(pooled(each, parallel=8) for each in (1, 2, 3)), policy="slo")
    engines = {ENGINE_ID: EngineState.AWAKE, THIRD_ID: EngineState.FALLING_ASLEEP, OTHER_ID: EngineState.FALLING_ASLEEP}
    seen = (EngineSeen(each, int(each[3]), (0,), state, 16 * GIB) for each, state in engines.items())
    world.node_seen(replace(node("n", 60), transitions_at_once=1), *seen)
    state = world.scheduler._state
    state.engines[OTHER_ID].since = state.now - 1.0
    one, two, three = (state.predictor.transition(each, "n", Transition.SLEEP).p50 for each in (1, 2, 3))
    engine = state.engines[ENGINE_ID]
    assert gone_s(state, [engine]) == pytest.approx(two - 1.0 + three + one)
    state.now += two - 1.0
    assert gone_s(state, [engine]) == pytest.approx(three + one)
    state.now += 2.0 * two
    assert gone_s(state, [engine]) == pytest.approx(one)
    assert gone_s(state, []) == 0.0


def test_an_engine_between_two_others_makes_neighbours_of_them_in_any_order() -> None:
    """m3 is on both GPUs, m1 and m2 on one each."""
    world = World(*(pooled(each) for each in (1, 2)), pooled(3, gpus=2), policy="slo")
    gpus = {ENGINE_ID: (0,), OTHER_ID: (1,), THIRD_ID: (0, 1)}
    engines = (
        EngineSeen(each, number, gpus[each], EngineState.AWAKE, 16 * GIB) for number, each in enumerate(gpus, start=1)
    )
    world.node_seen(node("n", 40, 40), *engines)
    world.arrive(*(request(str(each), each, output_tokens_max=500) for each in (1, 2)))
    state = world.scheduler._state
    one, two, both = (state.engines[each] for each in gpus)
    apart_s = drain_s(state, [one, two])
    orders = ([one, two, both], [both, two, one], [one, both, two])
    found = {round(drain_s(state, order), 9) for order in orders}
    assert len(found) == 1
    assert found.pop() > apart_s


# What waits.


def test_a_waiting_request_stays_for_its_prompt_and_its_answer() -> None:
    world = World(pooled(1), policy="slo")
    world.node_seen(node("n", 24), EngineSeen(ENGINE_ID, 1, (0,), EngineState.ASLEEP, 16 * GIB))
    world.arrive(request("short", output_tokens_max=100), request("long", output_tokens_max=100, prompt_tokens=5000))
    state = world.scheduler._state
    engine, drains = state.engines[ENGINE_ID], Drains(state)
    short, long = (drains.stay(state.waiting[each], engine) for each in ("short", "long"))
    assert short.tokens == long.tokens == between(state.predictor.answers.span(1, 1, 100), WAITING_UPPER)
    assert short.seconds(0.05) == pytest.approx(short.prompt_s + short.tokens * 0.05)
    tokens = state.waiting["long"].uncached_tokens - state.waiting["short"].uncached_tokens
    assert long == replace(short, prompt_s=pytest.approx(short.prompt_s + tokens * state.predictor.prompt_token_s(1)))


def test_a_larger_batch_is_slower() -> None:
    _, state, engine = running(10, 10)
    drains = Drains(state)
    assert drains.token_s(engine, 6) > drains.token_s(engine) > 0.0
    assert drains.token_s(engine) == state.predictor.tpot(1, 2).p50
