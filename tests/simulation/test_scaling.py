"""Nodes that are given back when nothing runs there, and that come again when they are asked for."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from logos.scheduling import commands as cmd
from logos.scheduling import events as ev
from logos.scheduling.commands import Command
from logos.scheduling.scheduler import Scheduler
from logos.scheduling.settings import SchedulerSettings
from logos.simulation.arrivals import Arrival
from logos.simulation.kernel import Simulation, simulated_scheduler
from logos.simulation.reserve import COMES_AFTER_S
from logos.simulation.run import Run, Status
from logos.simulation.world import World
from tests.simulation.small import Scripted, arrival, model, node, world

RELEASE_AFTER_S = 300.0
HORIZON_S = 6 * 3600.0


class Told:
    """The scheduler, and when nodes were asked for, came, and were given back, in order."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.asked: list[tuple[float, str]] = []  # and for which model
        self.came: list[tuple[float, str]] = []
        self.released: list[tuple[float, str]] = []

    def handle(self, event: ev.Event) -> list[Command]:
        if isinstance(event, ev.NodeSeen):
            self.came.append((event.at, event.node.id))
        caused = self.scheduler.handle(event)
        self.scheduler.check_invariants()
        for command in caused:
            if isinstance(command, cmd.RequestNodes):
                self.asked.append((event.at, command.reason.partition(":")[0]))
            elif isinstance(command, cmd.ReleaseNode):
                self.released.append((event.at, command.node_id))
        return caused


def pool() -> World:
    """A small machine that takes one engine of `a`, and two that take three of them or one of `big`."""
    return world(
        node(),
        {"name": "m", "count": 2, "memory_mib_per_gpu": 2000},
        models=(model("a", max_replicas=6), model("big", memory_mib=2000)),
        queue_timeout_s=900.0,
    )


def bursts(seed: int) -> list[Arrival]:
    """Twenty minutes quiet or so, then many at once: more of `a` than one engine takes, or a few of `big`."""
    chance, at, found = random.Random(seed), 0.0, list[Arrival]()
    while (at := at + chance.expovariate(1 / 1200.0)) < HORIZON_S:
        name, size = chance.choice([("a", 60), ("big", 5)])
        for _ in range(size):
            found.append(arrival(f"r{len(found)}", at + chance.uniform(0.0, 60.0), name, output=20))
    return found


def scaled(policy: str, seed: int) -> tuple[Told, Run]:
    of = pool()
    settings = SchedulerSettings(
        policy=policy, node_grace_s=0.0, node_arrival_s=COMES_AFTER_S, release_node_after_s=RELEASE_AFTER_S
    )
    told = Told(simulated_scheduler(of, settings))
    return told, Simulation(of, bursts(seed), told, seed, policy=policy).run()


@pytest.mark.parametrize("policy", ["fcfs", "ettft", "slo"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_over_hours_of_bursts_nodes_are_asked_for_once_in_each_and_stay_a_while(policy: str, seed: int) -> None:
    told, run = scaled(policy, seed)
    assert {each.status for each in run.outcomes} == {Status.OK}
    again = told.came[len(run_nodes()) :]
    assert 1 <= len(again) <= len(told.asked)
    assert len(told.released) >= 3
    for node_id in run_nodes():
        life = sorted(at for at, each in [*told.came, *told.released] if each == node_id)
        stays = [gone - came for came, gone in list(pairwise(life))[::2]]
        assert all(stay_s >= RELEASE_AFTER_S for stay_s in stays)
    for name in ("a", "big"):
        for first_at, second_at in pairwise(at for at, each in told.asked if each == name):
            assert any(first_at <= at < second_at for at, _ in again) or second_at - first_at > COMES_AFTER_S


def run_nodes() -> list[str]:
    return [each.node.id for each in pool().nodes]


def test_a_machine_that_was_given_back_comes_again_when_one_like_it_is_asked_for() -> None:
    def script(core: Scripted, event: ev.Event) -> list[cmd.Command]:
        if isinstance(event, ev.GatewaySeen):
            return []
        if isinstance(event, ev.RequestsArrived):
            asked = {"r0": [cmd.ReleaseNode("n")], "r1": [cmd.RequestNodes(1, 2000)], "r2": [cmd.RequestNodes(1, 900)]}
            return list(asked.get(event.requests[0].request_id, []))
        return []

    of = world(node(), {"name": "m", "memory_mib_per_gpu": 1000, "engines": [{"model": "a", "state": "awake"}]})
    core = Scripted(of, script)
    workload = [arrival(f"r{each}", 100.0 * each) for each in range(6)]
    Simulation(of, workload, core, 1, policy="scripted").run()
    seen = [(event.at, event.node.id) for event in core.heard if isinstance(event, ev.NodeSeen)]
    assert seen == [(0.0, "n"), (0.0, "m"), (200.0 + COMES_AFTER_S, "n")]
