from __future__ import annotations

from logos.scheduling.timers import Timers


def nothing() -> None:
    """A timer's action that does nothing."""


def test_timers_are_due_in_order_of_time_then_of_asking() -> None:
    timers, done = Timers(), []
    for name, at in (("c", 3.0), ("a", 1.0), ("b", 1.0)):
        timers.add(at, lambda name=name: done.append(name))
    while (due := timers.pop_due(2.0)) is not None:
        due.action()
    assert done == ["a", "b"]
    assert timers.earliest() == 3.0


def test_a_cancelled_timer_is_never_due() -> None:
    timers = Timers()
    timer = timers.add(1.0, nothing)
    timers.cancel(timer)
    timers.cancel(timer)
    timers.cancel(None)
    assert timers.pop_due(2.0) is None
    assert len(timers) == 0


def test_a_time_is_asked_for_once_and_an_earlier_one_again() -> None:
    timers = Timers()
    timers.add(10.0, nothing)
    assert timers.to_ask() == 10.0
    assert timers.to_ask() is None
    timers.add(5.0, nothing)
    assert timers.to_ask() == 5.0
    timers.woke(5.0)
    assert timers.pop_due(5.0) is not None
    assert timers.to_ask() is None  # 10.0 is still on its way


def test_a_wake_up_that_came_too_early_is_asked_for_again() -> None:
    timers = Timers()
    timers.add(10.0, nothing)
    timers.to_ask()
    timers.woke(9.999)
    assert timers.pop_due(9.999) is None
    assert timers.to_ask() == 10.0


def test_cancelled_timers_do_not_pile_up() -> None:
    timers = Timers()
    timers.add(0.5, nothing)
    for each in range(10_000):
        timers.cancel(timers.add(1000.0 + each, nothing))
    assert len(timers) == 1
    assert len(timers._heap) < 200
