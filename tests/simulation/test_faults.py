"""Fault files: what they may say, what it does to a run, and how long recovery takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from logos.domain.errors import InvalidDeclaration
from logos.scheduling import commands as cmd
from logos.scheduling import events as ev
from logos.simulation.fault_files import Trouble, parse_faults
from logos.simulation.faults import NodeDies
from logos.simulation.kernel import Simulation
from logos.simulation.recovery import recovery_s
from logos.simulation.run import Outcome, Run, SimulationFault, Status
from logos.simulation.systems import known_systems, run_system
from logos.simulation.world import World
from tests.simulation.small import Scripted, arrival, model, node, world

REMOTE = {"provider": "cloud", "ttft_s": 0.5, "tpot_s": 0.1, "spread": 0.0, "limits": {"requests_per_minute": 50}}


def described() -> World:
    return world(
        node(("a", "awake"), ("b", "asleep")),
        {"name": "m", "count": 2, "memory_mib_per_gpu": 1000},
        models=(model("a", max_replicas=2), {**model("b"), "remotes": [REMOTE]}, {"name": "c", "remotes": [REMOTE]}),
        providers=[{"name": "cloud"}],
        queue_timeout_s=60.0,
    )


EVERYTHING = {
    "node_lost": [{"at_s": 20.0, "node": "n", "back_after_s": 20.0}, {"at_s": 70.0, "node": "m-1"}],
    "engine_dies": [{"at_s": 15.0, "model": "a"}],
    "loads_fail": [{"at_s": 14.0, "model": "a", "times": 3}],
    "remote_down": [{"at_s": 30.0, "for_s": 10.0, "provider": "cloud"}],
    "remote_limited": [{"at_s": 50.0, "for_s": 60.0, "provider": "cloud", "model": "c", "requests_per_minute": 2}],
    "nonsense": [{"at_s": 60.0, "for_s": 30.0}],
}


def troubles(document: Any) -> tuple[Trouble, ...]:
    return parse_faults(document, described(), "faults.yaml")


def test_what_goes_wrong_comes_in_order_of_time_under_a_name() -> None:
    assert [(each.name, each.at, each.over_after_s, len(each.faults)) for each in troubles(EVERYTHING)] == [
        ("loads_fail a x 3", 14.0, 0.0, 1),
        ("engine_dies a", 15.0, 0.0, 1),
        ("node_lost n", 20.0, 20.0, 1),
        ("remote_down cloud", 30.0, 10.0, 2),
        ("remote_limited cloud c", 50.0, 60.0, 1),
        ("nonsense", 60.0, 30.0, 1),
        ("node_lost m-1", 70.0, 0.0, 1),
    ]


@pytest.mark.parametrize("policy", [*known_systems(), "slo-delayed"])
@pytest.mark.parametrize("shift_s", [0.0, 0.37])
def test_under_every_policy_every_request_ends_whatever_goes_wrong(policy: str, shift_s: float) -> None:
    faults = [replace(each, at=each.at + shift_s) for trouble in troubles(EVERYTHING) for each in trouble.faults]
    workload = [arrival(f"r{number}", number * 1.5, "abc"[number % 3]) for number in range(100)]
    found = run_system(policy, described(), workload, 5, faults=faults)
    assert all(each.status is not Status.OPEN for each in found.outcomes)
    assert any(each.status is Status.OK for each in found.outcomes)


def test_a_provider_that_takes_less_than_it_is_known_to_says_so_until_it_is_over() -> None:
    squeezed = {"at_s": 10.0, "for_s": 20.0, "provider": "cloud", "model": "c", "parallel_max": 1}
    (trouble,) = troubles({"remote_limited": [squeezed]})
    workload = [arrival(f"r{number}", at, "c") for number, at in enumerate((1.0, 1.1, 11.0, 11.1, 75.0, 75.1))]
    found = run_system("fcfs", described(), workload, 1, faults=trouble.faults)
    assert [each.reason for each in found.outcomes] == ["", "", "", "429", "", ""]


def test_measurements_are_nonsense_only_for_as_long_as_the_file_says() -> None:
    (trouble,) = troubles({"nonsense": [{"at_s": 10.0, "for_s": 10.0}]})
    of = described()
    core = Scripted(of, lambda core, event: ())
    workload = [arrival(f"r{number}", at) for number, at in enumerate((1.0, 11.0, 30.0))]
    Simulation(of, workload, core, 1, policy="scripted", faults=trouble.faults).run()
    told = [each.ttft_s for each in core.heard if isinstance(each, ev.FirstToken)]
    assert [each == pytest.approx(1.2) for each in told] == [True, False, True]


@pytest.mark.parametrize("policy", ["ollama", "fcfs", "slo"])
def test_what_is_tried_again_waits_no_longer_in_all_than_it_may(policy: str) -> None:
    """It lost its node before its first token, and now stands behind a request that came later and may wait longer."""
    one = world(
        node(("a", "awake")),
        {"name": "m", "memory_mib_per_gpu": 100},
        models=(model("a", max_parallel=1),),
        queue_timeout_s=60.0,
    )
    workload = [arrival("old", 15.0, prompt=900), arrival("new", 19.0)]
    old, new = run_system(policy, one, workload, 1, faults=(NodeDies(20.0, "n"),)).outcomes
    assert [each.status for each in (old, new)] == [Status.REJECTED] * 2
    assert old.ended_at is not None
    assert old.ended_at <= 75.0 + 1e-9


def sleeping_when_lost(later_s: float) -> Scripted:
    """A core that sends an engine to sleep when it hears that its node is gone, or so long after it."""

    def script(core: Scripted, event: ev.Event) -> list[cmd.Command]:
        if isinstance(event, ev.NodeLost):
            return [cmd.WakeAt(event.at + later_s)] if later_s else [cmd.SleepEngine("n-1")]
        return [cmd.SleepEngine("n-1")] if isinstance(event, ev.Woke) else []

    return Scripted(described(), script)


def test_an_order_that_crosses_the_news_that_its_node_is_gone_is_lost() -> None:
    workload = [arrival("r"), arrival("s", 50.0, "c")]
    faults = (NodeDies(20.0, "n"),)
    Simulation(described(), workload, sleeping_when_lost(0.0), 1, policy="scripted", faults=faults).run()
    with pytest.raises(SimulationFault, match="SleepEngine of n-1, which nobody has"):
        Simulation(described(), workload, sleeping_when_lost(1.0), 1, policy="scripted", faults=faults).run()


BAD: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "nothing goes wrong here; say what does: node_lost, engine_dies, loads_fail"),
    "an unknown kind": ({"node_dies": []}, "unknown key node_dies: the nearest valid key is engine_dies"),
    "no time": ({"node_lost": [{"node": "n"}]}, "node_lost[0].at_s is missing"),
    "a time below zero": ({"node_lost": [{"at_s": -1, "node": "n"}]}, "node_lost[0].at_s: should be greater than or"),
    "an unknown node": (
        {"node_lost": [{"at_s": 1, "node": "m"}]},
        "node_lost[0].node: the world small has no node 'm'; it has n, m-1, m-2",
    ),
    "a model without engines": (
        {"loads_fail": [{"at_s": 1, "model": "c"}]},
        "loads_fail[0].model: the world small has no model with an engine 'c'; it has a, b",
    ),
    "loads that fail no times": (
        {"loads_fail": [{"at_s": 1, "model": "a", "times": 0}]},
        "loads_fail[0].times: should be greater than or equal to 1",
    ),
    "an unknown provider": (
        {"remote_down": [{"at_s": 1, "for_s": 1, "provider": "local"}]},
        "remote_down[0].provider: the world small has no provider 'local'; it has cloud",
    ),
    "a model that is not there": (
        {"remote_down": [{"at_s": 1, "for_s": 1, "provider": "cloud", "model": "a"}]},
        "remote_down[0].model: the world small has no model at cloud 'a'; it has b, c",
    ),
    "a limit of nothing": (
        {"remote_limited": [{"at_s": 1, "for_s": 1, "provider": "cloud"}]},
        "remote_limited[0]: needs a limit: requests_per_minute, tokens_per_minute or parallel_max",
    ),
    "an outage without end": ({"nonsense": [{"at_s": 1, "for_s": float("inf")}]}, "nonsense[0].for_s: should be"),
    "a node that is lost while it is away": (
        {"node_lost": [{"at_s": 9, "node": "n", "back_after_s": 5}, {"at_s": 5, "node": "n"}]},
        "node_lost n at 9 s begins before an earlier one is over",
    ),
    "a provider that is down while it is down": (
        {
            "remote_down": [
                {"at_s": 5, "for_s": 10, "provider": "cloud"},
                {"at_s": 9, "for_s": 1, "provider": "cloud", "model": "c"},
            ]
        },
        "remote_down cloud c at 9 s begins before an earlier one is over",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_fault_that_does_not_fit_the_world_is_named_in_one_line(name: str) -> None:
    document, line = BAD[name]
    with pytest.raises(InvalidDeclaration) as caught:
        troubles(document)
    assert caught.value.message.startswith(f"faults.yaml: {line}")
    assert "\n" not in caught.value.message


# Recovery.


def told(*stories: tuple[float, float | None]) -> Run:
    """A run of requests, each (arrival, TTFT or None if it failed), with an SLO of 1 s."""
    outcomes = []
    for number, (at, ttft_s) in enumerate(stories):
        outcome = Outcome(arrival(f"r{number}", at), slo_ttft_s=1.0, status=Status.FAILED)
        if ttft_s is not None:
            outcome.status, outcome.first_token_at, outcome.ended_at = Status.OK, at + ttft_s, at + ttft_s
        outcomes.append(outcome)
    return Run("w", "p", 1, outcomes)


TIMES = (0.0, 11.0, 15.0, 35.0, 60.0, 85.0)
FINE = told(*((at, 0.5) for at in TIMES))


@pytest.mark.parametrize(
    ("ttfts", "seconds"),
    [
        ((0.5, 0.5, 0.5, 0.5, 0.5, 0.5), 0.0),
        ((9.0, 0.5, 0.5, 0.5, 0.5, 0.5), 0.0),  # before it struck
        ((0.5, 9.0, 9.0, 0.5, 0.5, 0.5), 5.0),
        ((0.5, 9.0, 0.5, None, 0.5, 0.5), 25.0),
        ((0.5, 0.5, 0.5, 0.5, 0.5, 9.0), 0.0),  # long after a calm of 30 s: not because of it
        ((0.5, 0.5, 0.5, 9.0, 9.0, 9.0), None),
    ],
)
def test_recovery_is_until_the_last_request_that_fares_worse(ttfts: Any, seconds: float | None) -> None:
    assert recovery_s(told(*zip(TIMES, ttfts, strict=True)), FINE, 10.0) == seconds


def test_what_was_late_anyway_does_not_delay_recovery_unless_it_is_not_answered_at_all() -> None:
    late = told((0.0, 0.5), (12.0, 9.0), (50.0, 0.5))
    assert recovery_s(late, late, 10.0) == 0.0
    assert recovery_s(told((0.0, 0.5), (12.0, None), (50.0, 0.5)), late, 10.0) == 2.0


def test_there_is_no_recovery_before_the_fault_itself_is_over() -> None:
    found = told((0.0, 0.5), (11.0, 9.0), (15.0, 0.5), (35.0, 0.5), (60.0, 9.0), (85.0, 0.5))
    assert recovery_s(found, FINE, 10.0) == 1.0
    assert recovery_s(found, FINE, 10.0, lasts_s=10.0) == 1.0
    assert recovery_s(found, FINE, 10.0, lasts_s=30.0) is None


def test_the_slo_that_recovery_is_counted_by_may_be_given() -> None:
    found = told(*((at, 0.8) for at in TIMES))
    assert recovery_s(found, FINE, 10.0) == 0.0
    assert recovery_s(found, FINE, 10.0, 0.6) is None
