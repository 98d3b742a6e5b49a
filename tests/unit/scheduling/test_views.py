"""What policies get to see of a candidate."""

from __future__ import annotations

import pytest

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Endpoint, Mode, Priority, Tier
from logos.prediction.predictor import Predictor
from logos.prediction.service import Transition
from logos.scheduling.capacity import Refusal
from logos.scheduling.delays import Delays
from logos.scheduling.events import Candidate, EngineSeen
from logos.scheduling.policies import View
from logos.scheduling.views import Views, _likely_place
from tests.scenarios.world import World, node, pooled, remote, request

AWAKE, ASLEEP = EngineState.AWAKE, EngineState.ASLEEP


def world(*endpoints: Endpoint, room_gib: int = 24, **states: EngineState) -> World:
    made = World(*endpoints, policy="fcfs")
    engines = (EngineSeen(f"n/{model}/9", int(model[1]), (0,), state, 16 * 1024) for model, state in states.items())
    made.node_seen(node("n", room_gib), *engines)
    return made


def seen(it: World, endpoint_id: int, *, predicts: bool = False, tokens: int = 100, **candidate: float) -> View:
    view = look(it, endpoint_id, predicts=predicts, tokens=tokens, **candidate)
    assert isinstance(view, View)
    return view


def look(it: World, endpoint_id: int, *, predicts: bool, tokens: int, **candidate: float) -> View | Refusal:
    state, capacity = it.scheduler._state, it.scheduler._capacity
    views = Views(state, capacity, Delays(state, capacity._claims), predicts=predicts)
    asked = request("asked", endpoint_id, prompt_tokens=tokens, output_tokens_max=100)
    return views.of(state.endpoints[endpoint_id], Candidate(endpoint_id, 3.0, **candidate), asked)  # type: ignore[arg-type]


def test_an_awake_engine_with_room_is_warm() -> None:
    view = seen(world(pooled(1, parallel=2), m1=AWAKE), 1)
    assert (view.tier, view.weight, view.running, view.waiting, view.parallel) == (Tier.WARM, 3.0, 0, 0, 2)
    assert not view.memory_is_short


def test_an_awake_engine_without_room_is_queued() -> None:
    it = world(pooled(1, parallel=1), m1=AWAKE)
    it.arrive(request("x"), request("y"), request("z"))
    view = seen(it, 1)
    assert (view.tier, view.running, view.waiting) == (Tier.QUEUED, 1, 2)


def test_an_engine_that_is_asked_to_make_room_is_queued() -> None:
    it = world(pooled(1, parallel=2), pooled(2), m1=AWAKE)
    it.arrive(request("x", 1), request("a", 2))
    assert seen(it, 1).tier is Tier.QUEUED


def test_a_sleeping_engine_is_asleep_whether_or_not_it_has_room() -> None:
    it = world(pooled(1), pooled(2), m1=AWAKE, m2=ASLEEP)
    view = seen(it, 2)
    assert (view.tier, view.memory_is_short, view.neighbour_is_idle) == (Tier.ASLEEP, True, True)
    it.arrives(request("x", 1))
    view = seen(it, 2)
    assert (view.tier, view.memory_is_short, view.neighbour_is_idle) == (Tier.ASLEEP, True, False)
    assert not seen(world(pooled(2), m2=ASLEEP), 2).memory_is_short


def test_prompts_that_wait_for_the_same_engine_are_computed_first() -> None:
    def expected_s(tokens: int) -> float:
        it = world(pooled(1, parallel=8), pooled(2), m1=ASLEEP, m2=AWAKE)
        it.arrives(*(request(f"x{number}", 1, prompt_tokens=tokens) for number in range(3)))
        assert it.endpoint(1)["waiting"] == 3
        return seen(it, 1, predicts=True).ttft_p50_s

    token_s = Predictor().prompt_token_s(0)
    assert expected_s(4_000) > expected_s(10) + 3 * 3_990 * token_s


def test_an_engine_on_its_way_is_what_it_was() -> None:
    it = world(pooled(1), pooled(2), room_gib=40, m1=ASLEEP)
    it.arrive(request("x", 1), request("y", 2))
    assert (seen(it, 1).tier, seen(it, 2).tier) == (Tier.ASLEEP, Tier.COLD)


def test_what_is_nowhere_is_cold() -> None:
    assert seen(world(pooled(1)), 1).tier is Tier.COLD


def test_what_fits_nowhere_is_refused() -> None:
    refusal = look(world(pooled(1, gib=90)), 1, predicts=True, tokens=0)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "does_not_fit"


