"""The embedding port and what is computed from embeddings. Adapters live in `logos.embedding`, never here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

Vector = Sequence[float]


class EmbeddingPort(Protocol):
    """Turns texts into vectors of one length, in the order of the texts. May raise LogosError when it is away."""

    def embed(self, texts: Sequence[str]) -> list[list[float]]: ...


def cosine(a: Vector, b: Vector) -> float:
    """Cosine similarity, -1 to 1; 0 if either vector is null or not finite. ValueError if the lengths differ."""
    if len(a) != len(b):
        raise ValueError(f"vectors of {len(a)} and {len(b)} numbers cannot be compared")
    norms = math.hypot(*a) * math.hypot(*b)
    if not 0.0 < norms < math.inf:  # also false for NaN
        return 0.0
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return max(-1.0, min(1.0, dot / norms))


def similarities(prompt: Vector, descriptions: Mapping[int, Vector]) -> dict[int, float]:
    """Cosine of the prompt and each model's description, by model id: what `ranking.rank` takes as `meaning`."""
    return {model_id: cosine(prompt, description) for model_id, description in descriptions.items()}
