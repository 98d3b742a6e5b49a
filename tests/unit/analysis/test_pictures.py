import io
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from logos.analysis import logged, pictures, simulated
from logos.analysis.story import Story, request_table, span_table
from logos.simulation.cluster import read_world

SAMPLE = Path(__file__).parents[3] / "notebooks" / "sample"
PICTURES = {
    "ttft": pictures.ttft,
    "awake": pictures.awake,
    "fairness": pictures.fairness,
    "prediction": pictures.prediction,
}


@pytest.fixture(scope="module")
def compared() -> list[Story]:
    world = read_world("contention")
    return simulated.simulated(("slo", "fcfs"), world, simulated.contended(world, 1, duration_s=150.0), 1)


@pytest.fixture(scope="module")
def sample() -> list[Story]:
    return [logged.story_of(logged.read_files(SAMPLE))]


def texts(figure: Figure) -> str:
    """Everything that is written on it."""
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]  # they are texts


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("source", ["compared", "sample"])
def test_every_picture_can_be_drawn_of_simulations_and_of_logs(
    name: str, source: str, request: pytest.FixtureRequest
) -> None:
    file = io.BytesIO()
    PICTURES[name](request.getfixturevalue(source)).savefig(file)
    file.seek(0)
    assert imread(file).std() > 0.01


@pytest.mark.parametrize("name", PICTURES)
def test_a_story_in_which_nothing_happened_can_be_drawn(name: str) -> None:
    empty = Story("nothing", request_table([]), span_table([], 0.0))
    PICTURES[name]([empty]).savefig(io.BytesIO())


def test_the_distribution_names_stories_percentiles_and_the_objective(compared: list[Story]) -> None:
    told = texts(pictures.ttft(compared, 10.0))
    for expected in ("slo\np50 ", "fcfs\np50 ", "in time ", "objective 10 s"):
        assert expected in told


def test_the_timeline_names_models_swaps_and_the_queue(compared: list[Story]) -> None:
    told = texts(pictures.awake(compared))
    for expected in ("slo: ", " swaps, ", "Qwen2.5-Coder-14B", "Mistral-7B", "waiting (at most "):
        assert expected in told


def test_a_story_that_goes_on_for_long_does_not_squeeze_the_others(compared: list[Story]) -> None:
    one = compared[0]
    long = Story("long", one.requests, one.spans.assign(ended_s=one.spans.ended_s + 5000.0))
    figure = pictures.awake([one, long])
    assert figure.axes[0].get_xlim()[1] < 1.2 * 150.0
    assert "(goes on until 5" in texts(figure)


def test_fairness_has_a_row_for_each_model_and_each_key(compared: list[Story]) -> None:
    told = texts(pictures.fairness(compared))
    for expected in ("Qwen2.5-Coder-7B", "key 1", "key 4"):
        assert expected in told


def test_models_and_keys_are_drawn_on_the_same_scale_even_if_only_one_of_them_is_uneven() -> None:
    rows = [
        {"at_s": 0.0, "model": model, "key": key, "is_answered": True, "wait_s": 0.0, "ttft_s": ttft_s}
        for model in ("a", "b")
        for key, ttft_s in (("quick", 0.1), ("slow", 30.0))
    ]
    figure = pictures.fairness([Story("x", request_table(rows), span_table([], 0.0))])
    figure.savefig(io.BytesIO())
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "log"]
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()


def test_only_stories_that_predicted_are_in_the_picture_of_predictions(compared: list[Story]) -> None:
    told = texts(pictures.prediction(compared))
    assert "slo: median error" in told
    assert "fcfs" not in told


def test_models_and_stories_share_no_colour() -> None:
    assert not set(pictures.MODEL_COLOURS) & set(pictures.STORY_COLOURS)
