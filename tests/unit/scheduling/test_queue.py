from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

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
    queue.pop("urgent")
    assert queue.may_go("alone")
    assert not queue.may_go("late")  # it would be the second to overtake
    assert drained(queue) == ["alone", "late"]


@pytest.mark.parametrize(
    ("kind", "order"), [(FairQueue, ["alone", "urgent", "late"]), (DeadlineQueue, ["urgent", "alone", "late"])]
)
def test_who_waited_alone_has_its_turn_in_the_order(kind: type[FairQueue[Job]], order: list[str]) -> None:
    queue = kind()
    for name, flow, deadline in (("alone", 1, 9.0), ("urgent", 2, 1.0), ("late", 3, 10.0)):
        queue.push(name, Job(name), rank=0, flow=flow, cost=1, overtakes=1, deadline=deadline)
    assert drained(queue) == order


@pytest.mark.parametrize("kind", [FairQueue, DeadlineQueue])
def test_however_many_wait_the_urgent_go_first_until_the_bound_is_reached(kind: type[FairQueue[Job]]) -> None:
    queue = kind()
    for each in range(200):
        queue.push(f"mid{each}", Job(f"mid{each}"), rank=50, flow=1, cost=1, overtakes=3, deadline=60.0 + each)
    for each in range(5):
        queue.push(f"high{each}", Job(f"high{each}"), rank=0, flow=2, cost=1, overtakes=1, deadline=30.0 + each)
    # Once three have gone before the oldest, all that wait have been overtaken as often and go in turn.
    assert drained(queue) == [
        *(f"high{each}" for each in range(3)),
        *(f"mid{each}" for each in range(200)),
        *(f"high{each}" for each in (3, 4)),
    ]


def test_a_new_key_waits_for_one_turn_of_another_and_not_for_all_that_it_sent() -> None:
    queue = pushed(*((f"a{each}", 0, 1, 10, 32) for each in range(1000)), ("b", 0, 2, 10, 32))
    queue.pop("a0")
    assert drained(queue)[:2] == ["b", "a1"]


def test_who_leaves_without_being_served_has_overtaken_nobody() -> None:
    queue = pushed(("old", 9, 1, 1, 1), ("gone", 0, 1, 1, 9), ("first", 0, 1, 1, 9), ("second", 0, 1, 1, 9))
    queue.remove("gone")
    assert drained(queue) == ["first", "old", "second"]


def test_when_the_oldest_leaves_what_has_overtaken_the_next_is_still_known() -> None:
    queue = pushed(("a", 9, 1, 1, 2), ("x", 0, 1, 1, 9), ("y", 8, 1, 1, 3), ("b", 9, 1, 1, 2), ("z", 0, 1, 1, 9))
    queue.pop("x")  # overtakes a
    queue.pop("z")  # overtakes a, y and b
    queue.remove("a")
    for name in ("more", "still more"):
        queue.push(name, Job(name), rank=0, flow=1, cost=1, overtakes=9)
    # After one more b has been overtaken twice, but y, which is older, not three times.
    assert drained(queue) == ["more", "b", "y", "still more"]


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
        gone = queue._waiting[f"j{each}"]
        (queue.remove if each % 2 else queue.pop)(f"j{each}")
        assert gone.before is gone.after is None
    assert len(queue._order) <= 2 + SLACK
    assert (queue._line._youngest, len(queue._line._oldest)) == (queue._waiting["stays"], 1)
    assert queue._waiting["stays"].after is None
    assert all(len(shares.finish) <= 2 + SLACK for shares in queue._shares.values())


def test_keys_that_have_had_their_turn_are_forgotten_while_others_wait() -> None:
    queue = pushed(("stays", 0, 0, 10**9, 10**9), ("waits", 0, 0, 1, 10**9))
    for each in range(1000):
        queue.push(f"often{each}", Job(f"often{each}"), rank=0, flow=1, cost=10, overtakes=10**9)
        queue.push(f"once{each}", Job(f"once{each}"), rank=0, flow=2 + each, cost=1, overtakes=10**9)
        queue.pop(f"once{each}")
        queue.pop(f"often{each}")
    assert len(queue._shares[0].finish) <= 2 * (len(queue) + 2) + SLACK
    assert drained(queue) == ["stays", "waits"]


