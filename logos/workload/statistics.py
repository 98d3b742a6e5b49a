"""Quantiles and means of measured values; what there is none of stays None. No unit is known here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

PERCENTILES = (50, 95, 99)


def quantile(ordered: Sequence[float], q: float) -> float | None:
    """The quantile at `q` (0 to 1) of values in rising order, linear between neighbours (Hyndman and Fan's type 7)."""
    if not ordered:
        return None
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def known(values: Iterable[float | None]) -> list[float]:
    """Those that there are, in rising order."""
    return sorted(value for value in values if value is not None)


def share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
