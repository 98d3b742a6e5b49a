"""Deterministic unit vectors for /v1/embeddings: the same text gives the same vector, different texts others.

They carry no meaning. Pure.
"""

from __future__ import annotations

import base64
import hashlib
import math
from array import array


def unit_vector(text: bytes, seed: int, dimensions: int) -> array[float]:
    """A unit vector of 32-bit floats, in directions spread evenly over the cube's."""
    stream = hashlib.shake_128(seed.to_bytes(8, "big", signed=True) + text).digest(2 * dimensions)
    raw = array("h")
    raw.frombytes(stream)
    norm = math.sqrt(sum(value * value for value in raw)) or 1.0
    return array("f", [value / norm for value in raw])


def as_base64(vector: array[float]) -> str:
    """Little-endian 32-bit floats, as the OpenAI clients ask for by default."""
    return base64.b64encode(vector.tobytes()).decode("ascii")
