from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logos.classification.meaning import EmbeddingPort, cosine, similarities

# The machine may be busy: how long an example takes says nothing.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 0.0], [2.0, 0.0], 1.0),
        ([1.0, 0.0], [0.0, 3.0], 0.0),
        ([1.0, 1.0], [-1.0, -1.0], -1.0),
        ([1.0, 0.0], [1.0, 1.0], math.sqrt(0.5)),
        ([0.0, 0.0], [1.0, 1.0], 0.0),
        ([math.nan, 1.0], [1.0, 1.0], 0.0),
        ([math.inf, 1.0], [1.0, 1.0], 0.0),
    ],
)
def test_cosine_by_hand(a: list[float], b: list[float], expected: float) -> None:
    assert cosine(a, b) == pytest.approx(expected)


def test_vectors_of_different_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        cosine([1.0, 2.0], [1.0])


@calm
@given(st.lists(st.tuples(st.floats(), st.floats()), min_size=1))
def test_a_cosine_is_between_minus_one_and_one(pairs: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    assert -1.0 <= cosine(a, b) <= 1.0
    assert cosine(a, b) == cosine(b, a)


class LetterCounts:
    """An embedding port as small as can be: how often a, b and c occur."""

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[float(text.count(letter)) for letter in "abc"] for text in texts]


def test_a_port_s_vectors_give_similarities_by_model_id() -> None:
    port: EmbeddingPort = LetterCounts()
    prompt, first, second = port.embed(["aab", "aab", "c"])
    assert similarities(prompt, {4: first, 9: second}) == {4: pytest.approx(1.0), 9: 0.0}
