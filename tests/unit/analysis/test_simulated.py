from pathlib import Path

import pytest

from logos.analysis import simulated
from logos.analysis.story import Phase, Story, answered, predicted, summary
from logos.domain.errors import InvalidDeclaration, InvalidWorkload
from logos.simulation.cluster import read_world
from logos.simulation.figures import figures
from logos.simulation.systems import run_system

WORLD = read_world("contention")


def short(seed: int = 1) -> list[simulated.Arrival]:
    return simulated.contended(WORLD, seed, duration_s=150.0)


def test_the_crowd_comes_as_a_key_of_its_own_in_between() -> None:
    found = simulated.contended(WORLD, 1)
    crowd = [each for each in found if each.key_id == simulated.CROWD_KEY]
    assert {each.key_id for each in found} == {1, 2, 3, 4}
    assert 240.0 <= min(each.at for each in crowd) < max(each.at for each in crowd) <= 330.0
    assert len(crowd) > 20
    assert len({each.request_id for each in found}) == len(found)


def test_another_seed_is_another_crowd() -> None:
    assert short(1) == short(1)
    assert short(1) != short(2)


@pytest.mark.parametrize("policy", ["slo", "ettft", "fcfs", "ollama"])
def test_a_story_says_the_same_as_the_figures_of_its_run(policy: str) -> None:
    run = run_system(policy, WORLD, short(), 1)
    row, expected = summary([simulated.story_of(run)], 10.0).loc[policy], figures(run, 10.0)
    assert row.requests == expected["requests"]
    assert row.answered * row.requests == pytest.approx(expected["ok"])
    assert row.in_time == pytest.approx(expected["slo_attainment"])
    assert row.ttft_mean_s == pytest.approx(expected["ttft_s"]["mean"])
    assert row.ttft_p95_s == pytest.approx(expected["ttft_s"]["p95"])
    assert row.worst_wait_s == pytest.approx(expected["worst_wait_s"])
    assert row.swaps == expected["swaps"] > 3
    assert row.swap_s == pytest.approx(expected["swap_seconds"])


def test_first_tokens_come_from_models_that_are_awake() -> None:
    (story,) = simulated.simulated(["slo"], WORLD, short(), 1)
    assert served_while_away(story) == []


def served_while_away(story: Story, tolerance_s: float = 1e-6) -> list[float]:
    """When first tokens came from a model of which no engine was awake."""
    awake = story.spans[story.spans.phase == Phase.AWAKE]
    return [
        at_s
        for at_s, model in zip(answered(story).at_s + answered(story).ttft_s, answered(story).model, strict=True)
        if not (
            (awake.model == model) & (awake.began_s - tolerance_s <= at_s) & (at_s <= awake.ended_s + tolerance_s)
        ).any()
    ]


def test_engines_that_were_awake_before_anything_happened_are_told() -> None:
    world = read_world("ladder")
    assert world.source is not None
    arriving = simulated.drawn(world.source, 1)[:20]
    (story,) = simulated.simulated(["fcfs"], world, arriving, 1)
    assert served_while_away(story) == []


def test_policies_that_predict_say_so_and_others_do_not() -> None:
    told = {story.name: len(predicted(story)) for story in simulated.simulated(["slo", "fcfs"], WORLD, short(), 1)}
    assert told["slo"] > 0
    assert told["fcfs"] == 0


def test_a_workload_file_is_read_and_one_that_does_not_fit_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    body = '{""model"":""NAME"",""max_tokens"":5,""messages"":[{""role"":""user"",""content"":""Hi""}]}'
    header = "request_id,arrival_offset,mode,priority,body_json\n"
    known = WORLD.catalogue.models[0].name
    file.write_text(f'{header}a,1500,interactive,mid,"{body.replace("NAME", known)}"\n')
    (arrival,) = simulated.workload(WORLD, file, 1)
    assert (arrival.at, arrival.models[0][0]) == (1.5, known)
    file.write_text(f'{header}a,0,interactive,mid,"{body.replace("NAME", "nobody")}"\n')
    with pytest.raises(InvalidWorkload, match=r"x\.csv, line 2.*nobody"):
        simulated.workload(WORLD, file, 1)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(InvalidDeclaration, match="no policy 'best'"):
        simulated.simulated(["best"], WORLD, short(), 1)
