"""How long answers are: a share of the tokens that a request allows, drawn from a table of quantiles.

Pure: the uniform number comes from the caller's seeded generator. Used by the engine's HTTP server and by
simulated workloads alike, so that both worlds have the same lengths.
"""

from __future__ import annotations

from collections.abc import Sequence

# Quantiles at 0, 10, 20, ... 100 % of the share of max_tokens that a 7B chat model used in published runs (the
# project's scheduling notes, section 6).
DEFAULT_SHARES: tuple[float, ...] = (0.11, 0.21, 0.26, 0.31, 0.35, 0.43, 0.57, 0.79, 0.97, 1.0, 1.0)
# What an answer's length is a share of when the request names no limit.
NATURAL_TOKENS_MAX = 200
NATURAL_TOKENS_MIN = 16


def share_at(shares: Sequence[float], u: float) -> float:
    """The quantile at `u` (0 to 1) of a table of equally spaced quantiles, linear in between."""
    place = u * (len(shares) - 1)
    below = min(int(place), len(shares) - 2)
    return shares[below] + (place - below) * (shares[below + 1] - shares[below])


def output_tokens(shares: Sequence[float], u: float, tokens_max: int | None) -> int:
    """Tokens of one answer, at least 1 and at most `tokens_max` (None: about 16 to 200)."""
    if tokens_max is None:
        return max(NATURAL_TOKENS_MIN, round(share_at(shares, u) * NATURAL_TOKENS_MAX))
    return min(tokens_max, max(1, round(share_at(shares, u) * tokens_max)))
