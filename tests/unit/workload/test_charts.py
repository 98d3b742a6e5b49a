from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from logos.domain.nouns import Mode, Priority
from logos.workload import charts
from logos.workload.chart_style import COLOURS
from logos.workload.exchanges import Exchange, Run, Status
from tests.support.exchanges import exchange, failed, run_of


def varied(count: int = 60, models: int = 3) -> list[Exchange]:
    """Some of every class, models with names of every length."""
    classes = [(mode, priority) for mode in Mode for priority in Priority]
    return [
        exchange(
            number,
            latency_ms=200.0 + 37 * (number % 11),
            ttft_ms=50.0 + 13 * (number % 7),
            mode=classes[number % 6][0],
            priority=classes[number % 6][1],
            model=f"model-{'long-' * (number % models)}{number % models}",
            server={"queue_wait_ms": float(number % 9), "predicted_ttft_ms": float(100 * (number % 2))},
        )
        for number in range(1, count + 1)
    ]


RUNS: dict[str, Run] = {
    "varied": run_of(*varied(), failed(99)),
    "more models than colours": run_of(*varied(models=11)),
    "one request": run_of(exchange()),
    "all failed": run_of(failed(1), failed(2)),
    "nothing sent": run_of(rows=4),
    "broken off": run_of(exchange(), failed(2, status=Status.INTERRUPTED), rows=9),
    "very unlike times": run_of(*(exchange(n, latency_ms=10.0**n, ttft_ms=10.0**n / 2) for n in range(6))),
    "all alike": run_of(*(exchange(n) for n in range(50))),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_run_can_be_drawn(tmp_path: Path, name: str) -> None:
    files = charts.draw(tmp_path / "x", RUNS[name])
    assert [path.name for path in files] == [
        f"x_{chart}.png" for chart in ("latency", "ttft", "queue_wait", "prediction", "slo")
    ]
    for path in files:
        picture = imread(path)
        assert picture.shape[:2] == (672, 1200)
        assert picture.std() > 0.01


def drawn(name: str, run: Run) -> Figure:
    figure = Figure()
    charts.CHARTS[name](figure.subplots(), run)
    return figure


def texts(figure: Figure) -> str:
    """Everything that is written on it."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]  # they are texts


def test_latency_names_the_models_the_objective_and_the_failures() -> None:
    told = texts(drawn("latency", RUNS["varied"]))
    for expected in ("model-0 (20)", "model-long-1 (20)", "failed (1)", "objective 1 s"):
        assert expected in told


def test_models_beyond_the_colours_are_one_group() -> None:
    told = texts(drawn("latency", RUNS["more models than colours"]))
    assert "others (" in told
    assert told.count("model-") <= len(COLOURS) - 1


def test_the_percentiles_of_the_first_token_are_written_out() -> None:
    told = texts(drawn("ttft", run_of(*(exchange(n, ttft_ms=n * 10.0) for n in range(1, 102)))))
    for expected in ("p50: 510 ms", "p95: 960 ms", "p99: 1 s"):
        assert expected in told


def test_attainment_counts_failures_as_missed_per_class() -> None:
    run = run_of(exchange(1, priority=Priority.HIGH), failed(2, priority=Priority.HIGH))
    told = texts(drawn("slo", run))
    assert "interactive, high (2)" in told
    assert "50.0 %" in told


@pytest.mark.parametrize(
    ("chart", "why"),
    [
        ("ttft", "no request was answered by a stream"),
        ("queue_wait", "the server did not say how long requests waited"),
        ("prediction", "the server predicted nothing"),
    ],
)
def test_a_chart_without_data_says_why(chart: str, why: str) -> None:
    assert why in texts(drawn(chart, RUNS["all failed"]))


def test_an_incomplete_run_is_marked_in_its_pictures(tmp_path: Path) -> None:
    whole, broken = (
        charts.draw(tmp_path / name, RUNS[run]) for name, run in (("w", "one request"), ("b", "broken off"))
    )
    corner = (slice(-40, None), slice(-200, None))
    assert imread(whole[0])[corner].std() == 0
    assert imread(broken[0])[corner].std() > 0
