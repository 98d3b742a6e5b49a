from __future__ import annotations

import json

from logos.domain.lifecycle import EngineState
from tests.scenarios.world import World, node, pooled, remote, request


def test_the_summary_is_plain_json_and_says_what_is_where() -> None:
    world = World(remote(1, parallel=1), pooled(2, gib=10))
    world.node_seen(node("n", 24))
    world.arrive(request("a", 1), request("b", 1), request("c", 2))
    summary = json.loads(json.dumps(world.scheduler.summary()))
    assert (summary["policy"], summary["waiting"], summary["running"]) == ("ettft", 2, 1)
    assert [(each["endpoint_id"], each["waiting"], each["running"]) for each in summary["endpoints"]] == [
        (1, 1, 1),
        (2, 1, 0),
    ]
    assert [(each["engine_id"], each["state"], each["memory_mib"]) for each in summary["engines"]] == [
        ("n/m2/1", "loading", 10 * 1024)
    ]
    assert summary["nodes"][0]["gpus"] == [{"index": 0, "memory_mib": 24 * 1024, "free_mib": 14 * 1024}]
    assert summary["gateways"] == [{"gateway_id": "g1", "waiting": 2, "running": 1, "leases": 0}]


def test_an_idle_scheduler_holds_nothing() -> None:
    world = World(remote(1))
    world.arrives(request("a"))
    world.finishes("a")
    world.passes(60.0)
    assert world.is_empty()
    assert world.scheduler.summary()["endpoints"][0]["leased_unused"] == 0


def test_claims_host_memory_and_who_makes_room_for_whom_are_told() -> None:
    world = World(pooled(1, gib=16), pooled(2, gib=16))
    world.node_seen(node("n", 24))
    world.arrive(request("a", 1))
    world.awake("n/m1/1")
    world.finishes("a")
    world.now += 60.0
    world.arrive(request("b", 2))
    falling = json.loads(json.dumps(world.scheduler.summary()))
    assert [(each["model"], each["victims"], each["settled"]) for each in falling["claims"]] == [
        ("m2", ["n/m1/1"], True)
    ]
    assert [(each["state"], each["claimed_by"]) for each in falling["engines"]] == [("falling_asleep", "m2")]
    world.engine("n/m1/1", EngineState.ASLEEP, 2.0)
    summary = world.scheduler.summary()
    assert summary["claims"] == []
    assert [(each["sleeps"], each["host_taken_mib"]) for each in summary["nodes"]] == [(True, 16 * 1024)]
