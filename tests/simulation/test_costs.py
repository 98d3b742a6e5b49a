"""What a simulated run costs, against sums made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from logos.scheduling.settings import SchedulerSettings
from logos.simulation.costs import cost_micro_cents, costs
from logos.simulation.figures import figures
from logos.simulation.kernel import simulate
from logos.simulation.run import Run, Status
from logos.simulation.world import World
from tests.simulation.small import arrival, model, node, world

FCFS = SchedulerSettings(policy="fcfs")
REMOTE = {"provider": "cloud", "ttft_s": 0.5, "tpot_s": 0.1, "spread": 0.0}


def priced(remote: dict[str, float], local: dict[str, float] | None = None, **more: Any) -> World:
    """`a` has an engine, `c` is hosted elsewhere."""
    return world(
        node(("a", "awake")),
        models=({**model("a"), "price": local or {}}, {"name": "c", "remotes": [{**REMOTE, "price": remote, **more}]}),
        providers=[{"name": "cloud"}],
        currency="USD",
    )


def test_tokens_are_charged_by_type_and_place() -> None:
    of = priced({"prompt": 0.15, "completion": 0.60}, {"prompt": 0.01, "completion": 0.02})
    workload = [
        arrival("r1", 0.0, "c", prompt=10, output=5),
        replace(arrival("r2", 1.0, "c", prompt=1000, output=200), output_tokens_max=900),
        arrival("r3", 2.0, "a", prompt=100, output=7),
    ]
    # 0.15 USD per million tokens are 15 micro-cents a token; there are 1e8 micro-cents in a unit.
    each = [10 * 15 + 5 * 60, 1000 * 15 + 200 * 60, 100 * 1 + 7 * 2]
    run = simulate(of, workload, FCFS)
    assert [cost_micro_cents(run, outcome) for outcome in run.outcomes] == each == [450, 27_000, 114]
    assert figures(run)["cost"] == {
        "currency": "USD",
        "remote_requests": 2,
        "remote_micro_cents": 27_450,
        "local_micro_cents": 114,
    }


def test_each_answer_is_rounded_once_as_its_charge_is() -> None:
    """10 micro-cents per million: 50,000 tokens are half a micro-cent, which is charged as one."""
    workload = [arrival(f"r{number}", float(number), "c", prompt=50_000, output=1) for number in range(3)]
    assert costs(simulate(priced({"prompt": 1e-7}), workload, FCFS))["remote_micro_cents"] == 3


def test_what_was_not_answered_costs_nothing() -> None:
    of = priced({"prompt": 1.0, "completion": 1.0}, parallel_max=1)
    run = simulate(of, [arrival("r", 0.0, "c"), arrival("s", 0.1, "c")], FCFS)
    assert [each.status for each in run.outcomes] == [Status.OK, Status.FAILED]
    assert costs(run)["remote_micro_cents"] == (10 + 5) * 100
    assert costs(run)["remote_requests"] == 1


def test_without_prices_there_is_no_currency() -> None:
    run = simulate(priced({}), [arrival("r", 0.0, "c")], FCFS)
    assert costs(run) == {
        "currency": None,
        "remote_requests": 1,
        "remote_micro_cents": 0,
        "local_micro_cents": 0,
    }
    assert costs(Run("w", "p", 1, []))["currency"] is None


def test_gpu_seconds_are_those_in_which_an_engine_computed() -> None:
    """Two GPUs for one step of the prompt (1.2 s) and four of one token (1.1 s each)."""
    of = world(
        node(gpus=2) | {"engines": [{"model": "a", "gpus": [0, 1], "state": "awake"}]}, models=(model("a", gpus=2),)
    )
    found = figures(simulate(of, [arrival("r", 2.0)], FCFS))
    assert found["gpu_seconds"] == pytest.approx(2 * (1.2 + 4 * 1.1))
    assert found["gpu_use"] == pytest.approx(found["gpu_seconds"] / (2 * found["seconds"]))
