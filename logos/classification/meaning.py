"""What is computed from embeddings: how near a prompt is to each model's description, and what votes do to both.

Vectors come from outside; adapters live in `logos.embedding`, the texts that are embedded in `passages`. numpy is here
because a prompt is compared with every model: at 50 models it costs a thirtieth of the same in plain Python
(benchmarks/bench_meaning.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float32]
Quantised = npt.NDArray[np.int8]

FEEDBACK_STEP = 0.05  # of the way towards (or away from) the prompt, for each vote: scheduling.md section 1
SHIFT_MAX = 0.5  # of a description's length: however many votes there are, most of it stays what was declared
QUALITY_POINTS_MAX = 8.0  # that votes can add to or take from a model's quality weight
QUALITY_PRIOR_VOTES = 10.0  # so many votes count as undecided from the start
_QUANTA = 127.0


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the classifier knows of a prompt: the cosine of prompt and description by model id (-1 to 1), and the
    points that votes have added to a model's quality weight. A model that is left out is not known."""

    similarity: Mapping[int, float] = field(default_factory=dict)
    quality: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Votes:
    """The votes on one model. `pull` is the sum of the prompts' quantised vectors, bad ones negative; `net` counts
    them the same way. All are integers, so taking a vote back leaves exactly what was there before it."""

    good: int = 0
    bad: int = 0
    net: int = 0
    pull: npt.NDArray[np.int64] | None = None

    def plus(self, is_good: bool, prompt: Quantised | None) -> Votes:
        return self._moved(1, is_good, prompt)

    def minus(self, is_good: bool, prompt: Quantised | None) -> Votes:
        return self._moved(-1, is_good, prompt)

    def _moved(self, count: int, is_good: bool, prompt: Quantised | None) -> Votes:
        good, bad = self.good + (count if is_good else 0), self.bad + (0 if is_good else count)
        if prompt is None:  # nothing was embedded: the vote is about the model's quality alone
            return Votes(good, bad, self.net, self.pull)
        sign = count if is_good else -count
        pull = sign * prompt.astype(np.int64)
        return Votes(good, bad, self.net + sign, pull if self.pull is None else self.pull + pull)

    @property
    def quality_points(self) -> float:
        """Between -QUALITY_POINTS_MAX and QUALITY_POINTS_MAX; nearly nothing while there are few votes."""
        return QUALITY_POINTS_MAX * (self.good - self.bad) / (self.good + self.bad + QUALITY_PRIOR_VOTES)


def unit(vectors: Matrix) -> Matrix:
    """Each row at length 1; rows that are null or not finite become null, and are then similar to nothing."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    usable = np.isfinite(lengths) & (lengths > 1e-12)
    return np.where(usable, vectors / np.where(usable, lengths, 1.0), 0.0).astype(np.float32)


def mean(vectors: Matrix, weights: Sequence[float]) -> Vector:
    """The direction of a text from those of its passages, by weight."""
    blended: Vector = unit(np.asarray(weights, dtype=np.float32) @ unit(vectors))
    return blended


def quantised(vector: Vector) -> Quantised:
    """A direction in one byte per number: what is kept of a prompt until somebody votes on it."""
    quanta: Quantised = np.rint(unit(vector) * _QUANTA).astype(np.int8)
    return quanta


def shifted(description: Vector, votes: Votes) -> Vector:
    """A description's direction after votes: each moves it by FEEDBACK_STEP of the way, all together by SHIFT_MAX."""
    if votes.pull is None or not (votes.net or votes.pull.any()):
        return description
    shift = FEEDBACK_STEP * (votes.pull / _QUANTA - votes.net * description)
    length = float(np.linalg.norm(shift))
    moved: Vector = unit((description + shift * min(1.0, SHIFT_MAX / max(length, 1e-12))).astype(np.float32))
    return moved


@dataclass(frozen=True, slots=True)
class Descriptions:
    """The directions of all models' descriptions as one matrix; `model_ids` names its rows."""

    model_ids: tuple[int, ...]
    matrix: Matrix
    row: Mapping[int, int]

    @classmethod
    def of(cls, directions: Mapping[int, Vector]) -> Descriptions:
        ids = tuple(directions)
        matrix = np.stack([directions[each] for each in ids]) if ids else np.zeros((0, 0), dtype=np.float32)
        return cls(ids, matrix, {model_id: row for row, model_id in enumerate(ids)})

    def similarities(self, prompt: Vector, wanted: Sequence[int]) -> dict[int, float]:
        """Cosine of the prompt's direction and each wanted model's, by model id; unknown models are left out."""
        if not self.model_ids:
            return {}
        cosines = np.clip(self.matrix @ prompt, -1.0, 1.0).tolist()
        return {model_id: cosines[self.row[model_id]] for model_id in wanted if model_id in self.row}
