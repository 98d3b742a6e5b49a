from __future__ import annotations

from logos.commands.status import status_lines
from tests.scenarios.world import World, node, pooled, request

HEALTH = {"status": "ok", "ledger": {"lag_s": 0.1234, "database_up": True}}


def test_engines_claims_and_host_memory_are_tables() -> None:
    world = World(pooled(1, gib=16), pooled(2, gib=16))
    world.node_seen(node("n", 24))
    world.arrive(request("a", 1))
    world.awake("n/m1/1")
    world.finishes("a")
    world.now += 60.0
    world.arrive(request("b", 2))
    lines = list(status_lines({**HEALTH, "scheduler": world.scheduler.summary()}))
    assert any(line.split() == ["ledger.lag_s", "0.1"] for line in lines)
    assert any(line.split() == ["ledger.database_up", "yes"] for line in lines)
    engines = lines[lines.index("engines:") + 1 :]
    assert engines[0].split()[:4] == ["engine_id", "model", "node_id", "state"]
    assert engines[1].split()[:4] == ["n/m1/1", "m1", "n", "falling_asleep"]
    assert engines[1].split()[-1] == "m2"
    claims = lines[lines.index("claims:") + 1 :]
    assert claims[1].split()[:4] == ["m2", "n", "-", "n/m1/1"]
    nodes = lines[lines.index("nodes:") + 1 :]
    assert nodes[1].split()[:3] == ["n", "1", f"{16 * 1024}/{24 * 1024}"]


def test_a_part_that_does_not_answer_is_a_line() -> None:
    lines = list(status_lines({"status": "degraded", "scheduler": {"error": "does not answer (TimeoutError)"}}))
    assert lines[1].endswith("does not answer (TimeoutError)")
