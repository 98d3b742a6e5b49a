"""All that the scheduler has learned, written down: part of a journal's opening, kept over restarts.

A value only; what it means is the prediction room's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from logos.prediction.predictor import PredictorSnapshot
from logos.prediction.service import ServiceSnapshot


@dataclass(frozen=True, slots=True)
class Learned:
    """Service times for the reference's formulas, and the predictor."""

    service: ServiceSnapshot = field(default_factory=ServiceSnapshot)
    predictor: PredictorSnapshot = field(default_factory=PredictorSnapshot)
