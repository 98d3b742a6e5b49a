"""How well each allowed model suits a request: policy, tags and meaning, summed; best first.

The reference's rule (scheduling.md section 1): weight = 3.4 * policy + 1.9 * tags + 1.0 * meaning, where policy is the
sum of three soft scores (latency, accuracy, quality; 0 to 3), tags a share (0 to 1) and meaning a cosine (-1 to 1).
Only orders what `selection` allowed; must not add to it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from logos.classification.selection import PRIVACY, Allowed
from logos.classification.thresholds import soft
from logos.domain.catalogue import Catalogue
from logos.domain.nouns import Model, Weights

POLICY_FACTOR = 3.4
TAGS_FACTOR = 1.9
MEANING_FACTOR = 1.0
SYSTEM_PROMPT_CHARACTERS_MAX = 65_536  # of it are searched for tags
STATISTICS_MODELS_MAX = 64  # are kept in a log row

# A word may end in the marks of "c++" and "c#"; underscores and hyphens separate, so "text-to-image" is three words.
_WORD = re.compile(r"[^\W_]+[+#]*")


@dataclass(frozen=True, slots=True)
class RankedModel:
    """A model and its weight, higher is better, with the parts of it. `meaning_score` None: the classifier was away,
    or knows nothing of this model."""

    model_id: int
    weight: float
    policy_score: float
    tag_score: float
    meaning_score: float | None
    learned_points: float = 0.0  # that votes have added to its quality weight, part of the policy score


def rank(
    allowed: Allowed,
    system_prompt: str = "",
    meaning: Mapping[int, float] | None = None,
    learned: Mapping[int, float] | None = None,
) -> tuple[RankedModel, ...]:
    """The allowed models, best first; equal weights in order of id. `meaning` is the similarity of prompt and
    description by model id, None when the classifier is away or (direct mode) was not asked; `learned` the points
    that votes have added to a model's quality weight."""
    text = _as_words(system_prompt[:SYSTEM_PROMPT_CHARACTERS_MAX])
    points = learned or {}
    ranked = [_ranked(each, allowed.thresholds, text, meaning, points.get(each.id, 0.0)) for each in allowed.models]
    ranked.sort(key=lambda each: (-each.weight, each.model_id))
    return tuple(ranked)


def _ranked(
    model: Model, thresholds: Weights, text: str, meaning: Mapping[int, float] | None, points: float
) -> RankedModel:
    points = points if math.isfinite(points) else 0.0
    policy = policy_score(model.weights, thresholds, points)
    tags = _share_of_tags(model.tags, text)
    similarity = None if meaning is None else meaning.get(model.id)
    if similarity is not None and not math.isfinite(similarity):
        similarity = None
    weight = POLICY_FACTOR * policy + TAGS_FACTOR * tags + MEANING_FACTOR * (similarity or 0.0)
    return RankedModel(model.id, weight, policy, tags, similarity, points)


def policy_score(weights: Weights, thresholds: Weights, learned_points: float = 0.0) -> float:
    """Sum of the soft scores for latency, accuracy and quality, 0 to 3. Cost is a hard filter and has no score."""
    return (
        soft(weights.latency, thresholds.latency)
        + soft(weights.accuracy, thresholds.accuracy)
        + soft(weights.quality + learned_points, thresholds.quality)
    )


def tag_score(tags: Sequence[str], system_prompt: str) -> float:
    """The share of `tags` that occur in the prompt as whole words, whatever their case; 0 without tags."""
    return _share_of_tags(tags, _as_words(system_prompt[:SYSTEM_PROMPT_CHARACTERS_MAX]))


def _share_of_tags(tags: Sequence[str], text: str) -> float:
    if not tags or not text.strip():
        return 0.0
    return sum(_tag_words(tag) in text for tag in tags) / len(tags)


def _as_words(text: str) -> str:
    """Words in lower case between single spaces, one at each end too, so that whole words are found by `in`."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


@lru_cache(maxsize=4096)
def _tag_words(tag: str) -> str:
    words = _as_words(tag)
    return words if words.strip() else "\0"  # a tag without any word occurs nowhere


def candidates(ranked: Iterable[RankedModel], allowed: Allowed) -> tuple[tuple[int, float], ...]:
    """(endpoint id, weight) pairs, best first. Endpoints of one model share its weight, in the order of `allowed`:
    pooled before remote, then by id."""
    return tuple((endpoint.id, each.weight) for each in ranked for endpoint in allowed.endpoints[each.model_id])


def statistics(
    allowed: Allowed,
    ranked: Sequence[RankedModel],
    *,
    meaning_available: bool,
    policy_name: str,
    catalogue: Catalogue | None = None,
) -> dict[str, Any]:
    """What `log_entry.classification_statistics` keeps: the weights of each stage by model, best first, who was
    excluded and why, and whether meaning took part. With the `catalogue` also which other endpoints of these models
    the policy forbids. JSON values only, of bounded size."""
    names = {model.id: model.name for model in allowed.models}
    served = allowed.served
    everywhere = () if catalogue is None else (each for id_ in names for each in catalogue.endpoints_of.get(id_, ()))
    forbidden = sorted(each.id for each in everywhere if each.id not in served)
    excluded = sorted(allowed.excluded.items())
    return {
        "policy": policy_name,
        "meaning_available": meaning_available,
        "factors": {"policy": POLICY_FACTOR, "tags": TAGS_FACTOR, "meaning": MEANING_FACTOR},
        "models_ranked": len(ranked),
        "models": [
            {
                "model_id": each.model_id,
                "model": names.get(each.model_id),
                "weight": round(each.weight, 6),
                "policy": round(each.policy_score, 6),
                "tags": round(each.tag_score, 6),
                "meaning": None if each.meaning_score is None else round(each.meaning_score, 6),
                **({"quality_learned": round(each.learned_points, 6)} if each.learned_points else {}),
            }
            for each in ranked[:STATISTICS_MODELS_MAX]
        ],
        "models_excluded": len(excluded),
        "excluded": {str(model_id): reason for model_id, reason in excluded[:STATISTICS_MODELS_MAX]},
        "endpoints_excluded": {str(each): PRIVACY for each in forbidden[:STATISTICS_MODELS_MAX]},
    }
