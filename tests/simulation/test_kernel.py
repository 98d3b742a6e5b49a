"""The simulated driver: what the core is told when, for whatever it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Mode, Place, Tier
from logos.scheduling import commands as cmd
from logos.scheduling import events as ev
from logos.scheduling.scheduler import Scheduler
from logos.scheduling.settings import SchedulerSettings
from logos.simulation.arrivals import Arrival
from logos.simulation.faults import EngineDies, LoadsFail, NodeDies, Nonsense, RemoteDown
from logos.simulation.figures import figures
from logos.simulation.kernel import ATTEMPTS_MAX, Core, Simulation, simulate, simulated_scheduler
from logos.simulation.ollama import OllamaCore
from logos.simulation.run import Run, SimulationFault, Status
from logos.simulation.systems import known_systems, run_system
from logos.simulation.world import World
from tests.simulation.small import Scripted, arrival, engine, model, node, world

AWAKE = world(node(("a", "awake")), models=(model("a"),))


def run(of: World, *arrivals: Arrival, script: Any = lambda core, event: (), faults: Any = ()) -> tuple[Run, Scripted]:
    core = Scripted(of, script)
    return Simulation(of, arrivals, core, 1, policy="scripted", faults=faults).run(), core


def test_a_request_has_its_first_token_after_the_prompt_and_ends_after_the_last_step() -> None:
    found, core = run(AWAKE, arrival("r", 2.0, prompt=10, output=5))
    outcome = found.outcomes[0]
    assert outcome.status is Status.OK
    assert outcome.first_token_at == pytest.approx(2.0 + 1.0 + 0.1 + 10 * 0.01)
    assert outcome.ended_at == pytest.approx(2.0 + 1.2 + 4 * 1.1)
    told = [each for each in core.heard if isinstance(each, ev.FirstToken | ev.RequestFinished)]
    assert [type(each) for each in told] == [ev.FirstToken, ev.RequestFinished]
    assert told[0].ttft_s == pytest.approx(1.2)
    assert told[1].total_s == pytest.approx(5.6)
    assert (told[1].prompt_tokens, told[1].completion_tokens) == (10, 5)


def test_who_comes_during_a_step_joins_at_its_end() -> None:
    found, _ = run(AWAKE, arrival("first", 0.0, output=5), arrival("second", 1.5, output=5))
    # Steps of the first: until 1.2, then 2.3, where the second is admitted to a batch of two.
    assert found.outcomes[1].first_token_at == pytest.approx(2.3 + 1.0 + 0.2 + 0.1)


def test_what_is_longer_than_a_models_context_does_not_go_there() -> None:
    short = {**model("a"), "context_length": 14}
    described = world(node(("a", "awake"), ("b", "awake"), memory_mib_per_gpu=2000), models=(short, model("b")))
    either = (("a", 1.0), ("b", 0.0))
    fits, too_long, elsewhere = arrival("fits", prompt=9), arrival("long"), replace(arrival("r"), models=either)
    found = simulate(described, [fits, too_long, elsewhere], SchedulerSettings(policy="fcfs"))
    assert [(each.status, each.model) for each in found.outcomes] == [
        (Status.OK, "a"),
        (Status.REJECTED, ""),
        (Status.OK, "b"),
    ]
    assert found.outcomes[1].reason.startswith("context_length_exceeded")


def test_busy_neighbours_on_one_gpu_slow_each_other() -> None:
    pace = {**engine()["pace"], "slowdown": 2.0}
    models = (model("a", memory_mib=400, pace=pace), model("b", memory_mib=400, pace=pace))
    shared = world(node(("a", "awake"), ("b", "awake")), models=models)
    alone, _ = run(shared, arrival("r", output=5))
    both, _ = run(shared, arrival("r", output=5), arrival("s", 0.0, "b", output=5))
    assert alone.outcomes[0].latency_s == pytest.approx(1.2 + 4 * 1.1)
    # The first step of the one that began alone keeps its pace.
    assert both.outcomes[0].latency_s == pytest.approx(1.2 + 4 * 2.2)


def test_a_sleeping_engine_is_woken_in_its_time_and_says_how_long_it_took() -> None:
    asleep = world(node(("a", "asleep")), models=(model("a"),))

    def wake(core: Scripted, event: ev.Event) -> list[cmd.Command]:
        return [cmd.WakeEngine("n-1")] if isinstance(event, ev.RequestsArrived) else []

    found, core = run(asleep, arrival("r", 5.0), script=wake)
    changed = [each for each in core.heard if isinstance(each, ev.EngineChanged)]
    assert [(each.at, each.state, each.seconds) for each in changed] == [(6.0, EngineState.AWAKE, 1.0)]
    assert found.outcomes[0].queue_wait_s == pytest.approx(1.0)


def test_one_transition_at_a_time_makes_the_second_wait() -> None:
    asleep = world(node(("a", "asleep"), ("b", "asleep"), memory_mib_per_gpu=2000, transitions_at_once=1))

    def wake(core: Scripted, event: ev.Event) -> list[cmd.Command]:
        return [cmd.WakeEngine("n-1"), cmd.WakeEngine("n-2")] if isinstance(event, ev.NodeSeen) else []

    found, _ = run(asleep, arrival("r"), arrival("s", 0.0, "b"), script=wake)
    assert [(each.began_at, each.ended_at) for each in found.transitions] == [(0.0, 1.0), (1.0, 2.0)]


def test_a_load_that_waits_for_its_turn_can_be_stopped_and_never_begins() -> None:
    empty = world(node(memory_mib_per_gpu=2000, transitions_at_once=1))
    first, second = (cmd.LoadEngine(f"e{number}", number, "n", (0,), 600) for number in (1, 2))

    def change_of_mind(core: Scripted, event: ev.Event) -> list[cmd.Command]:
        return [first, second, cmd.StopEngine("e2")] if isinstance(event, ev.NodeSeen) else []

    found, core = run(empty, arrival("r"), script=change_of_mind)
    changed = [(each.at, each.engine_id, each.state) for each in core.heard if isinstance(each, ev.EngineChanged)]
    assert changed == [(0.0, "e2", EngineState.COLD), (20.0, "e1", EngineState.AWAKE)]
    assert [each.engine_id for each in found.transitions] == ["e1"]


def three(**states: str) -> World:
    """Two transitions at once, and a stop takes longer than they do."""
    models = tuple(model(name, transitions={"wake_s": 1.0, "stop_s": 5.0}) for name in states)
    return world(node(*states.items(), memory_mib_per_gpu=3000, transitions_at_once=2), models=models)


def test_a_waking_that_waits_for_its_turn_is_void_once_its_engine_is_stopped() -> None:
    orders = [*(cmd.WakeEngine(f"n-{number}") for number in (1, 2, 3)), cmd.StopEngine("n-3")]

    def change_of_mind(core: Scripted, event: ev.Event) -> list[cmd.Command]:
        return orders if isinstance(event, ev.NodeSeen) else []

    found, _ = run(three(a="asleep", b="asleep", c="asleep"), arrival("r", 9.0), script=change_of_mind)
    assert [(each.engine_id, each.ended_at, each.after) for each in found.transitions] == [
        ("n-1", 1.0, EngineState.AWAKE),
        ("n-2", 1.0, EngineState.AWAKE),
        ("n-3", 5.0, EngineState.COLD),
    ]


def test_a_sleep_that_waits_for_its_turn_is_void_once_its_engine_is_gone() -> None:
    orders = [cmd.WakeEngine("n-2"), cmd.WakeEngine("n-3"), cmd.SleepEngine("n-1")]

    def all_at_once(core: Scripted, event: ev.Event) -> list[cmd.Command]:
        return orders if isinstance(event, ev.NodeSeen) else []

    known = three(a="awake", b="asleep", c="asleep")
    found, _ = run(known, arrival("r", 9.0, "b"), script=all_at_once, faults=(EngineDies(0.5, 1),))
    assert [(each.engine_id, each.ended_at, each.after) for each in found.transitions] == [
        ("n-2", 1.0, EngineState.AWAKE),
        ("n-3", 1.0, EngineState.AWAKE),
        ("n-1", 5.5, EngineState.COLD),
    ]


def test_a_stop_that_is_asked_for_again_ends_when_it_would_have_ended() -> None:
    def stop(core: Scripted, event: ev.Event) -> list[cmd.Command]:
        return [cmd.StopEngine("n-2"), cmd.StopEngine("n-2")] if isinstance(event, ev.NodeSeen) else []

    pair = world(node(("a", "awake"), ("b", "asleep"), memory_mib_per_gpu=2000))
    found, _ = run(pair, arrival("r"), script=stop)
    assert [(each.engine_id, each.ended_at, each.after) for each in found.transitions] == [
        ("n-2", 0.5, EngineState.COLD)
    ]


@pytest.mark.parametrize("stop_s", [0.5, 100.0])
def test_loads_that_wait_longer_than_they_may_take_end_in_answers_or_refusals(stop_s: float) -> None:
    slow = {"load_s": 300.0, "stop_s": stop_s}
    models = tuple(model(name, transitions=slow) for name in "abcd")
    serial = world(node(gpus=4, transitions_at_once=1), models=models, queue_timeout_s=5000.0)
    found = run_system("slo", serial, [arrival(name, float(at), name) for at, name in enumerate("abcd")])
    assert {each.status for each in found.outcomes} == {Status.OK, Status.REJECTED}


def test_an_engine_that_does_not_fit_fails_to_wake_and_says_why() -> None:
    crowded = world(node(("a", "awake"), ("b", "asleep")))

    def wake(core: Scripted, event: ev.Event) -> list[cmd.Command]:
        return [cmd.WakeEngine("n-2")] if isinstance(event, ev.NodeSeen) else []

    _, core = run(crowded, arrival("r"), script=wake)
    changed = [each for each in core.heard if isinstance(each, ev.EngineChanged)]
    assert changed[0].state is EngineState.FAILED
    assert changed[0].reason == "out of memory on GPU 0"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (cmd.SleepEngine("n-1"), "while it serves requests"),
        (cmd.WakeEngine("n-1"), "which is awake"),
        (cmd.StopEngine("nobody"), "which nobody has"),
        (cmd.LoadEngine("n-1", 1, "n", (0,), 600), "which n already has"),
        (cmd.LoadEngine("e", 1, "nowhere", (0,), 600), "which is not there"),
        (cmd.Dispatch("r", "g", Place(1, "n-1"), Tier.WARM), "was dispatched while it runs"),
    ],
)
def test_what_cannot_be_meant_is_a_fault_of_the_scheduler(command: cmd.Command, told: str) -> None:
    def blunder(core: Scripted, event: ev.Event) -> list[cmd.Command]:
        return [command] if isinstance(event, ev.RequestStarted) else []

    with pytest.raises(SimulationFault, match=told):
        run(AWAKE, arrival("r"), script=blunder)


def test_a_request_that_never_ends_is_a_fault() -> None:
    class Deaf(OllamaCore):
        def decide(self) -> None:
            self.waiting.clear()

    with pytest.raises(SimulationFault, match="1 requests never ended, r among them"):
        Simulation(AWAKE, [arrival("r")], Deaf(AWAKE.catalogue), 1, policy="deaf").run()


def test_a_client_that_leaves_frees_its_seat() -> None:
    found, core = run(AWAKE, replace(arrival("r", output=100), patience_s=3.0), arrival("s", 10.0))
    assert found.outcomes[0].status is Status.LEFT
    assert found.outcomes[0].ended_at == 3.0
    assert [type(each) for each in core.heard if getattr(each, "request_id", "") == "r"][-1] is ev.RequestCancelled
    assert found.outcomes[1].first_token_at == pytest.approx(11.2)


@pytest.mark.parametrize(
    ("own", "promised"),
    [
        ({}, (7.0, 9.0)),
        ({"mode": Mode.BATCH}, (100.0, 100.0)),
        ({"slo_ttft_s": 2.0}, (2.0, None)),
        ({"slo_total_s": 3.0}, (3.0, 3.0)),
        ({"slo_ttft_s": 2.0, "slo_total_s": 3.0}, (2.0, 3.0)),
    ],
)
@pytest.mark.parametrize("policy", ["slo", "fcfs", "ollama"])
def test_a_request_is_promised_the_same_whoever_schedules_it(
    policy: str, own: Any, promised: tuple[float, ...]
) -> None:
    promises = {"interactive": {"ttft_ms": 7000.0, "total_ms": 9000.0}, "batch": {"total_ms": 100_000.0}}
    described = world(node(("a", "awake")), slo=promises)
    (outcome,) = run_system(policy, described, [replace(arrival("r"), **own)], 1).outcomes
    assert outcome.status is Status.OK
    assert (outcome.slo_ttft_s, outcome.slo_total_s) == promised


REMOTE = {"provider": "cloud", "ttft_s": 0.5, "tpot_s": 0.1, "prefill_per_token_s": 0.0, "spread": 0.0}


def hosted(**more: Any) -> World:
    return world(
        node(),
        models=(
            {"name": "a", "remotes": [{**REMOTE, **more}, {**REMOTE, "provider": "other"}]},
            model("b"),
        ),
        providers=[{"name": "cloud"}, {"name": "other"}],
    )


def test_a_remote_endpoint_answers_after_its_latency() -> None:
    found = simulate(hosted(), [arrival("r", 1.0, output=11)], SchedulerSettings(policy="fcfs"))
    assert found.outcomes[0].ttft_s == pytest.approx(0.5)
    assert found.outcomes[0].latency_s == pytest.approx(0.5 + 10 * 0.1)


def test_what_one_provider_refuses_is_tried_at_the_next() -> None:
    found = simulate(
        hosted(parallel_max=1), [arrival("r"), arrival("s", 0.1)], SchedulerSettings(policy="fcfs"), faults=()
    )
    assert [(each.status, each.attempts, each.endpoint_id) for each in found.outcomes] == [
        (Status.OK, 1, 1),
        (Status.OK, 2, 2),
    ]


def test_limits_of_a_provider_hold_in_every_window_and_nothing_is_lost() -> None:
    one = world(
        node(),
        models=({"name": "a", "remotes": [{**REMOTE, "limits": {"requests_per_minute": 3}}]}, model("b")),
        providers=[{"name": "cloud"}],
    )
    found = simulate(one, [arrival(f"r{number}", number * 0.1) for number in range(10)], SchedulerSettings())
    starts = sorted(each.dispatched_at or 0.0 for each in found.outcomes if each.status is Status.OK)
    assert len(starts) == 10
    assert all(later - earlier >= 60.0 - 1e-6 for earlier, later in zip(starts, starts[3:], strict=False))


SMALL = {"memory_mib_per_gpu": 500}


@pytest.mark.parametrize(
    ("nodes", "used", "brought_in"),
    [
        ([SMALL, {}], {"n1"}, 4),  # they take turns
        ([{**SMALL, "gpus": 2}, {"gpus": 2}], {"n1"}, 2),
        ([{}, {}], {"n0", "n1"}, 2),
    ],
)
def test_the_ollama_baseline_loads_where_most_memory_is_free(
    nodes: list[dict[str, Any]], used: set[str], brought_in: int
) -> None:
    described = world(*(node(**{**each, "name": f"n{number}"}) for number, each in enumerate(nodes)))
    workload = [arrival(f"r{number}", number * 60.0, "ab"[number % 2]) for number in range(4)]
    found = run_system("ollama", described, workload, 1)
    assert [each.status for each in found.outcomes] == [Status.OK] * 4
    assert {each.node_id for each in found.transitions} == used
    assert sum(each.after is EngineState.AWAKE for each in found.transitions) == brought_in


def lively(seed: int = 3) -> tuple[World, list[Arrival]]:
    """Two nodes, three models, of which two do not fit together, and a burst for each."""
    models = (model("a"), model("b"), model("c", memory_mib=300))
    described = world(
        {**node(("a", "asleep"), ("b", "asleep")), "name": "m"},
        node(("c", "awake"), transitions_at_once=1),
        models=models,
        queue_timeout_s=120.0,
        report_interval_s=1.0,
    )
    names = ("a", "b", "c", "a", "b")
    found = [arrival(f"r{number}", (number * 7 * seed) % 61, names[number % 5]) for number in range(40)]
    return described, found


@pytest.mark.parametrize("policy", [each for each in known_systems() if each not in {"round-robin", "weighted"}])
def test_the_same_seed_gives_the_same_run(policy: str) -> None:
    described, workload = lively()
    first, second = (run_system(policy, described, workload, 5) for _ in range(2))
    assert figures(first) == figures(second)
    assert first.transitions == second.transitions
    assert [each.status for each in first.outcomes] == [each.status for each in second.outcomes]


class Listening:
    """Writes down what a core says."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.said: list[cmd.Command] = []

    def handle(self, event: ev.Event) -> list[cmd.Command]:
        found = self._core.handle(event)
        self.said += found
        return found


