"""Numbers as options of commands take them; what they mean is known where the options are."""

from __future__ import annotations

import math
from typing import Any

import click


class PositiveFloat(click.FloatRange):
    """A finite number above 0: a plain range lets NaN through, which compares with nothing."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{found} is not a finite number.", param, ctx)
        return found


POSITIVE = PositiveFloat()
