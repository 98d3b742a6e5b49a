"""The engine model's rules, as scripts of submissions and expected steps, and as properties over random ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from logos.simulation.engine import EngineModel, EnginePace, TransitionTimes

PACE = EnginePace(
    step_base_s=1.0,
    step_per_sequence_s=0.1,
    prefill_per_token_s=0.01,
    max_sequences=3,
    kv_cache_tokens=100,
    prefill_chunk_tokens=20,
    slowdown=1.25,
    prefix_block_tokens=4,
)


def run_to_the_end(model: EngineModel[str], *, leap: bool = False) -> tuple[list[str], float]:
    """The order in which everything ends, and the seconds that it took."""
    finished: list[str] = []
    elapsed_s = 0.0
    while (plan := model.plan()) is not None:
        steps = plan.steps_ahead if leap else 1
        finished += model.advance(steps).finished
        elapsed_s += plan.step_s * steps
    return finished, elapsed_s


def test_an_idle_engine_has_nothing_to_do() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    assert model.plan() is None
    assert model.idle


def test_a_step_costs_its_base_its_batch_and_its_prompt_tokens() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    model.submit("a", prompt_tokens=10, output_tokens=3)
    plan = model.plan()
    assert plan is not None
    assert plan.step_s == pytest.approx(1.0 + 0.1 + 0.01 * 10)
    assert (plan.batch, plan.prefill_tokens, plan.admitted) == (1, 10, ("a",))
    step = model.advance()
    assert step.first == ("a",)
    assert step.tokens == (("a", 1),)
    plan = model.plan()
    assert plan is not None
    assert plan.step_s == pytest.approx(1.1)
    assert plan.steps_ahead == 2
    assert model.advance(2).finished == ("a",)
    assert model.idle
    assert model.kv_tokens == 0


def test_a_long_prompt_is_computed_in_chunks() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    model.submit("a", prompt_tokens=45, output_tokens=1)
    chunks = []
    while (plan := model.plan()) is not None:
        chunks.append(plan.prefill_tokens)
        step = model.advance()
    assert chunks == [20, 20, 5]
    assert step.first == step.finished == ("a",)


def test_one_step_prefills_several_prompts_up_to_the_chunk_while_others_decode() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    model.submit("a", 5, 10)
    model.plan()
    model.advance()
    model.submit("b", 15, 2)
    model.submit("c", 15, 2)
    plan = model.plan()
    assert plan is not None
    assert plan.admitted == ("b", "c")
    assert (plan.batch, plan.prefill_tokens, plan.steps_ahead) == (3, 20, 1)
    assert model.advance().tokens == (("a", 1), ("b", 1))
    assert model.produced("a") == 2


def test_no_more_sequences_run_than_there_are_seats() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    for key in "abcd":
        model.submit(key, 1, 5)
    model.plan()
    model.advance()
    assert (model.running, model.waiting) == (3, 1)


def test_a_full_kv_cache_preempts_the_newest_which_makes_no_token_twice() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    model.submit("old", 20, 60)
    model.submit("new", 20, 60)
    made = {"old": 0, "new": 0}
    first: list[str] = []
    while (plan := model.plan()) is not None:
        step = model.advance()
        for key, tokens in step.tokens:
            made[key] += tokens
        first += step.first
        assert "old" not in plan.preempted
    assert model.preemptions >= 1
    assert made == {"old": 60, "new": 60}
    assert sorted(first) == ["new", "old"]


def test_a_preempted_sequence_that_came_back_hides_nobody_else_s_end() -> None:
    model: EngineModel[str] = EngineModel(replace(PACE, max_sequences=4, kv_cache_tokens=40))
    outputs = {"a": 7, "b": 4, "c": 6, "d": 4}
    for (key, output), prompt in zip(outputs.items(), (2, 16, 14, 1), strict=True):
        model.submit(key, prompt, output)
    made = dict.fromkeys(outputs, 0)
    while model.plan() is not None:
        for key, tokens in model.advance().tokens:
            made[key] += tokens
    assert model.preemptions > 0
    assert made == outputs


def test_a_sequence_that_could_never_fit_is_refused() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    with pytest.raises(ValueError, match="never fit"):
        model.submit("a", 90, 11)
    model.submit("b", 90, 10)
    assert run_to_the_end(model)[0] == ["b"]


def test_a_name_is_taken_while_its_sequence_is_there() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    model.submit("a", 1, 1)
    with pytest.raises(ValueError, match="already"):
        model.submit("a", 1, 1)


@pytest.mark.parametrize("steps_before", [0, 1, 2])
def test_an_aborted_sequence_leaves_nothing(steps_before: int) -> None:
    model: EngineModel[str] = EngineModel(PACE)
    model.submit("a", 30, 5)  # waiting, then half computed, then decoding
    for _ in range(steps_before):
        model.plan()
        model.advance()
    assert model.abort("a")
    assert model.idle
    assert model.kv_tokens == 0
    assert not model.abort("a")


def test_an_abort_in_the_middle_of_a_step_is_not_in_its_result() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    model.submit("a", 5, 1)
    model.submit("b", 5, 1)
    model.plan()
    model.abort("a")
    assert model.advance().finished == ("b",)
    assert model.kv_tokens == 0


def test_a_leap_that_is_cut_goes_on_where_it_was() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    model.submit("a", 5, 20)
    model.plan()
    model.advance()
    plan = model.plan()
    assert plan is not None
    assert plan.steps_ahead == 19
    model.submit("b", 5, 2)  # arrives in the middle of the fourth step
    model.advance(4)
    assert model.produced("a") == 5
    plan = model.plan()
    assert plan is not None
    assert plan.admitted == ("b",)


def test_more_steps_than_planned_are_refused() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    with pytest.raises(ValueError, match="were planned"):
        model.advance()
    model.submit("a", 5, 20)
    model.plan()
    with pytest.raises(ValueError, match="were planned"):
        model.advance(2)


def test_a_busy_neighbour_slows_each_step_down() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    model.contended = True
    model.submit("a", 10, 1)
    plan = model.plan()
    assert plan is not None
    assert plan.step_s == pytest.approx(1.2 * 1.25)


def test_a_prefix_that_is_held_is_not_computed_again() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    model.submit("a", 10, 1, prefix=("x", "y"))
    run_to_the_end(model)
    model.submit("b", 12, 2, prefix=("x", "y", "z"))
    plan = model.plan()
    assert plan is not None
    assert plan.prefill_tokens == 12 - 8
    assert model.cached_tokens("b") == 8
    run_to_the_end(model)
    model.preempt_all()
    model.submit("c", 10, 1, prefix=("x", "y"))
    plan = model.plan()
    assert plan is not None
    assert plan.prefill_tokens == 10


def test_a_wholly_held_prompt_still_computes_one_token() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    for key in "ab":
        model.submit(key, 8, 1, prefix=("x", "y"))
        plan = model.plan()
        assert plan is not None
        model.advance()
    assert plan.prefill_tokens == 1


def test_what_is_sent_back_to_the_queue_keeps_its_order_and_its_tokens() -> None:
    model: EngineModel[str] = EngineModel(PACE)
    for key in "abc":
        model.submit(key, 5, 10)
    for _ in range(3):
        model.plan()
        model.advance()
    made = {key: model.produced(key) for key in "abc"}
    model.preempt_all()
    assert (model.running, model.waiting, model.kv_tokens) == (0, 3, 0)
    assert model.keys() == ["a", "b", "c"]
    assert {key: model.produced(key) for key in "abc"} == made
    assert run_to_the_end(model)[0] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "wrong", [{"step_base_s": -1.0}, {"max_sequences": 0}, {"slowdown": 0.5}, {"kv_cache_tokens": 0}]
)
def test_a_pace_that_no_engine_has_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must"):
        EnginePace(**wrong)  # type: ignore[arg-type]


def test_a_negative_transition_time_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        TransitionTimes(wake_s=-0.1)


# So tight that most runs preempt.
TIGHT = replace(PACE, max_sequences=4, kv_cache_tokens=24, prefill_chunk_tokens=6, prefix_block_tokens=2)
prompts = st.integers(1, 12)
outputs = st.integers(1, 12)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(prompts, outputs), min_size=1, max_size=8))
def test_leaps_and_single_steps_come_to_the_same(shapes: list[tuple[int, int]]) -> None:
    runs = []
    for leap in (False, True):
        model: EngineModel[str] = EngineModel(TIGHT)
        for number, (prompt, output) in enumerate(shapes):
            model.submit(str(number), prompt, output)
        finished, elapsed_s = run_to_the_end(model, leap=leap)
        runs.append((finished, pytest.approx(elapsed_s), model.preemptions))
        assert sorted(finished) == sorted(map(str, range(len(shapes))))
        assert model.kv_tokens == 0
    assert runs[0] == runs[1]


class AnyUse(RuleBasedStateMachine):
    """Submissions, aborts, steps, leaps and sleeps in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.model: EngineModel[int] = EngineModel(TIGHT)
        self.outputs: dict[int, int] = {}
        self.made: dict[int, int] = {}
        self.ended: set[int] = set()

    @rule(prompt=prompts, output=outputs)
    def submit(self, prompt: int, output: int) -> None:
        key = len(self.outputs)
        self.outputs[key], self.made[key] = output, 0
        self.model.submit(key, prompt, output, prefix=tuple(range(prompt // 2)))

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        if alive := [key for key in self.outputs if key not in self.ended]:
            key = data.draw(st.sampled_from(alive))
            assert self.model.abort(key)
            self.ended.add(key)
            assert key not in self.model

    @rule(share=st.floats(0, 1), abort_between=st.booleans(), data=st.data())
    def step(self, share: float, abort_between: bool, data: st.DataObject) -> None:
        plan = self.model.plan()
        if plan is None:
            assert self.model.idle
            return
        assert plan.batch <= TIGHT.max_sequences
        assert plan.prefill_tokens <= TIGHT.prefill_chunk_tokens
        if abort_between:
            self.abort(data)
        step = self.model.advance(max(1, round(share * plan.steps_ahead)))
        for key, tokens in step.tokens:
            self.made[key] += tokens
        for key in step.finished:
            assert key not in self.ended
            assert self.made[key] == self.outputs[key]
            self.ended.add(key)

    @rule()
    def lose_the_kv_cache(self) -> None:
        self.model.preempt_all()
        assert self.model.kv_tokens == 0

    @invariant()
    def nothing_is_lost_and_nothing_is_too_much(self) -> None:
        assert 0 <= self.model.kv_tokens <= TIGHT.kv_cache_tokens
        assert self.model.running <= TIGHT.max_sequences
        alive = {key for key in self.outputs if key not in self.ended}
        assert set(self.model.keys()) == alive
        assert self.model.running + self.model.waiting == len(alive)
        assert all(self.model.produced(key) == self.made[key] for key in alive)
        if not self.model.running:
            assert self.model.kv_tokens == 0

    def teardown(self) -> None:
        for _ in range(20_000):
            plan = self.model.plan()
            if plan is None:
                break
            self.ended.update(self.model.advance(plan.steps_ahead, list_tokens=False).finished)
        assert self.ended == set(self.outputs)
        assert self.model.kv_tokens == 0


AnyUse.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestAnyUse = AnyUse.TestCase
