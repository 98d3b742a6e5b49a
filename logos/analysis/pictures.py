"""Pictures of stories, each an answer to one question, legible at half its size.

Models have the same colour in all pictures of the same stories, and stories have colours that no model has. Only
drawing happens here: what is drawn was counted in `story`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from logos.analysis.story import Phase, Story, answered, in_time, mean_ttft_s, predicted, share, waiting
from logos.workload.chart_style import (
    BLACK,
    BLUE,
    GREEN,
    MARKERS,
    ORANGE,
    PURPLE,
    SKY,
    STYLE,
    VERMILION,
    YELLOW,
    draw_diagonal,
    plain_numbers,
    say_nothing,
    short_name,
)

MODEL_COLOURS = (BLUE, ORANGE, GREEN, YELLOW)
STORY_COLOURS = (BLACK, VERMILION, PURPLE, SKY)
STORY_LINES = ("-", "--", "-.", ":")
GREY = "#999999"
WIDTH_IN = 11.0
SMALLEST_S = 0.01  # what is shorter is drawn here on logarithmic axes
MODELS_MAX = 12  # rows of one timeline; the busiest are shown
KEYS_MAX = 12
LANE = 0.36  # half the height of a bar
BY = ("model", "key")
LOG_FROM = 10.0  # a ratio of largest to smallest from which a linear axis would hide differences
SHOWN_BEYOND = 1.15  # of the time of the last arrival: what a timeline shows at most

Drawing = TypeVar("Drawing", bound=Callable[..., Figure])


def _in_style(draw: Drawing) -> Drawing:
    def styled(*arguments: Any, **named: Any) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*arguments, **named)

    styled.__doc__ = draw.__doc__
    return styled  # type: ignore[return-value]  # the same signature


@_in_style
def ttft(stories: Sequence[Story], slo_ttft_s: float | None = None) -> Figure:
    """How soon had requests their first token? A curve further to the left, and higher, is better."""
    figure = _figure(5.8)
    axes = figure.subplots()
    axes.set_title("Time to first token, of everything sent", loc="left")
    if not any(len(answered(story)) for story in stories):
        say_nothing(axes, "nothing was answered")
        return figure
    for index, story in enumerate(stories):
        _curve(axes, story, index, slo_ttft_s)
    if slo_ttft_s is not None:
        axes.axvline(slo_ttft_s, color=GREY, linewidth=1.5, label=f"objective {slo_ttft_s:g} s")
    axes.set(xscale="log", ylim=(0, 102))
    axes.set_xlabel("seconds from arrival")
    axes.set_ylabel("requests that had it by then, %")
    plain_numbers(axes.xaxis)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=2.6, labelspacing=0.9)
    return figure


def _curve(axes: Axes, story: Story, index: int, slo_ttft_s: float | None) -> None:
    values = answered(story).ttft_s.clip(lower=SMALLEST_S).sort_values()
    shares = [100 * (number + 1) / len(story.requests) for number in range(len(values))]
    on_time = share(in_time(story.requests, slo_ttft_s))
    label = f"{story.name}\np50 {values.median():.1f} s, p95 {values.quantile(0.95):.1f} s\nin time {on_time:.0%}"
    axes.step(values, shares, where="post", label=label, **_story_style(index))


@_in_style
def awake(stories: Sequence[Story], models: Sequence[str] | None = None) -> Figure:
    """Which model was awake when, what did changing cost, and how many waited meanwhile?"""
    models = list(models or _models(stories))
    lanes = max(len(models), 1) + 1
    figure = _figure(1.0 + len(stories) * (0.8 + 0.42 * lanes))
    panels = figure.subplots(len(stories), 1, sharex=True, squeeze=False)[:, 0]
    until_s = _shown_until_s(stories)
    for axes, story in zip(panels, stories, strict=True):
        _timeline(axes, story, models, until_s)
    panels[-1].set_xlim(0, until_s)
    panels[-1].set_xlabel("seconds since the start")
    marks = [
        Patch(facecolor=BLUE, label="awake (each model has its colour)"),
        Patch(facecolor="white", edgecolor=BLACK, hatch="////", label="loading or waking"),
        Patch(facecolor=BLACK, label="falling asleep or stopping"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=3)
    return figure


def _shown_until_s(stories: Sequence[Story]) -> float:
    """A story that goes on long after the last arrival would leave the others too little room."""
    last_at = max((story.requests.at_s.max() for story in stories if len(story.requests)), default=0.0)
    return min(max((story.ends_s for story in stories), default=0.0), SHOWN_BEYOND * last_at) or 1.0


def _timeline(axes: Axes, story: Story, models: Sequence[str], until_s: float) -> None:
    spans = story.spans
    moving = spans[spans.phase != Phase.AWAKE]
    swaps, lost_s = int((spans.phase == Phase.COMING).sum()), (moving.ended_s - moving.began_s).sum()
    goes_on = f" (goes on until {story.ends_s:.0f} s)" if story.ends_s > 1.01 * until_s else ""
    axes.set_title(f"{story.name}: {swaps} swaps, {lost_s:.0f} s of changing{goes_on}", loc="left")
    colours = _model_colours(models)
    for row, model in enumerate(models):
        for phase, style in _phase_styles(colours[model]).items():
            found = spans[(spans.model == model) & (spans.phase == phase)]
            bars = list(zip(found.began_s, found.ended_s - found.began_s, strict=True))
            axes.broken_barh(bars, (row - LANE, 2 * LANE), **style)
    at, count = waiting(story)
    floor, height = len(models) + LANE, 2 * LANE / max(count, default=1)
    axes.fill_between(at, floor, [floor - height * each for each in count], step="post", color=GREY, linewidth=0)
    most = f"waiting (at most {max(count, default=0)})"
    axes.set_yticks(range(len(models) + 1), [*(short_name(model) for model in models), most])
    axes.set_ylim(len(models) + 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelsize=12)


def _phase_styles(colour: str) -> dict[Phase, dict[str, Any]]:
    return {
        Phase.AWAKE: {"facecolor": colour, "linewidth": 0},
        Phase.COMING: {"facecolor": "white", "edgecolor": BLACK, "hatch": "////", "linewidth": 0.8},
        Phase.GOING: {"facecolor": BLACK, "linewidth": 0},
    }


@_in_style
def fairness(stories: Sequence[Story]) -> Figure:
    """Did some model, or some key, wait for the others? Points of a row far apart, or rows, say so."""
    models, keys = _models(stories), _keys(stories)
    figure = _figure(1.9 + 0.5 * max(len(models), len(keys), 1))
    panels = figure.subplots(1, 2, sharex=True)
    for axes, by, names in zip(panels, BY, (models, keys), strict=True):
        axes.set_title(f"Mean time to first token by {by}", loc="left", fontsize=14)
        _points(axes, {story.name: mean_ttft_s(story, by) for story in stories}, names)
    _scale_alike(panels[0], [float(mean) for story in stories for by in BY for mean in mean_ttft_s(story, by)])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=max(len(stories), 1))
    return figure


def _points(axes: Axes, means: Mapping[str, pd.Series], names: Sequence[str]) -> None:
    for index, (story, found) in enumerate(means.items()):
        rows = [row for row, name in enumerate(names) if name in found.index]
        colour = STORY_COLOURS[index % len(STORY_COLOURS)]
        values = [found[names[row]] for row in rows]
        marker = MARKERS[index % len(MARKERS)]
        axes.plot(values, rows, label=story, color=colour, marker=marker, linestyle="none", markersize=11, alpha=0.9)
    axes.set_yticks(range(len(names)), [short_name(name) for name in names], fontsize=12)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("seconds")


def _scale_alike(shared: Axes, means: Sequence[float]) -> None:
    """From zero where one look can take in all of them, logarithmic where it cannot; for all panels that share it."""
    low, high = min(means, default=1.0), max(means, default=1.0)
    if high > LOG_FROM * low > 0:
        shared.set_xscale("log")
        plain_numbers(shared.xaxis)
    else:
        shared.set_xlim(0, high * 1.1)


@_in_style
def prediction(stories: Sequence[Story]) -> Figure:
    """Was the time to first token known beforehand? On the diagonal it was; above it came later than predicted."""
    told = [story for story in stories if len(predicted(story))]
    figure = _figure(6.0)
    if not told:
        say_nothing(figure.subplots(), "nothing was predicted")
        return figure
    models = _models(told)
    panels = figure.subplots(1, len(told), sharex=True, sharey=True, squeeze=False)[0]
    for axes, story in zip(panels, told, strict=True):
        _cloud(axes, story, models)
    ends = pd.concat([predicted(story)[["predicted_ttft_s", "ttft_s"]] for story in told]).clip(lower=SMALLEST_S)
    low, high = float(ends.min().min()) / 1.5, float(ends.max().max()) * 1.5
    for axes in panels:
        draw_diagonal(axes, low, high)
        axes.set_aspect("equal")
        axes.set_xlabel("predicted, s")
    panels[0].set_ylabel("actual, s")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _cloud(axes: Axes, story: Story, models: Sequence[str]) -> None:
    known = predicted(story)
    error = ((known.predicted_ttft_s - known.ttft_s).abs() / known.ttft_s).median()
    below = share(known.ttft_s <= known.predicted_ttft_s)
    title = f"{story.name}: median error {error:.0%}\n{below:.0%} no later than predicted"
    axes.set_title(title, loc="left", fontsize=14)
    for index, (model, colour) in enumerate(_model_colours(models).items()):
        members = known.loc[known.model == model, ["predicted_ttft_s", "ttft_s"]].clip(lower=SMALLEST_S)
        axes.scatter(
            members.predicted_ttft_s,
            members.ttft_s,
            label=short_name(model),
            color=colour,
            marker=MARKERS[index % len(MARKERS)],
            s=46,
            alpha=0.85,
            linewidths=0.4,
            edgecolors="white",
        )


def _figure(height_in: float) -> Figure:
    return Figure(figsize=(WIDTH_IN, height_in), dpi=100, layout="constrained")


def _story_style(index: int) -> dict[str, Any]:
    return {
        "color": STORY_COLOURS[index % len(STORY_COLOURS)],
        "linestyle": STORY_LINES[index % len(STORY_LINES)],
    }


def _model_colours(models: Sequence[str]) -> dict[str, str]:
    return {model: MODEL_COLOURS[index % len(MODEL_COLOURS)] for index, model in enumerate(models)}


def _models(stories: Sequence[Story]) -> list[str]:
    """The models most asked for, in order of the alphabet."""
    return _most_frequent([story.requests.model for story in stories], MODELS_MAX)


def _keys(stories: Sequence[Story]) -> list[str]:
    return _most_frequent([story.requests.key for story in stories], KEYS_MAX)


def _most_frequent(columns: Sequence[pd.Series], most: int) -> list[str]:
    if not columns:
        return []
    return sorted(str(name) for name in pd.concat(columns).value_counts().index[:most])