def test_of_many_that_leave_at_once_those_that_are_left_go_by_their_deadlines() -> None:
    chance = Random(1)
    queue: DeadlineQueue[Job] = DeadlineQueue()
    due = {f"j{each}": chance.random() for each in range(400)}
    for flow, name in enumerate(due):
        queue.push(name, Job(name), rank=0, flow=flow, cost=1, overtakes=1000, deadline=due[name])
    left = set(chance.sample(sorted(due), 60))
    for name in due.keys() - left:
        queue.remove(name)
    assert drained(queue) == sorted(left, key=due.__getitem__)


JOBS = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 9), st.integers(0, 3))
# More arrive than leave, so that lines form.
STEPS = st.lists(st.one_of(JOBS, JOBS, JOBS, st.sampled_from(["pop", "pop", "pop any", "remove"])), max_size=60)
QUICK_TO_FAIL = settings(max_examples=200, phases=[each for each in Phase if each is not Phase.explain])


def check_bound_and_order(kind: type[FairQueue[Job]], steps: Sequence[object], chance: Random) -> None:
    """Nobody is overtaken more often than it may, and until then a queue without bounds would choose the same."""
    queue, unbounded = kind(), kind()
    left: dict[str, int] = {}  # who waits, oldest first -> how often it may still be overtaken
    for arrival, step in enumerate(steps):
        names = list(left)
        if isinstance(step, tuple):
            rank, flow, cost, overtakes = step
            job = Job(f"j{arrival}")
            for each, bound in ((queue, overtakes), (unbounded, 10**9)):
                each.push(job.name, job, rank=rank, flow=flow, cost=cost, overtakes=bound, deadline=float(cost))
            left[job.name] = overtakes
        elif names and step == "remove":
            gone = chance.choice(names)
            queue.remove(gone)
            unbounded.remove(gone)
            del left[gone]
        elif names:
            spent = next((name for name in names if left[name] == 0), names[-1])
            free = names[: names.index(spent) + 1]
            assert [name for name in names if queue.may_go(name)] == free
            head, first = queue.peek(), unbounded.peek()
            assert first is not None
            assert head == (first if first.name in free else Job(spent))
            chosen = head.name if step == "pop" else chance.choice(free)
            queue.pop(chosen)
            unbounded.pop(chosen)
            del left[chosen]
            for name in names[: names.index(chosen)]:
                left[name] -= 1
                assert left[name] >= 0, (name, chosen)
        assert list(queue) == [Job(name) for name in left]


@pytest.mark.parametrize("kind", [FairQueue, DeadlineQueue])
@QUICK_TO_FAIL
@given(STEPS, st.randoms(use_true_random=False))
def test_nobody_is_overtaken_more_often_than_it_may_and_else_the_order_alone_decides(
    kind: type[FairQueue[Job]], steps: list[object], chance: Random
) -> None:
    check_bound_and_order(kind, steps, chance)


@pytest.mark.parametrize("kind", [FairQueue, DeadlineQueue])
@pytest.mark.parametrize("seed", range(4))
def test_the_bound_holds_in_long_lines_too(kind: type[FairQueue[Job]], seed: int) -> None:
    chance = Random(seed)
    steps: list[object] = []
    for _ in range(1_500):
        job = (chance.randrange(4), chance.randrange(4), chance.randrange(9), chance.choice([0, 2, 5, 9, 20]))
        steps.append(chance.choice([job, job, job, "pop", "pop any", "remove"] if len(steps) < 1_000 else ["pop", job]))
    check_bound_and_order(kind, steps, chance)


@pytest.mark.parametrize("kind", [FairQueue, DeadlineQueue])
@pytest.mark.parametrize("seed", range(8))
def test_who_looks_at_the_queue_now_and_then_changes_nothing(kind: type[FairQueue[Job]], seed: int) -> None:
    chance = Random(seed)
    seen, unseen = kind(), kind()
    for arrival in range(600):
        if len(seen) < 2 or chance.random() < 0.5:
            flow, tokens, deadline = chance.randrange(4), 1000.0 * chance.randrange(20), chance.random()
            for queue in (seen, unseen):
                name = f"j{arrival}"
                queue.push(name, Job(name), rank=0, flow=flow, cost=tokens, overtakes=99, deadline=deadline)
        elif chance.random() < 0.5:
            gone = chance.choice(list(seen)).name
            seen.remove(gone)
            unseen.remove(gone)
        else:
            chosen = unseen.peek()
            assert chosen is not None
            assert seen.peek() == chosen, arrival
            seen.pop(chosen.name)
            unseen.pop(chosen.name)
        seen.peek()
    assert drained(seen) == drained(unseen)


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
