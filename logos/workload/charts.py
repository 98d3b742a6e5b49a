"""Pictures of a run, `x_*.png`: each answers one question at a glance, also at half its size.

The style is the house's, in `chart_style`. Only drawing happens here; what is drawn was computed elsewhere.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from logos.workload.chart_style import (
    BLACK,
    BLUE,
    COLOURS,
    LINES,
    MARKERS,
    ORANGE,
    OTHERS,
    SKY,
    STYLE,
    VERMILION,
    draw_diagonal,
    legend_beside,
    plain_numbers,
    say_nothing,
    seconds,
    short_name,
)
from logos.workload.exchanges import Exchange, Run
from logos.workload.results import beside, whole
from logos.workload.statistics import PERCENTILES, known, quantile
from logos.workload.summary import attainment, classes, prediction_error

SMALLEST_MS = 1.0  # what is shorter is drawn here on logarithmic axes
LOG_FROM = 20.0  # a ratio of largest to median from which a linear axis would hide most of the points


def targets(base: Path) -> tuple[Path, ...]:
    """`BASE_NAME.png` for each chart."""
    return tuple(beside(base, f"_{name}.png") for name in CHARTS)


def draw(base: Path, run: Run) -> tuple[Path, ...]:
    """Writes each of `targets` and returns their paths. Raises OSError."""
    return tuple(_drawn(path, chart, run) for path, chart in zip(targets(base), CHARTS.values(), strict=True))


def _drawn(path: Path, chart: Callable[[Axes, Run], None], run: Run) -> Path:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 5.6), dpi=120, layout="constrained")
        axes = figure.subplots()
        chart(axes, run)
        if not run.is_complete:
            figure.text(0.995, 0.005, "incomplete run", ha="right", va="bottom", color=VERMILION, fontsize=13)
        with whole(path) as part:
            figure.savefig(part, format="png")
    return path


def latency(axes: Axes, run: Run) -> None:
    """How long did each request take, and which model was slow?"""
    axes.set_title("Latency of each request", loc="left")
    if not run.exchanges:
        return say_nothing(axes, "nothing was sent")
    axes.set_xlabel("sent, seconds since the start")
    axes.set_ylabel("latency, s")
    answered = [each for each in run.exchanges if each.is_success]
    for index, (name, members) in enumerate(_by_model(answered)):
        axes.scatter(
            [each.sent_ms / 1000 for each in members],
            [each.latency_ms / 1000 for each in members],
            label=f"{name} ({len(members)})",
            color=COLOURS[index],
            marker=MARKERS[index],
            s=46,
            alpha=0.85,
            linewidths=0.4,
            edgecolors="white",
        )
    failed = [each for each in run.exchanges if not each.is_success]
    if failed:
        axes.scatter(
            [each.sent_ms / 1000 for each in failed],
            [each.latency_ms / 1000 for each in failed],
            label=f"failed ({len(failed)})",
            color=BLACK,
            marker="x",
            s=60,
        )
    label = f"objective {seconds(run.slo_ms)}"
    axes.axhline(run.slo_ms / 1000, color=BLACK, linestyle="--", linewidth=1.5, label=label)
    _scale(axes.set_yscale, [each.latency_ms for each in run.exchanges])
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)
    legend_beside(axes)
    return None


def ttft(axes: Axes, run: Run) -> None:
    """How long until the first token, for most and for the unlucky?"""
    axes.set_title("Time to first token", loc="left")
    values = known(each.ttft_ms for each in run.exchanges if each.is_success)
    if not values:
        return say_nothing(axes, "no request was answered by a stream")
    axes.set_xlabel("time to first token, s")
    axes.set_ylabel("requests")
    is_log = _is_wide(values)
    axes.hist([value / 1000 for value in values], bins=_bins(values, is_log), color=SKY, edgecolor="white")
    if is_log:
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
    for percent, colour, style in zip(PERCENTILES, (BLUE, ORANGE, VERMILION), ("-", "--", ":"), strict=True):
        at = quantile(values, percent / 100)
        assert at is not None
        axes.axvline(at / 1000, color=colour, linestyle=style, label=f"p{percent}: {seconds(at)}")
    legend_beside(axes)
    return None


def queue_wait(axes: Axes, run: Run) -> None:
    """Who waited, and how long? A curve further to the left waited less."""
    axes.set_title("Wait in the server's queue, by class", loc="left")
    curves = [
        (name, known(each.server.queue_wait_ms for each in members if each.is_success))
        for name, members in classes(run.exchanges)
    ]
    curves = [(name, values) for name, values in curves if values]
    if not curves:
        return say_nothing(axes, "the server did not say how long requests waited")
    longest = max(values[-1] for _, values in curves)
    for index, (name, values) in enumerate(curves):
        shares = [100 * (number + 1) / len(values) for number in range(len(values))]
        axes.step(
            [0.0, *(value / 1000 for value in values), longest / 1000],
            [0.0, *shares, 100.0],
            where="post",
            label=f"{name.replace('_', ', ')} ({len(values)})",
            color=COLOURS[index % len(COLOURS)],
            linestyle=LINES[index % len(LINES)],
        )
    axes.set_xlabel("wait, s")
    axes.set_ylabel("requests that waited at most so long, %")
    axes.set_ylim(0, 102)
    axes.set_xlim(left=0)
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")
    return None


def prediction(axes: Axes, run: Run) -> None:
    """Did the server know how long the first token would take? On the diagonal it did."""
    title = "Predicted and measured time to first token"
    axes.set_title(title, loc="left")
    points = [
        (each, max(each.server.predicted_ttft_ms, SMALLEST_MS) / 1000, max(each.ttft_ms, SMALLEST_MS) / 1000)
        for each in run.exchanges
        if each.is_success and each.server.predicted_ttft_ms is not None and each.ttft_ms is not None
    ]
    if not points:
        return say_nothing(axes, "the server predicted nothing")
    for index, (name, members) in enumerate(_by_model([each for each, _, _ in points])):
        chosen = {id(each) for each in members}
        axes.scatter(
            [predicted for each, predicted, _ in points if id(each) in chosen],
            [measured for each, _, measured in points if id(each) in chosen],
            label=f"{name} ({len(members)})",
            color=COLOURS[index],
            marker=MARKERS[index],
            s=46,
            alpha=0.85,
            linewidths=0.4,
            edgecolors="white",
        )
    ends = [value for _, *pair in points for value in pair]
    low, high = min(ends) / 1.5, max(ends) * 1.5
    draw_diagonal(axes, low, high)
    axes.set_xlabel("predicted, s")
    axes.set_ylabel("measured at the client, s")
    axes.set_title(f"{title}\nmean error {prediction_error(each for each, _, _ in points):.0%}", loc="left")
    legend_beside(axes)
    return None


def slo(axes: Axes, run: Run) -> None:
    """Which classes were served in time? Failures count as missed."""
    axes.set_title(f"Answered within {seconds(run.slo_ms)}, of all requests sent", loc="left")
    groups = [*classes(run.exchanges), ("all", list(run.exchanges))]
    if not run.exchanges:
        return say_nothing(axes, "nothing was sent")
    names = [f"{name.replace('_', ', ')} ({len(members)})" for name, members in groups]
    rates = [100 * (attainment(members, run.slo_ms) or 0.0) for _, members in groups]
    colours = [BLUE] * (len(groups) - 1) + [BLACK]
    bars = axes.barh(names, rates, color=colours, height=0.65)
    axes.bar_label(bars, labels=[f"{rate:.1f} %" for rate in rates], padding=6)
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("requests within the objective, %")
    axes.grid(visible=False, axis="y")
    return None


CHARTS: dict[str, Callable[[Axes, Run], None]] = {
    "latency": latency,
    "ttft": ttft,
    "queue_wait": queue_wait,
    "prediction": prediction,
    "slo": slo,
}


def _by_model(exchanges: Sequence[Exchange]) -> list[tuple[str, list[Exchange]]]:
    """At most as many groups as there are colours: the rarest models are one."""
    counts = collections.Counter(each.model for each in exchanges)
    shown = [name for name, _ in counts.most_common(len(COLOURS) - (len(counts) > len(COLOURS)))]
    groups: dict[str, list[Exchange]] = {name: [] for name in sorted(shown)}
    for each in exchanges:
        groups.setdefault(each.model if each.model in shown else OTHERS, []).append(each)
    return [(short_name(name), members) for name, members in groups.items()]


def _is_wide(values: Sequence[float]) -> bool:
    ordered = sorted(value for value in values if value > 0)
    middle = quantile(ordered, 0.5)
    return bool(middle) and ordered[-1] / (middle or 1.0) > LOG_FROM


def _scale(set_scale: Callable[[str], None], values: Sequence[float]) -> None:
    if _is_wide(values):
        set_scale("log")


def _bins(values: Sequence[float], is_log: bool) -> list[float]:
    """Edges in seconds: at most 40 bins, fewer for few values, equal in width or in ratio."""
    count = max(5, min(40, round(2 * len(values) ** 0.5)))
    low, high = (max(each, SMALLEST_MS) / 1000 for each in (min(values), max(values)))
    if high <= low:
        return [low * 0.9, low * 1.1]
    if is_log:
        return [low * (high / low) ** (number / count) for number in range(count + 1)]
    return [low + (high - low) * number / count for number in range(count + 1)]
