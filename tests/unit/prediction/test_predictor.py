from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from logos.domain.nouns import EngineSpec
from logos.prediction.lengths import KEYS_MAX
from logos.prediction.pace import LEARN_ALL, LEARN_ONE_IN, Forecast, Situation
from logos.prediction.predictor import Predictor, PredictorSnapshot
from logos.prediction.service import Transition
from logos.prediction.spans import AT_ONCE, LONGEST_S, Span

NODE = "n1"
NONSENSE = st.one_of(
    st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 1e308, 10**30, -(10**30)]), st.floats(), st.integers()
)
COUNTS = st.integers(0, 200)
TOKENS = st.integers(0, 20_000)
SECONDS = st.floats(0.0, 100.0)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    prompt = draw(TOKENS)
    waiting = draw(COUNTS)
    return Situation(
        prompt,
        draw(st.integers(0, prompt)),
        draw(COUNTS),
        draw(st.integers(1, 128)),
        waiting,
        draw(TOKENS) if waiting else 0,
        draw(TOKENS),
        draw(SECONDS),
        draw(st.floats(0.0, 1.0)),
        draw(COUNTS),
        draw(st.floats(0.0, 1e9)),
        draw(st.sampled_from([AT_ONCE, Span(0.5, 0.8), Span(40.0, 60.0)])),
    )


@st.composite
def senseless_situations(draw: st.DrawFn) -> Situation:
    figures: Any = [draw(NONSENSE) for _ in Situation._fields[:-1]]
    return Situation(*figures, Span(draw(NONSENSE), draw(NONSENSE)))


HISTORIES = st.lists(st.tuples(situations(), SECONDS), max_size=40)


def predictor_after(history: list[tuple[Situation, float]]) -> Predictor:
    predictor = Predictor()
    predictor.introduce(1, EngineSpec(1, 16_800))
    for met, seconds in history:
        predictor.observe_first_token(1, met, seconds)
        predictor.observe_finished(1, met, 100, seconds, seconds + 4.0)
    return predictor


def forecast(predictor: Predictor, met: Situation, endpoint_id: int = 1) -> Forecast:
    return predictor.forecast(endpoint_id, met)


def assert_sensible(seen: Forecast) -> None:
    assert 0.0 <= seen.ttft_p50_s <= seen.ttft_p90_s <= LONGEST_S


def test_the_first_request_of_a_larger_model_is_expected_to_take_longer() -> None:
    predictor = Predictor()
    predictor.introduce(1, EngineSpec(1, 8_000))
    predictor.introduce(2, EngineSpec(1, 80_000))
    small, large = predictor.score([(1, Situation(500, 500)), (2, Situation(500, 500))])
    assert 0.0 < small.ttft_p50_s < large.ttft_p50_s < 10.0
    assert 0.0 < predictor.tpot(1, 1).p50 < predictor.tpot(2, 1).p50
    for each in Transition:
        assert predictor.transition(1, NODE, each) <= predictor.transition(2, NODE, each)


def test_an_endpoint_that_nobody_introduced_is_remote() -> None:
    known, unknown = Predictor(), Predictor()
    known.introduce(1, None)
    assert forecast(known, Situation(10, 10)) == forecast(unknown, Situation(10, 10))


def test_forecasts_come_in_the_order_of_the_candidates() -> None:
    predictor = predictor_after([])
    asked = [(1, Situation(5_000, 5_000)), (2, Situation(5, 5)), (1, Situation(50, 50))]
    assert predictor.score(asked) == [forecast(predictor, met, endpoint_id) for endpoint_id, met in asked]


def test_what_came_is_what_is_expected() -> None:
    met = Situation(800, 800, 5, 32)
    predictor = predictor_after([(met, 0.25)] * 60)
    assert forecast(predictor, met).ttft_p50_s == pytest.approx(0.25, rel=0.02)
    assert predictor.tpot(1, 6).p50 == pytest.approx(4.0 / 99, rel=0.02)


def well_known(met: Situation, seconds: float) -> Predictor:
    """An endpoint that has given so many answers that a sample of them will do."""
    chance = random.Random(1)
    return predictor_after([(met, seconds * chance.uniform(0.9, 1.1)) for _ in range(LEARN_ALL + 100)])