@pytest.mark.parametrize("policy", ["fcfs", "utilization", "ettft", "slo"])
def test_a_simulated_core_grants_no_leases_and_with_them_nothing_would_be_different(policy: str) -> None:
    described, workload = lively()
    asked = SchedulerSettings(policy=policy)
    cores = [Listening(core) for core in (simulated_scheduler(described, asked), Scheduler(described.catalogue, asked))]
    without, with_leases = (Simulation(described, workload, core, 5, policy=policy).run() for core in cores)
    granted = [sum(isinstance(each, cmd.GrantLease) for each in core.said) for core in cores]
    assert granted[0] == 0 < granted[1]
    dispatched = [[each for each in core.said if isinstance(each, cmd.Dispatch)] for core in cores]
    assert dispatched[0] == dispatched[1]
    assert figures(without) == figures(with_leases)


FAULTS = {
    "a node is lost": (NodeDies(10.0, "m"),),
    "a node is lost and comes back": (NodeDies(10.0, "m", 5.0),),
    "an engine dies": (EngineDies(12.0, 3),),
    "three starts fail": (LoadsFail(0.0, 1, 3),),
    "everything at once": (LoadsFail(0.0, 2, 2), NodeDies(8.0, "n", 20.0), EngineDies(30.0, 1), EngineDies(31.0, 2)),
}


