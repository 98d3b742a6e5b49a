"""Where simulated requests come from: rows of a workload file, and traffic drawn without texts."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import pytest

from logos.domain.errors import InvalidWorkload
from logos.domain.nouns import Mode, Priority
from logos.simulation.arrivals import draw
from logos.simulation.from_rows import arrivals
from logos.simulation.traffic import Ladder, Turns, drawn
from logos.workload.generate import Arrivals, Traffic, generate
from logos.workload.rows import WorkloadRow
from tests.simulation.small import node, world

SMALL = world(node())


def row(
    request_id: str = "r", at_ms: float = 0.0, model: str | None = "a", text: str = "x" * 45, **more: Any
) -> WorkloadRow:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": 7}
    if model is not None:
        body["model"] = model
    return WorkloadRow(request_id, at_ms, body, **more)


def test_a_row_becomes_an_arrival_with_estimated_prompt_tokens() -> None:
    found = arrivals([row(at_ms=1500.0, priority=Priority.HIGH, mode=Mode.BATCH)], SMALL)[0]
    assert (found.at, found.models, found.prompt_tokens, found.output_tokens_max) == (1.5, (("a", 0.0),), 10, 7)
    assert (found.priority, found.mode) == (Priority.HIGH, Mode.BATCH)


def test_plain_rows_have_neither_priority_nor_mode() -> None:
    found = arrivals([row(priority=Priority.HIGH, mode=Mode.BATCH)], SMALL, plain=True)[0]
    assert (found.priority, found.mode) == (Priority.MID, Mode.INTERACTIVE)


def test_a_row_without_a_model_may_go_to_any() -> None:
    assert arrivals([row(model=None)], SMALL)[0].models == (("a", 0.0), ("b", 0.0))


def test_a_model_that_the_world_does_not_have_is_named_with_its_line() -> None:
    with pytest.raises(InvalidWorkload, match=r"^x.csv, line 7: the world small has no model 'c'; it has a, b$"):
        arrivals([row(model="c", line=7)], SMALL, "x.csv")


@pytest.mark.parametrize("text", ["0", "-3", "soon", "inf", "nan"])
def test_an_slo_that_is_none_is_named_with_its_line_and_column(text: str) -> None:
    with pytest.raises(InvalidWorkload, match=r"x\.csv, line 3, column slo_ttft_ms: should be more than 0"):
        arrivals([row(line=3, extra={"slo_ttft_ms": text})], SMALL, "x.csv")


def test_keys_teams_and_slos_come_from_columns_of_their_own() -> None:
    extra = [{"key": "ci", "team": "t", "slo_ttft_ms": "250"}, {"key": "me"}, {"key": "ci"}]
    found = arrivals([row(str(number), extra=each) for number, each in enumerate(extra)], SMALL)
    assert [each.key_id for each in found] == [1, 2, 1]
    assert [each.team_id for each in found] == [1, None, None]
    assert found[0].slo_ttft_s == 0.25


def test_turns_of_one_conversation_share_what_was_said_and_others_only_the_system_prompt() -> None:
    traffic = Traffic(
        rate_per_s=1.0, duration_s=200.0, models=("a",), turns=3, prefixes=1, prefix_tokens=50, think_s=5.0
    )
    found = arrivals(generate(traffic), SMALL)
    systems = {each.shared[0] for each in found}
    assert len(systems) == 1
    by_prefix: dict[int | None, list[int]] = {}
    for each in found:
        by_prefix.setdefault(each.prefix, []).append(each.prefix_tokens)
        assert each.prefix_tokens <= each.prompt_tokens + 1
    assert len(by_prefix) > 10
    assert all(lengths == sorted(lengths) for lengths in by_prefix.values())


TRAFFIC = Traffic(rate_per_s=5.0, duration_s=400.0, models=("a", "b"), skew=1.0)


@pytest.mark.parametrize("kind", list(Arrivals))
def test_drawn_traffic_is_the_same_for_the_same_seed_and_as_dense_as_said(kind: Arrivals) -> None:
    traffic = replace(TRAFFIC, arrivals=kind)
    first = drawn(traffic, 3, keys=4)
    assert first == drawn(traffic, 3, keys=4)
    assert first != drawn(traffic, 4, keys=4)
    assert len(first) == pytest.approx(2000, rel=0.2)
    assert [each.at for each in first] == sorted(each.at for each in first)
    assert {each.key_id for each in first} == {1, 2, 3, 4}
    share = sum(each.models[0][0] == "a" for each in first) / len(first)
    assert share == pytest.approx(2 / 3, abs=0.05)


def test_a_ladder_climbs_and_falls_and_is_as_uneven_as_said() -> None:
    ladder = Ladder(("a",), (1.0, 5.0), 60.0, 1200.0, (100.0, 1000.0), (50.0, 10.0), 20, 4000)
    found = drawn(ladder, 1)
    low = sum(int(each.at / 60) % 2 == 0 for each in found)
    assert low == pytest.approx(600, rel=0.15)
    assert len(found) - low == pytest.approx(3000, rel=0.1)
    assert all(21 <= each.prompt_tokens <= 4020 and each.prefix_tokens == 20 for each in found)
    assert statistics.mean(each.output_tokens or 0 for each in found) == pytest.approx(50, rel=0.05)


def test_turns_are_all_there_at_the_start_in_their_order() -> None:
    found = drawn(Turns(("b", "a", "b"), 10, 20))
    assert [(each.at, each.models[0][0], each.output_tokens) for each in found] == [
        (0.0, "b", 20),
        (0.0, "a", 20),
        (0.0, "b", 20),
    ]


def test_traffic_without_models_is_refused() -> None:
    with pytest.raises(ValueError, match="has to name its models"):
        drawn(Traffic())


def test_the_luck_of_a_request_is_its_own_whatever_is_done_with_it() -> None:
    workload = drawn(TRAFFIC, 1)
    assert draw(workload, 5)[:10] == draw(workload[:10], 5)
    assert draw(workload, 5) != draw(workload, 6)