def test_of_a_well_known_endpoint_one_answer_in_four_is_learned_from() -> None:
    met = Situation(800, 800, 5, 32)
    predictor, changes = well_known(met, 0.25), Counter[str]()
    for number in range(80):
        before = predictor.snapshot().paces[0]
        predictor.observe_first_token(1, met, 0.24 if number % 2 else 0.26)
        predictor.observe_finished(1, met, 100, 0.25, 4.25)
        after = predictor.snapshot().paces[0]
        changes["first"] += after.first != before.first
        changes["next"] += after.next != before.next
        changes["drift"] += after.drift != before.drift
    assert changes == {"first": 80 / LEARN_ONE_IN, "next": 80 / LEARN_ONE_IN, "drift": 80}


def test_a_well_known_endpoint_that_becomes_four_times_as_slow_is_followed_at_once() -> None:
    met = Situation(800, 800, 5, 32)
    predictor = well_known(met, 0.25)
    before_s = predictor.tpot(1, 6).p50
    for _ in range(80):
        predictor.observe_first_token(1, met, 1.0)
        predictor.observe_finished(1, met, 100, 1.0, 17.0)
    assert forecast(predictor, met).ttft_p50_s == pytest.approx(1.0, rel=0.1)
    assert predictor.tpot(1, 6).p50 > 3 * before_s


def test_prompts_ahead_count_and_what_is_done_of_them_does_not() -> None:
    predictor = predictor_after([])
    alone = forecast(predictor, Situation(100, 100, 4)).ttft_p50_s
    behind = forecast(predictor, Situation(100, 100, 4, prefill_tokens=4_000)).ttft_p50_s
    half_done = forecast(predictor, Situation(100, 100, 4, prefill_tokens=4_000, prefill_elapsed_s=1.0)).ttft_p50_s
    long_done = forecast(predictor, Situation(100, 100, 4, prefill_tokens=4_000, prefill_elapsed_s=99.0)).ttft_p50_s
    assert alone == pytest.approx(long_done)
    assert long_done < half_done == pytest.approx(behind - 1.0)


def test_a_long_prompt_ahead_is_longer_than_as_many_tokens_in_short_ones() -> None:
    """Where attention is dear, which is learned from prompts of all lengths."""
    predictor = Predictor()
    predictor.introduce(1, EngineSpec(1, 1_024))
    chance = random.Random(1)
    for _ in range(300):
        tokens = chance.randrange(10, 8_000)
        predictor.observe_first_token(1, Situation(tokens, tokens), 0.005 + 5e-6 * tokens + 5e-9 * tokens**2 / 2)
    one, many = (
        forecast(predictor, Situation(10, 10, 4, prefill_tokens=8_000, prefill_pairs=pairs)).ttft_p50_s
        for pairs in (8_000**2 / 2, 8 * 1_000**2 / 2)
    )
    assert one == pytest.approx(0.205, rel=0.1)
    assert many == pytest.approx(0.065, rel=0.15)


def test_a_full_batch_costs_the_time_until_somebody_leaves() -> None:
    predictor = predictor_after([])
    room, full = Situation(100, 100, 7, slots=8), Situation(100, 100, 8, slots=8)
    behind_others = Situation(100, 100, 8, slots=8, waiting=8)
    assert forecast(predictor, full).ttft_p50_s > 2 * forecast(predictor, room).ttft_p50_s
    assert forecast(predictor, behind_others).ttft_p50_s > 4 * forecast(predictor, full).ttft_p50_s


def test_who_waits_ahead_is_computed_first_as_far_as_the_batch_has_room() -> None:
    predictor = predictor_after([])

    def ttft_s(slots: int, queued_tokens: int) -> float:
        met = Situation(100, 100, slots=slots, waiting=10, queued_tokens=queued_tokens)
        return forecast(predictor, met).ttft_p50_s

    all_s, half_s = (ttft_s(slots, 8_000) - ttft_s(slots, 0) for slots in (64, 5))
    assert all_s == pytest.approx(8_000 * predictor.prompt_token_s(1))
    assert half_s == pytest.approx(all_s / 2)


def test_a_delay_comes_on_top_with_its_own_uncertainty() -> None:
    predictor = predictor_after([])
    at_once, delayed = (forecast(predictor, Situation(100, 100, delay=each)) for each in (AT_ONCE, Span(40.0, 60.0)))
    assert delayed.ttft_p50_s == pytest.approx(at_once.ttft_p50_s + 40.0)
    assert 60.0 < delayed.ttft_p90_s < at_once.ttft_p90_s + 60.0


def test_what_met_a_delay_teaches_nothing_about_the_pace() -> None:
    met = Situation(100, 100, delay=Span(40.0, 60.0))
    assert predictor_after([]).snapshot() != predictor_after([(met._replace(delay=AT_ONCE), 3.0)]).snapshot()
    predictor = predictor_after([])
    before = predictor.snapshot()
    predictor.observe_first_token(1, met, 43.0)
    assert predictor.snapshot() == before


