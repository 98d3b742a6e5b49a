"""The house style of pictures: colours, marks and what all charts write alike.

Colours are Okabe and Ito's, which people with any colour vision tell apart, and never the only difference: markers and
line styles differ as well. No chart and no data live here.
"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
OTHERS = "others"
NAME_CHARACTERS_MAX = 32
STYLE: Any = {
    "font.size": 14,
    "axes.titlesize": 16,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "legend.fontsize": 12,
    "lines.linewidth": 2.5,
    "savefig.facecolor": "white",
}


def short_name(name: str) -> str:
    """The end of a long name is what tells it from others, and its owner is what it can lose first."""
    if len(name) > NAME_CHARACTERS_MAX:
        name = name.rpartition("/")[2]
    return name if len(name) <= NAME_CHARACTERS_MAX else f"…{name[1 - NAME_CHARACTERS_MAX :]}"


def plain_numbers(axis: mpl.axis.Axis) -> None:
    """0.5 and 20 instead of powers of ten; where an axis spans little, its minor ticks are named as well."""
    axis.set_major_formatter("{x:g}")
    low, high = axis.get_view_interval()
    if low > 0 and high / low < 30:
        axis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "125" else "")


def draw_diagonal(axes: Axes, low: float, high: float) -> None:
    """Both axes logarithmic and alike, from low to high; where predictions came true, and a factor of 2 around it."""
    axes.plot([low, high], [low, high], color=BLACK, linewidth=1.5, label="predicted = measured")
    band = [low / 2, high / 2], [low * 2, high * 2]
    axes.fill_between([low, high], *band, color=BLACK, alpha=0.1, linewidth=0, label="within a factor of 2")
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    for axis in (axes.xaxis, axes.yaxis):
        plain_numbers(axis)


def legend_beside(axes: Axes) -> None:
    """Outside, so that it never hides a point."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.3)


def seconds(ms: float) -> str:
    """Milliseconds as a person writes them."""
    return f"{ms / 1000:.3g} s" if ms >= 1000 else f"{ms:.3g} ms"


def say_nothing(axes: Axes, why: str) -> None:
    """Instead of an empty chart: why there is nothing on it."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center")
