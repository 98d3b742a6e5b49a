"""Cluster files: what they become, and what bad ones get: one line that names the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from logos.domain.errors import InvalidDeclaration
from logos.simulation.clairvoyant import _awake_sets
from logos.simulation.cluster import parse_world, read_world, shipped_worlds
from logos.simulation.run import Status
from logos.simulation.systems import run_system
from tests.simulation.small import arrival, model, node, world


@pytest.mark.parametrize("name", ["contention", "sleep-a100", "sleep-a4000", "market", "ladder", "laptop"])
def test_a_world_is_shipped_and_brings_its_own_traffic(name: str) -> None:
    assert name in shipped_worlds()
    found = read_world(name)
    assert found.name == name
    assert found.gpus > 0
    assert found.source is not None


def test_in_contention_exactly_the_stated_models_fit_together() -> None:
    found = read_world("contention")
    sets = {frozenset(found.model_name_at[each].split("/")[1] for each in awake) for awake in _awake_sets(found)}
    assert sets == {
        frozenset({"Qwen2.5-Coder-14B-Instruct-AWQ"}),
        frozenset({"Qwen2.5-Coder-7B-Instruct-AWQ", "Mistral-7B-Instruct-v0.3-AWQ"}),
    }


def test_a_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "nodes: [{name: n, memory_mib_per_gpu: 1000}]\nmodels: [{name: a, count: 2, engine: {memory_mib: 500}}]\n",
        encoding="utf-8",
    )
    found = read_world(str(path))
    assert found.name == "mine"
    assert [each.name for each in found.catalogue.models] == ["a-1", "a-2"]


def test_prices_and_quality_reach_the_candidates() -> None:
    found = parse_world(
        {
            "nodes": [node()],
            "providers": [{"name": "cloud"}],
            "models": [
                {**model("a"), "weights": {"quality": 5}, "remotes": [{"provider": "cloud", "price": {"prompt": 0.5}}]},
                {**model("b"), "weights": {"quality": 1}},
            ],
        },
        "w",
    )
    local, remote, other = found.candidates((("a", 2.0), ("b", 1.0)))
    assert (local.endpoint_id, local.prompt_price, local.quality, local.weight) == (1, 0, 1.0, 2.0)
    assert (remote.endpoint_id, remote.prompt_price) == (2, 50_000_000)
    assert (other.endpoint_id, other.quality, other.weight) == (3, 0.0, 1.0)


def test_the_memory_figures_are_those_of_the_ledger() -> None:
    found = world(node(("a", "asleep")), models=(model("a", memory_mib=600, residue_mib=10),))
    spec = found.catalogue.endpoint[1].engine
    assert spec is not None
    assert (spec.memory_per_gpu_mib, spec.residue_per_gpu_mib, spec.host_mib) == (600, 10, 600)


def test_the_scheduler_is_told_how_many_transitions_a_node_makes_at_once() -> None:
    found = [world(node(("a", "asleep"), **said)).nodes[0] for said in ({}, {"transitions_at_once": 2})]
    assert [each.node.transitions_at_once for each in found] == [None, 2]


ONE_NODE = [node()]
SMALL = {"name": "small", "memory_mib_per_gpu": 500}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a model larger than any node": (
        {"nodes": ONE_NODE, "models": [model("a", memory_mib=2000)]},
        "models[0].engine: a needs 2000 MiB on each of 1 GPUs, which no node has",
    ),
    "more GPUs than any node has": (
        {"nodes": ONE_NODE, "models": [model("a", gpus=2)]},
        "models[0].engine: a needs 300 MiB on each of 2 GPUs",
    ),
    "negative memory": (
        {"nodes": ONE_NODE, "models": [model("a", memory_mib=-1)]},
        "models[0].engine.memory_mib: should be greater than or equal to 1",
    ),
    "negative memory of a GPU": (
        {"nodes": [{"name": "n", "memory_mib_per_gpu": -5}], "models": [model("a")]},
        "nodes[0].memory_mib_per_gpu",
    ),
    "an unknown GPU": (
        {"nodes": [{**node(), "engines": [{"model": "a", "gpus": [3]}]}], "models": [model("a")]},
        "nodes[0].engines[0].gpus: there is no GPU 3 on n, which has 1",
    ),
    "an engine of an unknown model": (
        {"nodes": [node(("nope", "awake"))], "models": [model("a")]},
        "nodes[0].engines[0].model: no model 'nope'",
    ),
    "an engine on too few GPUs": (
        {"nodes": [{**node(("a", "awake")), "gpus": 2}], "models": [model("a", gpus=2)]},
        "nodes[0].engines[0].gpus: a runs on 2 GPUs, 1 are given",
    ),
    "engines that do not fit together": (
        {"nodes": [node(("a", "awake"), ("b", "awake"))], "models": [model("a"), model("b")]},
        "nodes[0].engines: they take 1200 MiB on GPU 0, which has 1000",
    ),
    "sleepers that host RAM cannot hold": (
        {"nodes": [node(("a", "asleep"), ("b", "asleep"), host_memory_mib=1000)], "models": [model("a"), model("b")]},
        "nodes[0].engines: they keep 1200 MiB in host RAM, which has 1000",
    ),
    "a model whose weights no host RAM holds": (
        {"nodes": [node(host_memory_mib=599), {**SMALL, "host_memory_mib": 0}], "models": [model("a")]},
        "models[0].engine: a keeps 600 MiB in host RAM, which no node that has its GPUs has; say `sleeps: false`",
    ),
    "a GPU that is named twice": (
        {"nodes": [{**node(), "engines": [{"model": "a", "gpus": [0, 0]}]}], "models": [model("a")]},
        "nodes[0].engines[0].gpus: a GPU is there twice",
    ),
    "a node with two thousand million GPUs": (
        {"nodes": [node(gpus=2_000_000_000)], "models": [model("a")]},
        "nodes[0].gpus: should be less than or equal to 100000",
    ),
    "more GPUs altogether than can be simulated": (
        {"nodes": [node(gpus=1000, count=1000)], "models": [model("a")]},
        "nodes: 1,000,000 GPUs are more than can be simulated; at most 100,000 can",
    ),
    "more models than can be simulated": (
        {"nodes": ONE_NODE, "models": [{**model("a"), "count": 60_000}, {**model("b"), "count": 60_000}]},
        "models: 120,000 models are more than can be simulated; at most 100,000 can",
    ),
    "reports without a pause": (
        {"nodes": ONE_NODE, "models": [model("a")], "report_interval_s": 1e-300},
        "report_interval_s: should be 0 (no reports) or at least 0.01",
    ),
    "sleep where nothing sleeps": (
        {"nodes": [node(("a", "asleep"), sleeps=False)], "models": [model("a")]},
        "nodes[0].engines[0].state: a cannot sleep on n",
    ),
    "an unknown provider": (
        {"nodes": ONE_NODE, "models": [{"name": "a", "remotes": [{"provider": "gone"}]}]},
        "models[0].remotes[0].provider: there is no provider 'gone'",
    ),
    "a provider named like the cluster's own nodes": (
        {"providers": [{"name": "local"}], "models": [{"name": "a", "remotes": [{"provider": "local"}]}]},
        "providers: 'local' is what the cluster's own nodes are called; give it another name",
    ),
    "a provider of one model twice": (
        {"providers": [{"name": "p"}], "models": [{"name": "a", "remotes": [{"provider": "p"}, {"provider": "p"}]}]},
        "models[0].remotes: 'p' is there twice",
    ),
    "traffic that says what changes nothing": (
        {"nodes": ONE_NODE, "models": [model("a")], "traffic": {"turns": ["a"], "rate": 2.0}},
        "traffic: rate changes nothing in traffic by turns, which has output_tokens, prompt_tokens, turns",
    ),
    "traffic by turns and by rates": (
        {"nodes": ONE_NODE, "models": [model("a")], "traffic": {"turns": ["a"], "rates": [1.0]}},
        "traffic: give turns or rates, not both",
    ),
    "no model": ({"nodes": ONE_NODE, "models": []}, "models: should have at least one"),
    "no GPU": (
        {"nodes": [{**node(("a", "asleep")), "engines": [{"model": "a", "gpus": []}]}], "models": [model("a")]},
        "nodes[0].engines[0].gpus: a runs on 1 GPUs, 0 are given",
    ),
    "a currency that is none": (
        {"nodes": ONE_NODE, "models": [model("a")], "currency": "eur"},
        "currency: should be three capital letters, as EUR",
    ),
    "shares of one": (
        {"nodes": ONE_NODE, "models": [{**model("a"), "output_shares": [0.5]}]},
        "models[0]: output_shares should have the least and the greatest share, and any number between",
    ),
    "a model that is nowhere": ({"nodes": ONE_NODE, "models": [{"name": "a"}]}, "models[0]: a model needs `engine`"),
    "the same model twice": ({"nodes": ONE_NODE, "models": [model("a"), model("a")]}, "models: 'a' is there twice"),
    "a residue larger than the engine": (
        {"nodes": ONE_NODE, "models": [model("a", residue_mib=601)]},
        "models[0].engine: residue_mib should be at most memory_mib",
    ),
    "a step that takes no time": (
        {"nodes": ONE_NODE, "models": [model("a", pace={"step_base_s": 0.0})]},
        "models[0].engine.pace.step_base_s: should be greater than 0",
    ),
    "shares that fall": (
        {"nodes": ONE_NODE, "models": [{**model("a"), "output_shares": [0.5, 0.1]}]},
        "models[0]: output_shares are quantiles: they should not fall",
    ),
    "an SLO of zero": (
        {"nodes": ONE_NODE, "models": [model("a")], "slo": {"interactive": {"ttft_ms": 0.0}}},
        "slo.interactive.ttft_ms: should be greater than 0",
    ),
    "traffic for an unknown model": (
        {"nodes": ONE_NODE, "models": [model("a")], "traffic": {"models": ["b"]}},
        "traffic: there is no model 'b'",
    ),
    "traffic without end": (
        {"nodes": ONE_NODE, "models": [model("a")], "traffic": {"rate": 10000.0, "duration_s": 1e6}},
        "traffic: that would be more than 1000000 requests",
    ),
    "a misspelt key": ({"nodes": ONE_NODE, "modles": []}, "unknown key modles: the nearest valid key is models"),
    "no models": ({"nodes": ONE_NODE, "models": []}, "models"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_does_not_fit_gets_one_line_that_names_the_place(name: str) -> None:
    document, told = BAD[name]
    with pytest.raises(InvalidDeclaration) as caught:
        parse_world(document, "w", "mine.yaml")
    assert caught.value.message.startswith(f"mine.yaml: {told}")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("said_of_the_node", "said_of_the_engine"),
    [
        ({"host_memory_mib": 600}, {}),
        ({"host_memory_mib": 0}, {}),
        ({"host_memory_mib": 500}, {"sleeps": False}),
        ({"host_memory_mib": 500, "sleeps": False}, {}),
        ({"host_memory_mib": 500}, {"host_memory_mib": 500}),
    ],
)
def test_host_ram_matters_only_where_something_can_sleep(
    said_of_the_node: dict[str, Any], said_of_the_engine: dict[str, Any]
) -> None:
    known = world(node(**said_of_the_node), models=(model("a", **said_of_the_engine),))
    assert run_system("slo", known, [arrival("r")]).outcomes[0].status is Status.OK


def test_names_are_compared_in_time_however_many_there_are() -> None:
    names = [model.name for model in world(node(), models=({**model("m"), "count": 30_000},)).catalogue.models]
    assert (len(names), names[-1]) == (30_000, "m-30000")


def test_a_name_that_is_no_world_names_those_there_are() -> None:
    with pytest.raises(InvalidDeclaration, match="no world 'contentoin' and no such file: shipped are contention"):
        read_world("contentoin")
