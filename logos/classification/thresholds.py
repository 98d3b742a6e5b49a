"""What the thresholds of a policy mean among the models at hand. No filtering and no scoring happens here.

A threshold of 1024 means the best weight among the allowed models, -1024 the worst (scheduling.md section 1), so a
policy can say "the cheapest there is" without knowing the catalogue. Any other number is itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from logos.domain.nouns import Model, Policy, Weights

BEST = 1024
WORST = -1024
STEEPNESS = 0.0625  # of the soft filter, scheduling.md section 1


def names_an_extreme(policy: Policy) -> bool:
    """Whether the policy can only be understood by looking at all allowed models.

    A cost of -1024 asks for nothing: every model is at least as cheap as the dearest.
    """
    soft = (policy.latency, policy.accuracy, policy.quality)
    return policy.cost >= BEST or any(not WORST < threshold < BEST for threshold in soft)


def resolved(policy: Policy, allowed: Sequence[Model]) -> Weights:
    """The policy's thresholds as numbers to compare weights with. `allowed` must not be empty."""
    weights = [model.weights for model in allowed]
    return Weights(
        latency=_one(policy.latency, [each.latency for each in weights]),
        accuracy=_one(policy.accuracy, [each.accuracy for each in weights]),
        cost=_one(policy.cost, [each.cost for each in weights]),
        quality=_one(policy.quality, [each.quality for each in weights]),
    )


def _one(threshold: int, weights: Sequence[int]) -> int:
    if threshold >= BEST:
        return max(weights)
    return min(weights) if threshold <= WORST else threshold


def soft(weight: float, threshold: int) -> float:
    """1/(1+exp(-0.0625 (weight - threshold))): 0.5 at the threshold, towards 1 above it. Never overflows."""
    distance = STEEPNESS * (weight - threshold)
    if distance >= 0:
        return 1.0 / (1.0 + math.exp(-min(distance, 700.0)))
    grown = math.exp(max(distance, -700.0))
    return grown / (1.0 + grown)