def test_a_remote_endpoint_shows_its_limit() -> None:
    it = world(remote(1, parallel=3, requests_per_minute=10))
    it.arrives(request("x"))
    view = seen(it, 1)
    assert (view.tier, view.running, view.parallel, view.remaining_requests) == (Tier.REMOTE, 1, 3, 9)


def test_without_prediction_nothing_is_forecast() -> None:
    view = seen(world(pooled(1), m1=ASLEEP), 1, prompt_price=5)
    assert (view.ttft_p50_s, view.ttft_p90_s, view.price, view.quality) == (0.0, 0.0, 0.0, 1.0)


def test_with_prediction_a_wake_comes_on_top() -> None:
    asleep = seen(world(pooled(1), m1=ASLEEP), 1, predicts=True)
    it = world(pooled(1), m1=AWAKE)
    warm = seen(it, 1, predicts=True)
    wake = it.scheduler._state.predictor.transition(1, "n", Transition.WAKE)
    assert asleep.ttft_p50_s == pytest.approx(warm.ttft_p50_s + wake.p50, rel=0.05)
    assert asleep.ttft_p90_s > asleep.ttft_p50_s > warm.ttft_p50_s > 0.0


def test_longer_prompts_and_longer_lines_take_longer() -> None:
    it = world(pooled(1, parallel=1), m1=AWAKE)
    empty = seen(it, 1, predicts=True)
    assert seen(it, 1, predicts=True, tokens=8000).ttft_p50_s > empty.ttft_p50_s + 1.0
    it.arrive(request("x"), request("y"))
    one_waits = seen(it, 1, predicts=True).ttft_p50_s
    it.arrive(*(request(f"z{each}") for each in range(5)))
    assert seen(it, 1, predicts=True).ttft_p50_s > one_waits > empty.ttft_p50_s


def test_what_waits_in_lower_classes_is_not_waited_for() -> None:
    it = world(pooled(1, parallel=1), m1=AWAKE)
    it.arrive(request("x"), request("y"))
    one_waits = seen(it, 1, predicts=True)
    it.arrive(*(request(f"low{each}", priority=Priority.LOW, prompt_tokens=9000) for each in range(5)))
    it.arrive(*(request(f"batch{each}", mode=Mode.BATCH, prompt_tokens=9000) for each in range(5)))
    many_wait = seen(it, 1, predicts=True)
    assert (many_wait.ttft_p50_s, many_wait.ttft_p90_s) == (one_waits.ttft_p50_s, one_waits.ttft_p90_s)
    it.arrives(request("high", priority=Priority.HIGH))
    assert seen(it, 1, predicts=True).ttft_p50_s > one_waits.ttft_p50_s


def test_the_price_is_that_of_prompt_and_expected_answer() -> None:
    view = seen(world(remote(1)), 1, predicts=True, tokens=1000, prompt_price=2_000_000, completion_price=10_000_000)
    expected = World(remote(1)).scheduler._state.predictor.answers.span(1, 1, 100).p50
    assert view.price == pytest.approx(1000 * 2 + expected * 10)


def test_a_remote_endpoint_at_its_limit_is_a_delay() -> None:
    it = world(remote(1, requests_per_minute=1))
    free = seen(it, 1, predicts=True)
    it.arrives(request("x"))
    it.passes(20.0)
    it.arrives(request("y"))
    assert seen(it, 1, predicts=True).ttft_p50_s >= free.ttft_p50_s + 39.0


def test_with_two_engines_twice_as_many_may_run_at_once() -> None:
    it = World(pooled(1, parallel=4, replicas=(0, 2)), policy="fcfs")
    it.node_seen(node("n", 16, 16), *(EngineSeen(f"n/m1/{gpu}", 1, (gpu,), AWAKE, 16 * 1024) for gpu in (0, 1)))
    assert seen(it, 1).parallel == 8


@pytest.mark.parametrize("parallel", [1, 4])
def test_a_request_is_expected_where_the_beginning_of_its_prompt_is_held_if_there_is_room(parallel: int) -> None:
    it = World(pooled(1, parallel=parallel, replicas=(0, 2)), policy="fcfs")
    it.node_seen(node("n", 16, 16), *(EngineSeen(f"n/m1/{gpu}", 1, (gpu,), AWAKE, 16 * 1024) for gpu in (0, 1)))
    endpoint, shared = it.scheduler._state.endpoints[1], {"prefix": 7, "prefix_tokens": 900, "prompt_tokens": 1000}
    it.arrives(request("a", **shared))
    holder = it.scheduler._state.tickets["a"].place
    likely = _likely_place(endpoint, request("b", **shared))
    assert (likely.place == holder) == (parallel > 1)
    assert _likely_place(endpoint, request("c")).place != holder
