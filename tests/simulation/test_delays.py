"""The reference's slow control plane around a core."""

from __future__ import annotations

from logos.scheduling import commands as cmd
from logos.scheduling import events as ev
from logos.simulation.delays import DelayedSimulation
from logos.simulation.faults import EngineDies, NodeDies
from logos.simulation.run import Status
from tests.simulation.small import Scripted, arrival, node, world


def test_an_engine_that_dies_before_the_poll_sees_it_drained_is_not_told_to_sleep() -> None:
    small = world(node(("a", "awake"), ("b", "asleep")))
    slept: list[str] = []

    def sleeps_at_once(core: Scripted, event: ev.Event) -> list[cmd.Command]:
        if isinstance(event, ev.RequestFinished) and not slept:
            slept.extend(core.engines)
            return [cmd.SleepEngine(next(iter(core.engines)))]
        return []

    core = Scripted(small, sleeps_at_once)
    (endpoint_id,) = {each.endpoint_id for each in small.nodes[0].engines[:1]}
    faults = [EngineDies(5.7, endpoint_id)]  # "r" has ended at 5.6 s
    workload = [arrival("r"), arrival("late", 20.0, "b")]
    run = DelayedSimulation(small, workload, core, 1, policy="scripted", faults=faults).run()
    assert slept
    assert run.outcomes[0].status is Status.OK


def test_of_an_engine_that_has_died_since_no_poll_says_that_it_is_awake() -> None:
    small = world(node(("b", "asleep")))
    told: list[ev.Event] = []

    def wakes(core: Scripted, event: ev.Event) -> list[cmd.Command]:
        told.append(event)
        return [cmd.WakeEngine("n-1")] if isinstance(event, ev.RequestsArrived) and event.at == 0.0 else []

    workload = [arrival("r", name="b"), arrival("late", 30.0, "b")]
    faults = [NodeDies(1.01, "n")]  # it is awake at 1 s
    DelayedSimulation(small, workload, Scripted(small, wakes), 1, policy="scripted", faults=faults).run()
    assert not [event for event in told if isinstance(event, ev.EngineChanged)]
