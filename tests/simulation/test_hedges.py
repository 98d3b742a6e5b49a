"""Second places in simulated runs: what they gain, and that each request keeps one story."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from logos.domain.nouns import Place, Tier
from logos.scheduling import commands as cmd
from logos.scheduling import events as ev
from logos.scheduling.settings import SchedulerSettings
from logos.simulation.arrivals import draw
from logos.simulation.cluster import parse_world
from logos.simulation.faults import NodeDies, RemoteDown
from logos.simulation.figures import figures
from logos.simulation.kernel import GATEWAY, Simulation, simulate
from logos.simulation.remotes import RemoteEndpoint
from logos.simulation.run import Run, Status
from logos.simulation.traffic import drawn
from logos.simulation.world import RemoteProfile, World
from logos.workload.generate import Traffic
from tests.simulation.small import Scripted, arrival, model, node, world

PROVIDERS = [{"name": name, "privacy": "CLOUD_IN_EU_BY_EU_PROVIDER"} for name in ("steady", "moody")]

LIKE_EACH_OTHER = {"max_parallel": 8, "parallel_max": 8, "ttft_s": 0.3}  # a place that is not freed is missed


def two_providers(*, stall_share: float = 0.2, steady_stall_share: float = 0.0) -> World:
    """The same model twice; one of the providers begins some of its answers 8 s late."""
    remotes = [
        {"provider": "steady", **LIKE_EACH_OTHER, "stall_share": steady_stall_share, "stall_s": 8.0},
        {"provider": "moody", **LIKE_EACH_OTHER, "stall_share": stall_share, "stall_s": 8.0},
    ]
    return parse_world(
        {
            "providers": PROVIDERS,
            "models": [{"name": "m", "remotes": remotes}],
            "slo": {"interactive": {"ttft_ms": 1500}},
        },
        "two providers",
    )


def ran(world: World, share: float, *, patience_s: float | None = None, **more: object) -> Run:
    traffic = Traffic(duration_s=200.0, rate_per_s=4.0, models=("m",), prompt_tokens=150, output_tokens=(40, 300))
    workload = [replace(each, patience_s=patience_s) for each in drawn(traffic, 3)]
    settings = SchedulerSettings(policy="slo", hedge_share=share)
    return simulate(world, workload, settings, 1, **more)  # type: ignore[arg-type]  # passed through


def winners(run: Run) -> Counter[str | None]:
    return Counter(each.hedge_winner for each in run.outcomes)


def test_hedges_within_the_bound_keep_promises_that_a_slow_place_would_break() -> None:
    without, hedged = (figures(ran(two_providers(), share)) for share in (0.0, 0.1))
    assert (without["hedged"], without["hedges_won"]) == (0, 0)
    assert 0 < hedged["hedges_won"] <= hedged["hedged"] <= 0.1 * hedged["requests"]
    assert hedged["ok"] == without["ok"] == without["requests"]
    tries = sum(each.attempts for each in ran(two_providers(), 0.1).outcomes)
    assert tries == hedged["requests"] + hedged["hedges_won"]  # nobody was refused
    assert hedged["slo_attainment"] > without["slo_attainment"]


def test_whether_the_second_place_stalls_has_nothing_to_do_with_whether_the_first_did() -> None:
    place = RemoteEndpoint(1, RemoteProfile(ttft_s=0.3, stall_share=0.05, stall_s=1000.0))

    def stalls(luck: float) -> bool:
        return place.times_s(100, 10, luck)[0] > 1000.0

    lucks = draw([arrival(f"r{number}") for number in range(40_000)], seed=1)
    after_a_stall = [stalls(luck.second) for luck in lucks if stalls(luck.latency)]
    assert 0.045 < len(after_a_stall) / len(lucks) < 0.055
    assert 0.03 < sum(after_a_stall) / len(after_a_stall) < 0.07


def test_where_both_places_stall_now_and_then_the_second_often_wins() -> None:
    found = winners(ran(two_providers(stall_share=0.2, steady_stall_share=0.2), 1.0))
    assert found["second"] > 0.4 * (found["first"] + found["second"]) > 10


def test_a_hedged_request_has_one_story_told_by_the_place_that_won() -> None:
    run = ran(two_providers(), 0.2)
    assert len({each.arrival.request_id for each in run.outcomes}) == len(run.outcomes)
    won = [each for each in run.outcomes if each.hedge_winner == "second"]
    assert won
    for each in won:
        assert each.status is Status.OK
        assert each.first_token_at is not None
        assert each.ended_at is not None
        assert each.ended_at > each.first_token_at
        assert each.ttft_s is not None
        assert each.ttft_s < 8.0
        assert each.attempts == 2
    assert winners(run).keys() >= {"first", "second", None}


def test_a_client_that_leaves_takes_both_places_with_it() -> None:
    run = ran(two_providers(), 0.5, patience_s=1.2)
    left = [each for each in run.outcomes if each.status is Status.LEFT]
    assert {each.hedge_winner for each in left} >= {None, "none"}
    assert {each.status for each in run.outcomes} == {Status.OK, Status.LEFT}


@pytest.mark.parametrize("endpoint_id", [1, 2])
def test_a_place_that_fails_in_a_race_leaves_the_request_to_the_other(endpoint_id: int) -> None:
    run = ran(two_providers(stall_share=0.6), 1.0, faults=[RemoteDown(40.0, endpoint_id, 30.0)])
    assert {each.status for each in run.outcomes} == {Status.OK}
    assert winners(run)["second"] > 0


def test_when_both_places_fail_the_request_is_tried_elsewhere_or_has_failed() -> None:
    faults = [RemoteDown(40.0, 1, 20.0), RemoteDown(40.0, 2, 20.0)]
    run = ran(two_providers(), 1.0, faults=faults)
    assert {each.status for each in run.outcomes} == {Status.OK, Status.FAILED}


def test_an_engine_may_be_a_second_place_and_its_node_may_die_in_the_race() -> None:
    remote = {"provider": "moody", "max_parallel": 8, "ttft_s": 0.3, "stall_share": 0.4, "stall_s": 8.0}
    pace = {"step_base_s": 0.03, "step_per_sequence_s": 0.001, "prefill_per_token_s": 0.0005}
    own = model("m")
    own = {**own, "remotes": [remote], "engine": {**own["engine"], "pace": {**own["engine"]["pace"], **pace}}}
    made = parse_world(
        {
            "providers": PROVIDERS,
            "nodes": [node(("m", "awake"))],
            "models": [own],
            "slo": {"interactive": {"ttft_ms": 1000}},
        },
        "engine and provider",
    )
    run = ran(made, 1.0, faults=[NodeDies(60.0, "n", 20.0)])
    assert {each.status for each in run.outcomes} <= {Status.OK, Status.FAILED}
    assert {each.engine_id is None for each in run.outcomes if each.hedge_winner == "second"} == {True, False}


def test_a_second_place_that_comes_with_the_first_byte_or_later_is_given_back() -> None:
    """Nor is one taken for a request that has ended, or that nobody knows."""

    def too_late(core: Scripted, event: ev.Event) -> list[cmd.Command]:
        if not isinstance(event, ev.FirstToken | ev.RequestFinished):
            return []
        number = len(core.heard)
        return [cmd.Dispatch(f"hedge{number}", GATEWAY, Place(1, "n/1"), Tier.WARM, hedge_of=event.request_id)]

    of = world(node(("a", "awake")), models=(model("a"),))
    core = Scripted(of, too_late)
    run = Simulation(of, [arrival("r")], core, 1, policy="scripted").run()
    assert [(each.status, each.hedge_winner) for each in run.outcomes] == [(Status.OK, None)]
    cancelled = [each for each in core.heard if isinstance(each, ev.RequestCancelled)]
    assert len(cancelled) == sum(isinstance(each, ev.FirstToken | ev.RequestFinished) for each in core.heard) == 2


def test_the_same_seed_gives_the_same_run() -> None:
    first, again = (figures(ran(two_providers(), 0.1)) for _ in range(2))
    assert first == again
