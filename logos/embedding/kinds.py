"""How much a text resembles the wordings of each kind of work: features beside a static embedding's averages.

"Shorten this speech" and "summarisation of long documents" share hardly a word; both are near to wordings of the same
group. The wordings are data, in kinds_of_work.txt. Pure: vectors in, vectors out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

SHARPNESS = 1 / 0.05  # of the softmax over groups; on the plateau from 1/0.03 to 1/0.06 (docs/design.md)

Matrix = npt.NDArray[np.float32]


def read_groups(path: Path) -> list[list[str]]:
    """The wordings of each group; a line that begins with `=` begins one."""
    groups: list[list[str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("="):
            groups.append([])
        elif line and not line.startswith("#"):
            groups[-1].append(line)
    return groups


class Kinds:
    """`wordings` are unit vectors, a row each; `sizes` how many of them each group has, in order."""

    def __init__(self, wordings: Matrix, sizes: list[int]) -> None:
        self._wordings = wordings
        self._starts = np.cumsum([0, *sizes[:-1]])

    def features(self, texts: Matrix) -> Matrix:
        """A unit vector over groups for each unit vector: the softmax of the nearest wording of each group. A null
        vector, of a text without any word, resembles nothing."""
        nearest = np.maximum.reduceat(texts @ self._wordings.T, self._starts, axis=1)
        grown = np.exp(SHARPNESS * (nearest - nearest.max(axis=1, keepdims=True)))
        unit = grown / np.linalg.norm(grown, axis=1, keepdims=True)
        return np.where(texts.any(axis=1, keepdims=True), unit, 0.0).astype(np.float32)