@pytest.mark.parametrize("policy", ["fcfs", "ettft", "slo"])
@pytest.mark.parametrize("name", FAULTS)
def test_whatever_goes_wrong_every_request_ends_and_the_books_balance(name: str, policy: str) -> None:
    described, workload = lively()
    found = run_system(policy, described, workload, 5, faults=FAULTS[name])
    assert len(found.outcomes) == len(workload)
    assert all(each.status is not Status.OPEN for each in found.outcomes)
    assert all(each.attempts <= ATTEMPTS_MAX for each in found.outcomes)
    assert any(each.status is Status.OK for each in found.outcomes)


@pytest.mark.parametrize("policy", ["ettft", "slo"])
def test_nonsense_measurements_neither_stop_the_scheduler_nor_lose_a_request(policy: str) -> None:
    described, workload = lively()
    scheduler = Scheduler(described.catalogue, SchedulerSettings(policy=policy))
    found = Simulation(described, workload, Nonsense(scheduler), 5, policy=policy).run()
    scheduler.check_invariants()
    assert all(each.status is Status.OK for each in found.outcomes)


@pytest.mark.parametrize("policy", ["fcfs", "ettft", "slo"])
def test_what_an_engine_lost_before_its_first_token_is_served_by_the_other_replica(policy: str) -> None:
    two = node(gpus=2)
    two["engines"] = [{"model": "a", "gpus": [gpu], "state": "awake"} for gpu in range(2)]
    described = world(two, models=(model("a", max_replicas=2),))
    workload = [arrival(f"r{number}", 1.0, prompt=300) for number in range(4)]  # each prompt takes 3 s
    found = run_system(policy, described, workload, 1, faults=(EngineDies(3.0, 1),))
    assert [each.status for each in found.outcomes] == [Status.OK] * 4
    retried = [each for each in found.outcomes if each.attempts == 2]
    assert 0 < len(retried) < 4
    assert {each.engine_id for each in found.outcomes} == {each.engine_id for each in retried}


