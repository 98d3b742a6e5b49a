from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos.simulation import lengths


def test_shares_are_read_between_the_quantiles() -> None:
    assert lengths.share_at((0.0, 0.5, 1.0), 0.25) == pytest.approx(0.25)
    assert lengths.share_at((0.2, 0.4), 0.0) == pytest.approx(0.2)
    assert lengths.share_at((0.2, 0.4), 1.0) == pytest.approx(0.4)


@given(st.floats(0, 1), st.integers(1, 5000))
def test_a_limit_is_kept_and_nothing_is_empty(u: float, tokens_max: int) -> None:
    assert 1 <= lengths.output_tokens(lengths.DEFAULT_SHARES, u, tokens_max) <= tokens_max


@given(st.floats(0, 1))
def test_without_a_limit_answers_have_about_16_to_200_tokens(u: float) -> None:
    assert 16 <= lengths.output_tokens(lengths.DEFAULT_SHARES, u, None) <= 200
