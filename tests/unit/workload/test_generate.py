import collections
import itertools
import statistics
from dataclasses import replace

import pytest

from logos.domain.nouns import Mode, Priority
from logos.workload.generate import Arrivals, Traffic, generate
from logos.workload.rows import WorkloadRow, format_rows, parse_rows

BUSY = Traffic(rate_per_s=20, duration_s=200, seed=7)


def gaps(rows: tuple[WorkloadRow, ...]) -> list[float]:
    times = [row.arrival_ms for row in rows]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def variation(rows: tuple[WorkloadRow, ...]) -> float:
    """Squared coefficient of variation of the gaps."""
    found = gaps(rows)
    return statistics.variance(found) / statistics.mean(found) ** 2


@pytest.mark.parametrize("arrivals", Arrivals)
def test_the_same_seed_gives_the_same_rows_and_another_seed_others(arrivals: Arrivals) -> None:
    traffic = replace(BUSY, arrivals=arrivals, duration_s=20, turns=3, prefixes=2, models=("a", "b"))
    assert generate(traffic) == generate(traffic)
    assert generate(traffic) != generate(replace(traffic, seed=8))


@pytest.mark.parametrize("arrivals", Arrivals)
def test_the_rate_is_kept_within_the_duration(arrivals: Arrivals) -> None:
    rows = generate(replace(BUSY, arrivals=arrivals))
    assert len(rows) == pytest.approx(4000, rel=0.1)
    assert 0 <= rows[0].arrival_ms <= rows[-1].arrival_ms < 200_000


def test_the_rate_is_that_of_requests_however_long_conversations_are() -> None:
    assert len(generate(replace(BUSY, turns=5, think_s=1.0))) == pytest.approx(4000, rel=0.1)


def test_arrivals_differ_in_how_crowded_they_are() -> None:
    assert variation(generate(replace(BUSY, arrivals=Arrivals.STEADY))) == pytest.approx(0, abs=1e-3)
    assert variation(generate(BUSY)) == pytest.approx(1, rel=0.15)
    assert variation(generate(replace(BUSY, arrivals=Arrivals.BURSTY, burstiness=6))) == pytest.approx(6, rel=0.3)


def test_a_day_has_a_quiet_night_and_a_busy_noon() -> None:
    times = [row.arrival_ms for row in generate(replace(BUSY, arrivals=Arrivals.DIURNAL))]
    night = sum(not 25_000 < time < 175_000 for time in times)
    noon = sum(75_000 < time < 125_000 for time in times)
    assert noon > 4 * night


def test_models_are_as_skewed_as_said() -> None:
    rows = generate(replace(BUSY, models=("a", "b", "c"), skew=1.0))
    counts = collections.Counter(row.model for row in rows)
    assert counts["a"] / counts["b"] == pytest.approx(2, rel=0.2)
    assert counts["a"] / counts["c"] == pytest.approx(3, rel=0.25)


def test_without_models_the_choice_is_left_to_the_platform() -> None:
    assert {row.model for row in generate(BUSY)} == {None}


def test_modes_and_priorities_have_their_shares() -> None:
    rows = generate(replace(BUSY, batch_share=0.25, priorities=(1, 2, 1)))
    assert sum(row.mode is Mode.BATCH for row in rows) / len(rows) == pytest.approx(0.25, abs=0.03)
    assert sum(row.priority is Priority.MID for row in rows) / len(rows) == pytest.approx(0.5, abs=0.03)


def test_a_later_turn_repeats_the_earlier_ones_and_prefixes_are_shared() -> None:
    rows = generate(replace(BUSY, turns=4, prefixes=2, prefix_tokens=300, models=("a", "b")))
    conversations = collections.defaultdict(list)
    for row in rows:
        conversations[row.extra["conversation"]].append(row)
    longest = max(conversations.values(), key=len)
    assert [row.extra["turn"] for row in longest] == ["1", "2", "3", "4"]
    for earlier, later in itertools.pairwise(longest):
        said = earlier.body["messages"]
        assert later.body["messages"][: len(said)] == said
        assert later.model == earlier.model
    systems = collections.Counter(row.body["messages"][0]["content"] for row in rows)
    assert len(systems) == 2
    assert all(len(text) >= 300 * 4.5 for text in systems)


def test_prompts_and_outputs_are_as_long_as_said() -> None:
    rows = generate(replace(BUSY, prompt_tokens=500, output_tokens=(10, 20)))
    assert statistics.median(len(row.prompt) for row in rows) == pytest.approx(500 * 4.5, rel=0.1)
    assert {row.max_tokens for row in rows} == set(range(10, 21))


def test_generated_rows_are_a_valid_file() -> None:
    rows = generate(replace(BUSY, duration_s=10, turns=2, models=("a",)))
    assert list(parse_rows(format_rows(rows).splitlines(keepends=True))) == list(rows)


@pytest.mark.parametrize(
    "change",
    [
        {"rate_per_s": 0},
        {"duration_s": -1},
        {"rate_per_s": 1e5, "duration_s": 1e5},
        {"batch_share": 1.5},
        {"priorities": (0, 0, 0)},
        {"output_tokens": (5, 4)},
        {"turns": 0},
        {"burstiness": 0},
        {"skew": float("nan")},
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"should|more than"):
        replace(BUSY, **change)  # type: ignore[arg-type]
