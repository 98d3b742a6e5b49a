from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from logos.scheduling.deadline_queue import DeadlineQueue
from logos.scheduling.queue import SLACK, FairQueue


@dataclass(frozen=True)
class Job:
    name: str
    overtakes: int = 1000


def pushed(*jobs: tuple[str, int, int, int, int]) -> FairQueue[Job]:
    """Jobs as (name, rank, flow, cost, overtakes)."""
    queue: FairQueue[Job] = FairQueue()
    for name, rank, flow, cost, overtakes in jobs:
        queue.push(name, Job(name, overtakes), rank=rank, flow=flow, cost=cost, overtakes=overtakes)
    return queue


def drained(queue: FairQueue[Job]) -> list[str]:
    order = []
    while (job := queue.peek()) is not None:
        queue.pop(job.name)
        order.append(job.name)
    return order


def test_a_lower_rank_goes_first() -> None:
    assert drained(pushed(("a", 5, 1, 1, 9), ("b", 0, 1, 1, 9))) == ["b", "a"]


def test_one_flow_keeps_its_order() -> None:
    assert drained(pushed(*((name, 0, 1, 5, 9) for name in "abc"))) == ["a", "b", "c"]


def test_flows_take_turns_by_cost() -> None:
    queue = pushed(
        ("a1", 0, 1, 10, 99), ("a2", 0, 1, 10, 99), ("b1", 0, 2, 5, 99), ("b2", 0, 2, 5, 99), ("b3", 0, 2, 5, 99)
    )
    assert drained(queue) == ["a1", "b1", "b2", "a2", "b3"]


def test_a_flow_that_was_idle_gets_no_credit_for_it() -> None:
    queue = pushed(*((f"a{each}", 0, 1, 10, 99) for each in range(4)))
    for each in range(3):
        queue.pop(f"a{each}")
    for name, flow in (("b0", 2), ("b1", 2), ("b2", 2), ("a4", 1)):
        queue.push(name, Job(name), rank=0, flow=flow, cost=10, overtakes=99)
    # The late flow starts where the other one is: they take turns, instead of three for it first.
    assert drained(queue) == ["b0", "a3", "b1", "b2", "a4"]


def test_peeking_changes_nothing() -> None:
    queue = pushed(("a", 0, 1, 1, 9), ("b", 0, 1, 1, 9))
    assert queue.peek() == queue.peek() == Job("a", 9)
    assert len(queue) == 2


@pytest.mark.parametrize(
    ("kind", "order"), [(FairQueue, ["alone", "urgent", "late"]), (DeadlineQueue, ["urgent", "alone", "late"])]
)
def test_who_waits_alone_lines_up_with_whoever_comes(kind: type[FairQueue[Job]], order: list[str]) -> None:
    queue = kind()
    for name, flow, deadline in (("alone", 1, 9.0), ("urgent", 2, 1.0), ("late", 3, 10.0)):
        queue.push(name, Job(name), rank=0, flow=flow, cost=1, overtakes=1, deadline=deadline)
        assert queue.oldest() == Job("alone")
        assert queue.may_go("alone")
    assert not queue.may_go("late")  # it would be the second to overtake
    assert drained(queue) == order


@pytest.mark.parametrize("kind", [FairQueue, DeadlineQueue])
def test_who_waits_alone_leaves_nothing_behind(kind: type[FairQueue[Job]]) -> None:
    queue = kind()
    for leave in (queue.pop, queue.remove):
        queue.push("a", Job("a"), rank=0, flow=1, cost=1, overtakes=0)
        assert queue.peek() == Job("a")
        leave("a")
        assert queue.peek() is queue.oldest() is None
        assert not queue.may_go("a")


def test_what_was_removed_is_never_the_head() -> None:
    queue = pushed(("a", 0, 1, 1, 0), ("b", 0, 1, 1, 9))
    queue.remove("a")
    queue.remove("a")
    queue.remove("never there")
    assert drained(queue) == ["b"]


def test_memory_follows_what_waits_and_not_what_has_been() -> None:
    queue: FairQueue[Job] = FairQueue()
    queue.push("stays", Job("stays"), rank=9, flow=0, cost=1, overtakes=10**9)
    for each in range(5000):
        queue.push(f"j{each}", Job(f"j{each}"), rank=each % 3, flow=each, cost=1, overtakes=10**9)
        (queue.remove if each % 2 else queue.pop)(f"j{each}")
    assert len(queue._order) <= 2 + SLACK
    assert len(queue._bounds) <= 2 + SLACK
    assert all(len(shares.finish) <= 2 + SLACK for shares in queue._shares.values())


JOBS = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 9), st.integers(0, 3))
# More arrive than leave, so that lines form.
STEPS = st.lists(st.one_of(JOBS, JOBS, JOBS, st.just("pop"), st.just("pop"), st.just("remove")), max_size=60)
QUICK_TO_FAIL = settings(max_examples=200, phases=[each for each in Phase if each is not Phase.explain])


@pytest.mark.parametrize("kind", [FairQueue, DeadlineQueue])
@QUICK_TO_FAIL
@given(STEPS, st.randoms(use_true_random=False))
def test_nobody_is_overtaken_by_more_than_the_bound(
    kind: type[FairQueue[Job]], steps: list[object], chance: object
) -> None:
    queue = kind()
    waiting: dict[str, tuple[int, int]] = {}  # name -> (arrival, K)
    overtaken: dict[str, int] = {}
    for arrival, step in enumerate(steps):
        if isinstance(step, tuple):
            rank, flow, cost, overtakes = step
            name = f"j{arrival}"
            deadline = float(cost)
            queue.push(name, Job(name), rank=rank, flow=flow, cost=cost, overtakes=overtakes, deadline=deadline)
            waiting[name] = (arrival, overtakes)
            overtaken[name] = 0
        elif waiting and step == "remove":
            gone = chance.choice(sorted(waiting))  # type: ignore[attr-defined]  # hypothesis types it as object
            queue.remove(gone)
            del waiting[gone]
        elif waiting:
            job = queue.peek()
            assert job is not None
            queue.pop(job.name)
            chosen_at, _ = waiting.pop(job.name)
            for name, (arrived, overtakes) in waiting.items():
                if arrived < chosen_at:
                    overtaken[name] += 1
                    assert overtaken[name] <= overtakes, (name, job.name)
        assert len(queue) == len(waiting)


@given(STEPS)
def test_everything_that_goes_in_comes_out_once(steps: list[object]) -> None:
    queue: FairQueue[Job] = FairQueue()
    names = []
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            rank, flow, cost, overtakes = step
            names.append(f"j{number}")
            queue.push(names[-1], Job(names[-1]), rank=rank, flow=flow, cost=cost, overtakes=overtakes)
    assert [job.name for job in queue] == names
    assert sorted(drained(queue)) == sorted(names)
    assert queue.peek() is None
    assert queue.oldest() is None