def test_a_busy_neighbour_is_learned_as_a_slowdown() -> None:
    chance = random.Random(4)
    predictor = predictor_after([])
    for _ in range(600):
        tokens = chance.randrange(100, 4_000)
        neighbours = chance.randrange(2)
        seconds = (0.03 + 0.0004 * tokens) * (1.6 if neighbours else 1.0) * chance.uniform(0.95, 1.05)
        predictor.observe_first_token(1, Situation(tokens, tokens, neighbours=neighbours), seconds)
    alone, beside = (forecast(predictor, Situation(1_000, 1_000, neighbours=each)).ttft_p50_s for each in (0, 1))
    assert alone == pytest.approx(0.43, rel=0.05)
    assert beside / alone == pytest.approx(1.6, rel=0.05)


def test_an_engine_that_becomes_twice_as_slow_is_followed_within_forty_requests() -> None:
    chance = random.Random(7)
    predictor = predictor_after([])
    for each in range(340):
        tokens = chance.randrange(100, 4_000)
        seconds = (0.03 + 0.0004 * tokens) * (2.0 if each >= 300 else 1.0) * chance.uniform(0.9, 1.1)
        predictor.observe_first_token(1, Situation(tokens, tokens), seconds)
    assert forecast(predictor, Situation(1_000, 1_000)).ttft_p50_s == pytest.approx(0.86, rel=0.1)


def test_an_endpoint_that_is_forgotten_or_changes_its_size_starts_again() -> None:
    met = Situation(800, 800)
    fresh = forecast(predictor_after([]), met)
    predictor = predictor_after([(met, 9.0)] * 20)
    predictor.observe_transition(1, NODE, Transition.WAKE, 9.0)
    predictor.introduce(1, EngineSpec(1, 16_800))
    assert forecast(predictor, met) != fresh
    predictor.introduce(1, EngineSpec(2, 33_600, host_memory_mib=9_000))
    predictor.introduce(1, EngineSpec(1, 16_800))
    assert forecast(predictor, met) == fresh
    predictor.observe_transition(1, NODE, Transition.WAKE, 9.0)
    predictor.forget(1)
    assert predictor.snapshot().paces == ()
    assert {each.endpoint_id for each in predictor.snapshot().transitions} == {None}


def test_how_long_a_request_stays_follows_its_tokens_and_the_batch() -> None:
    predictor = predictor_after([])
    short, long = (predictor.stay(1, each, 4) for each in (Span(10.0, 20.0), Span(100.0, 200.0)))
    assert long.p50 == pytest.approx(10 * short.p50)
    assert short.p50 < short.p90
    assert predictor.stay(1, Span(10.0, 20.0), 40).p50 > short.p50


@given(HISTORIES, situations(), st.integers(0, 5_000))
def test_more_prompt_tokens_never_predict_less(
    history: list[tuple[Situation, float]], met: Situation, more: int
) -> None:
    predictor = predictor_after(history)
    longer = met._replace(prompt_tokens=met.prompt_tokens + more, uncached_tokens=met.uncached_tokens + more)
    less, most = forecast(predictor, met), forecast(predictor, longer)
    assert less.ttft_p50_s <= most.ttft_p50_s * (1 + 1e-9)
    assert less.ttft_p90_s <= most.ttft_p90_s * (1 + 1e-9)


@given(HISTORIES, situations())
@example(  # all of the prompt in flight is done, and what is left of it came out as -2e-19 s
    [(Situation(0, 0), 0.0), (Situation(0, 0, prefill_tokens=1), 0.0)],
    Situation(0, 0, prefill_tokens=1, prefill_elapsed_s=1.0, neighbours=1),
)
def test_forecasts_are_finite_and_their_quantiles_do_not_cross(
    history: list[tuple[Situation, float]], met: Situation
) -> None:
    assert_sensible(forecast(predictor_after(history), met))


@given(HISTORIES, senseless_situations())
def test_nonsense_asked_gives_a_forecast_all_the_same(history: list[tuple[Situation, float]], met: Situation) -> None:
    assert_sensible(forecast(predictor_after(history), met))


@pytest.mark.parametrize("running", [-1, -50, 10**12, math.nan, -math.inf])
def test_a_batch_that_cannot_be_has_a_pace_all_the_same(running: Any) -> None:
    for met in (Situation(4_000, 4_000, running), Situation(4_000, 4_000, running, neighbours=1)):
        assert_sensible(forecast(predictor_after([]), met))


