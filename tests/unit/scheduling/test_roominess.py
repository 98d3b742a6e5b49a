"""Which place has most room, against a look at each."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from logos.scheduling.roominess import SLACK, Roominess

SLOTS = 6


@dataclass(eq=False)
class Room:
    number: int
    free: int = 0


def roomiest(rooms: list[Room]) -> Room | None:
    return max((each for each in rooms if each.free > 0), key=lambda each: each.free, default=None)


def test_among_equals_the_older_one_is_the_roomiest() -> None:
    rooms = [Room(number, 2) for number in (3, 1, 2)]
    kept = Roominess[Room]()
    for each in rooms:
        kept.grown(each)
    assert kept.most() is rooms[1]
    rooms[1].free = 1
    assert kept.most() is rooms[2]


def test_where_nothing_is_free_nobody_is_the_roomiest() -> None:
    kept = Roominess[Room]()
    assert kept.most() is None
    room = Room(1, 1)
    kept.grown(room)
    room.free = 0
    assert kept.most() is None
    room.free = 1
    kept.grown(room)
    assert kept.most() is room


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, SLOTS), st.booleans()), max_size=200))
def test_the_roomiest_is_found_whatever_was_taken_and_given_back(changes: list[tuple[int, int, bool]]) -> None:
    rooms = [Room(number) for number in range(5)]
    kept = Roominess[Room]()
    for number, free, is_asked in changes:
        room = rooms[number]
        has_grown, room.free = free > room.free, free
        if has_grown:
            kept.grown(room)
        if is_asked:
            assert kept.most() is roomiest(rooms)
    assert kept.most() is roomiest(rooms)


def test_entries_do_not_pile_up() -> None:
    rooms = [Room(number) for number in range(10)]
    kept = Roominess[Room]()
    for turn in range(10_000):
        room = rooms[turn * 7 % 10]
        room.free = turn * 13 % SLOTS
        kept.grown(room)
        kept.most()
        assert len(kept) <= 2 * len(rooms) + SLACK + 1