@pytest.mark.parametrize("policy", ["fcfs", "slo"])
def test_what_an_engine_refuses_is_not_asked_of_it_again(policy: str) -> None:
    """Its cache cannot hold the prompt, nor could another replica's."""
    described = world(node(("a", "awake")), models=(model("a"),))
    (outcome,) = run_system(policy, described, [arrival("r", prompt=5000)], 1).outcomes
    assert (outcome.status, outcome.attempts) == (Status.FAILED, 1)


def test_a_provider_that_is_down_is_left_for_the_next() -> None:
    workload = [arrival(f"r{number}", number * 2.0) for number in range(10)]
    found = simulate(hosted(), workload, SchedulerSettings(policy="fcfs"), faults=(RemoteDown(5.0, 1, 8.0),))
    assert all(each.status is Status.OK for each in found.outcomes)
    assert {each.endpoint_id for each in found.outcomes if 6.0 <= each.arrival.at < 12.0} == {2}


@settings(max_examples=25, deadline=None)
@given(
    asked=st.lists(
        st.tuples(
            st.floats(0, 60), st.sampled_from("abc"), st.integers(1, 60), st.integers(1, 40), st.floats(0.5, 100)
        ),
        max_size=25,
    ),
    policy=st.sampled_from(["fcfs", "utilization", "ettft", "slo", "ettft-delayed", "ollama"]),
    struck=st.sampled_from(list(FAULTS.values())),
)
def test_every_story_is_in_order_and_nobody_beats_the_engine(asked: Any, policy: str, struck: Any) -> None:
    described, _ = lively()
    workload = [
        replace(arrival(f"r{number}", at, name, prompt=prompt, output=output), patience_s=patience_s)
        for number, (at, name, prompt, output, patience_s) in enumerate(asked)
    ]
    faults = () if policy == "ollama" else struck
    found = run_system(policy, described, workload, 1, faults=faults)
    assert len(found.outcomes) == len(workload)
    for each in found.outcomes:
        assert each.status is not Status.OPEN
        times = (each.arrival.at, each.dispatched_at, each.first_token_at, each.ended_at)
        known = [time for time in times if time is not None]
        assert known == sorted(known)
        if each.status is Status.OK:
            alone_s = 1.1 + 0.01 * each.arrival.prompt_tokens + (each.output_tokens - 1) * 1.1
            assert each.ended_at is not None
            assert each.dispatched_at is not None
            assert each.ended_at - each.dispatched_at >= alone_s - 1e-6
    assert found.gpu_busy_s <= found.gpus * found.ended_at + 1e-6