@given(st.lists(st.tuples(senseless_situations(), NONSENSE, NONSENSE), max_size=20), HISTORIES, situations())
def test_nonsense_told_never_poisons(
    told: list[tuple[Situation, float, Any]], history: list[tuple[Situation, float]], met: Situation
) -> None:
    predictor = predictor_after(history)
    for senseless, seconds, number in told:
        predictor.observe_first_token(1, senseless, seconds)
        predictor.observe_first_token(1, met, seconds if not 0 <= seconds < math.inf else -1.0)
        predictor.observe_finished(1, senseless, number, seconds, seconds)
        predictor.observe_transition(1, NODE, Transition.LOAD, seconds)
        predictor.answers.observe(1, 1, number, number)
    assert_sensible(forecast(predictor, met))
    for span in (predictor.transition(1, NODE, Transition.LOAD), predictor.answers.span(1, 1, 500)):
        assert 0.0 <= span.p50 <= span.p90 < math.inf


def test_what_cannot_have_been_measured_changes_nothing() -> None:
    met = Situation(100, 100)
    predictor = predictor_after([(met, 0.2)] * 5)
    before = predictor.snapshot()
    for seconds in (math.nan, math.inf, -math.inf, -1.0, 1e9):
        predictor.observe_first_token(1, met, seconds)
        predictor.observe_finished(1, met, 10, 0.1, seconds)
        predictor.observe_transition(1, NODE, Transition.WAKE, seconds)
    predictor.observe_first_token(1, met._replace(running=-1), 0.2)
    predictor.observe_first_token(1, met._replace(prefill_elapsed_s=math.nan), 0.2)
    predictor.observe_finished(1, met, 10, 5.0, 4.0)
    predictor.answers.observe(1, 1, 0, 100)
    assert predictor.snapshot() == before


@settings(max_examples=20)
@given(HISTORIES, st.lists(situations(), min_size=1, max_size=5))
def test_a_snapshot_read_back_from_json_forecasts_identically(
    history: list[tuple[Situation, float]], asked: list[Situation]
) -> None:
    predictor = predictor_after(history)
    for each, (met, seconds) in enumerate(history):
        predictor.observe_transition(1 + each % 2, NODE, Transition.WAKE, seconds)
        predictor.answers.observe(1, each % 3, 1 + met.prompt_tokens, 1 + met.waiting)
    written = msgspec.json.encode(predictor.snapshot())
    restored = Predictor(msgspec.json.decode(written, type=PredictorSnapshot))
    assert restored.score([(1, met) for met in asked]) == predictor.score([(1, met) for met in asked])
    assert restored.snapshot() == predictor.snapshot()
    for met, seconds in history:
        for each in (predictor, restored):
            each.observe_first_token(1, met, seconds)
            each.observe_transition(1, NODE, Transition.WAKE, seconds)
            each.answers.observe(1, 0, 1 + met.prompt_tokens)
    assert restored.snapshot() == predictor.snapshot()


def test_memory_is_bounded_however_much_is_told() -> None:
    def size_after(requests: int) -> int:
        chance = random.Random(6)
        predictor = Predictor()
        for each in range(requests):
            endpoint_id = 1 + each % 3
            tokens = chance.randrange(10, 4_000)
            met = Situation(tokens, tokens, chance.randrange(20), waiting=chance.randrange(40))
            predictor.observe_first_token(endpoint_id, met, 1.0 + chance.random())
            predictor.observe_finished(endpoint_id, met, 100, 1.0, 4.0 + chance.random())
            predictor.observe_transition(endpoint_id, NODE, Transition.WAKE, 1.0 + chance.random())
            predictor.answers.observe(endpoint_id, each % 5, tokens, 4_000)
        return sum(len(part) for part in _tuples(predictor.snapshot()))

    assert size_after(2_000) == size_after(4_000)


def test_keys_that_asked_longest_ago_are_forgotten() -> None:
    predictor = Predictor()
    for key_id in range(KEYS_MAX + 5):
        for _ in range(20):
            predictor.answers.observe(1, key_id, 1_000 + key_id)
    assert len([each for each in predictor.snapshot().answers if each.key_id is not None]) == KEYS_MAX
    assert predictor.answers.span(1, KEYS_MAX).p50 == 1_000 + KEYS_MAX


def _tuples(value: Any) -> list[tuple[Any, ...]]:
    """Every tuple anywhere inside a snapshot."""
    if isinstance(value, tuple):
        return [value, *(found for each in value for found in _tuples(each))]
    fields = getattr(value, "__dataclass_fields__", {})
    return [found for name in fields for found in _tuples(getattr(value, name))]
