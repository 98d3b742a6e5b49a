"""Which endpoints may serve a request at all: permission, capability, privacy, context length, cost.

These are hard rules. Privacy is judged per endpoint, never per model: a LOCAL policy must not reach the cloud copy of
a model that also runs locally. How the survivors compare is the matter of `ranking`; how busy they are is nobody's
here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from logos.classification import thresholds
from logos.domain.catalogue import Catalogue
from logos.domain.errors import (
    BadRequest,
    ContextTooLong,
    LogosError,
    NoCapacity,
    NotPermitted,
    PrivacyForbids,
    UnknownModel,
)
from logos.domain.nouns import Endpoint, Key, Model, Policy, Weights

# Why a model is out, in the order in which the reasons are looked at; the words stand in classification_statistics.
NO_ENDPOINT = "no_endpoint"
CAPABILITY = "capability"
PRIVACY = "privacy"
CONTEXT = "context_length"
COST = "cost"
ORDER = (NO_ENDPOINT, CAPABILITY, PRIVACY, CONTEXT, COST)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request needs of a model. `model_id` is given in direct mode; `capability` is chat, completions or
    embeddings; `output_tokens` is the most the client wants, None if it did not say."""

    model_id: int | None
    capability: str
    prompt_tokens: int = 0
    output_tokens: int | None = None

    @property
    def context_tokens(self) -> int:
        return self.prompt_tokens + (self.output_tokens or 0)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may serve a request: models, and for each the endpoints that are private enough, pooled ones first (they
    cost nothing per token and nothing leaves the house), then by id.

    `thresholds` are the policy's, resolved among the models that fit before the cost filter. `excluded` says why the
    other models of this key are out; models that the key may not use are left out of it, for they do not exist for it.
    """

    models: tuple[Model, ...]
    endpoints: Mapping[int, tuple[Endpoint, ...]]
    thresholds: Weights
    excluded: Mapping[int, str]

    @property
    def served(self) -> frozenset[int]:
        """Ids of the endpoints that may serve."""
        return frozenset(endpoint.id for found in self.endpoints.values() for endpoint in found)


def permitted_endpoints(catalogue: Catalogue, key: Key, policy: Policy, demand: Demand) -> Allowed:
    """The models and endpoints that may serve `demand`; never empty.

    Direct mode skips tags and meaning, nothing else: a model named by the client must pass permission, privacy and the
    policy's cost threshold like any other, and a threshold of 1024 means the best of all models that the key could
    use for this request, not of the one that it named.

    Raises UnknownModel, NoCapacity (no endpoint at all), BadRequest (capability), PrivacyForbids, ContextTooLong or
    NotPermitted (code `policy`: too dear), whichever rule stopped the last model.
    """
    models = _permitted_models(catalogue, key, demand)
    excluded: dict[int, str] = {}
    endpoints = _fitting(catalogue, models, policy, demand, excluded)
    fitting = [model for model in models if model.id in endpoints]
    if not fitting:
        raise _refusal(models, excluded, policy, demand)
    peers = fitting
    if demand.model_id is not None and thresholds.names_an_extreme(policy):
        permitted = [model for model in catalogue.models if key.may_use(model.id)]
        served = _fitting(catalogue, permitted, policy, demand, {})
        peers = [model for model in permitted if model.id in served]
    bounds = thresholds.resolved(policy, peers)
    cheap = tuple(model for model in fitting if model.weights.cost >= bounds.cost)
    excluded.update((model.id, COST) for model in fitting if model.weights.cost < bounds.cost)
    if not cheap:
        raise _refusal(models, excluded, policy, demand)
    return Allowed(cheap, {model.id: endpoints[model.id] for model in cheap}, bounds, excluded)


def _permitted_models(catalogue: Catalogue, key: Key, demand: Demand) -> list[Model]:
    if demand.model_id is not None:
        named = catalogue.model.get(demand.model_id)
        if named is None or not key.may_use(named.id):
            raise UnknownModel
        return [named]
    permitted = [model for model in catalogue.models if key.may_use(model.id)]
    if not permitted:
        raise UnknownModel("There is no model that this key may use: an administrator can permit some.")
    return permitted


def _fitting(
    catalogue: Catalogue, models: Iterable[Model], policy: Policy, demand: Demand, excluded: dict[int, str]
) -> dict[int, tuple[Endpoint, ...]]:
    """Endpoints that are private enough, by model, for the models that can do what is asked; the others go to
    `excluded` with the first reason that holds."""
    found: dict[int, tuple[Endpoint, ...]] = {}
    for model in models:
        everywhere = catalogue.endpoints_of.get(model.id, ())
        private = [endpoint for endpoint in everywhere if endpoint.privacy <= policy.privacy]
        limit = model.context_length_tokens
        if not everywhere:
            excluded[model.id] = NO_ENDPOINT
        elif model.capabilities and demand.capability not in model.capabilities:
            excluded[model.id] = CAPABILITY
        elif not private:
            excluded[model.id] = PRIVACY
        elif limit is not None and demand.context_tokens > limit:
            excluded[model.id] = CONTEXT
        else:
            found[model.id] = tuple(sorted(private, key=_pooled_first))
    return found


def _pooled_first(endpoint: Endpoint) -> tuple[bool, int]:
    return endpoint.engine is None, endpoint.id


def _refusal(models: list[Model], excluded: Mapping[int, str], policy: Policy, demand: Demand) -> LogosError:
    """What to tell the client: the rule that was reached last, as there a model came closest to being used."""
    reason = max(excluded.values(), key=ORDER.index)
    near = [model for model in models if excluded[model.id] == reason]
    subject = f"Model '{near[0].name}'" if demand.model_id is not None else "Every model that this key may use"
    if reason == NO_ENDPOINT:
        return NoCapacity(f"{subject} is declared but has no endpoint yet: an administrator must add one.")
    if reason == CAPABILITY:
        able = ", ".join(sorted({each for model in near for each in model.capabilities}))
        return BadRequest(
            f"{subject} can do {able}, but not {demand.capability}: name another model or use another route.",
            code="capability",
            param="model",
        )
    if reason == PRIVACY:
        return PrivacyForbids(
            f"{subject} has no endpoint that is private enough for policy '{policy.name}', which allows "
            f"{policy.privacy.name} at the loosest: name another model or another policy."
        )
    if reason == CONTEXT:
        return _context_too_long(near, demand)
    return NotPermitted(
        f"{subject} is dearer than the cost threshold of policy '{policy.name}' allows: name a cheaper model or "
        "another policy.",
        code="policy",
        param="policy",
    )


def _context_too_long(near: list[Model], demand: Demand) -> ContextTooLong:
    longest = max(model.context_length_tokens or 0 for model in near)
    whose = f"model '{near[0].name}'" if demand.model_id is not None else "the longest model allowed here"
    wanted = f" and {demand.output_tokens} wanted for the answer" if demand.output_tokens else ""
    cure = "shorten the prompt or ask for fewer output tokens" if wanted else "shorten the prompt"
    return ContextTooLong(
        f"About {demand.prompt_tokens} prompt tokens{wanted} do not fit the {longest} tokens of context that {whose} "
        f"has: {cure}."
    )
