"""From a parsed request to its candidates: which policy holds, which model is meant, which endpoints may serve it.

Puts the pure rules of `classification` together with the classifier's answer. In direct mode nobody is asked, and what
depends only on catalogue, permissions, policy and model is remembered per version of the catalogue. Nothing is placed.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from logos.classification.meaning import Meaning
from logos.classification.policies import effective_policy
from logos.classification.policy_string import is_policy_string, parse_policy_string
from logos.classification.prompts import Prompt, read_prompt
from logos.classification.ranking import candidates, rank, statistics
from logos.classification.selection import Allowed, Demand, permitted_endpoints
from logos.domain.catalogue import Catalogue
from logos.domain.errors import BadRequest, LogosError, UnknownModel
from logos.domain.nouns import Key, Policy, Priority
from logos.gateway.offers import CurrentOffers, Offers
from logos.gateway.parsing import ParsedRequest
from logos.gateway.ports import ClassifierPort
from logos.scheduling.events import Candidate

log = logging.getLogger(__name__)

AUTO = "auto"
CLASSIFIER_WAIT_S = 0.5
CLASSIFIER_REST_S = 1.0  # after it did not answer, nobody waits for it again for so long
REMEMBERED_MAX = 4096


@dataclass(frozen=True, slots=True)
class Resolved:
    """Who may serve a request, best first. `statistics` is None in direct mode."""

    policy: Policy
    priority: Priority
    candidates: tuple[Candidate, ...]
    prompt_tokens: int
    statistics: Mapping[str, Any] | None


class Resolution:
    """Resolves requests against the catalogue of the moment."""

    def __init__(
        self,
        classifier: ClassifierPort | None,
        wait_s: float = CLASSIFIER_WAIT_S,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._classifier = classifier
        self._wait_s = wait_s
        self._clock = clock
        self._ask_again_at = float("-inf")
        self._offers = CurrentOffers(wall_clock)
        self._remembered: dict[tuple[int, frozenset[int] | None, int, str], tuple[Candidate, ...]] = {}
        self._remembered_of = Offers(Catalogue(), dt.date.min)

    async def resolve(self, catalogue: Catalogue, key: Key, parsed: ParsedRequest, request_id: str = "") -> Resolved:
        """Raises the errors of `classification`: UnknownModel, UnknownPolicy, PrivacyForbids, ContextTooLong, ...
        Votes on this request may refer to it by `request_id`."""
        policy = effective_policy(catalogue, key, parsed.controls.policy)
        priority = min(parsed.controls.priority or policy.priority, key.priority_max)
        prompt = read_prompt(parsed.capability, parsed.body)
        name = parsed.model
        if name is not None and name != AUTO and not is_policy_string(name):
            found = self._direct(catalogue, key, policy, parsed, name, prompt.tokens)
            return Resolved(policy, priority, found, prompt.tokens, None)
        if name is not None and name != AUTO:
            policy = parse_policy_string(name, policy)
        demand = Demand(None, parsed.capability, prompt.tokens, parsed.max_output_tokens)
        allowed = permitted_endpoints(catalogue, key, policy, demand)
        meaning = await self._meaning(prompt, allowed, request_id)
        similarity, learned = (None, None) if meaning is None else (meaning.similarity or None, meaning.quality)
        ranked = rank(allowed, prompt.system, similarity, learned)
        found = _some(self._offers.of(catalogue).candidates(candidates(ranked, allowed)))
        told = statistics(
            allowed, ranked, meaning_available=similarity is not None, policy_name=policy.name, catalogue=catalogue
        )
        return Resolved(policy, priority, found, prompt.tokens, told)

    def _direct(
        self, catalogue: Catalogue, key: Key, policy: Policy, parsed: ParsedRequest, name: str, tokens: int
    ) -> tuple[Candidate, ...]:
        model = catalogue.model_named.get(name)
        if model is None:
            raise UnknownModel
        offers = self._offers.of(catalogue)
        if offers is not self._remembered_of or len(self._remembered) >= REMEMBERED_MAX:
            self._remembered.clear()
            self._remembered_of = offers
        wanted = tokens + (parsed.max_output_tokens or 0)
        fits = model.context_length_tokens is None or wanted <= model.context_length_tokens
        known = (model.id, key.model_ids, policy.id, parsed.capability)
        found = self._remembered.get(known) if fits else None
        if found is None:
            demand = Demand(model.id, parsed.capability, tokens, parsed.max_output_tokens)
            allowed = permitted_endpoints(catalogue, key, policy, demand)
            found = _some(offers.candidates(candidates(rank(allowed), allowed)))
            self._remembered[known] = found
        return found

    async def _meaning(self, prompt: Prompt, allowed: Allowed, request_id: str) -> Meaning | None:
        """None when the classifier is away, too slow or not needed: policy and tags decide then. One request at a
        time finds out whether it is back, so an absence costs hardly anybody the wait."""
        if self._classifier is None or len(allowed.models) < 2 or not prompt.user:
            return None
        if self._clock() < self._ask_again_at:
            return None
        if self._ask_again_at > float("-inf"):
            self._ask_again_at = self._clock() + self._wait_s + CLASSIFIER_REST_S
        ids = tuple(model.id for model in allowed.models)
        try:
            async with asyncio.timeout(self._wait_s):
                found = await self._classifier.meaning(prompt.user, ids, request_id)
        except (ConnectionError, TimeoutError, LogosError) as error:
            log.warning("the classifier is away: %s", type(error).__name__)
            self._ask_again_at = self._clock() + CLASSIFIER_REST_S
            return None
        self._ask_again_at = float("-inf")
        return found


def _some(found: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    if not found:
        raise BadRequest("No model can serve this request.", param="model")
    return found
