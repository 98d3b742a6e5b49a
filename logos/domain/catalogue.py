"""One immutable, versioned value: everything that selecting and placing a request needs to know.

`logos apply` and /admin write a new version; the accounts actor broadcasts it. Keys and secrets must not live here:
the catalogue is part of every journal's opening snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from logos.domain.nouns import Endpoint, Model, Policy, Price, Provider, SloTargets

SLO_DEFAULT = SloTargets()


@dataclass(frozen=True)
class Catalogue:
    """Declared state of the platform. Tuples are the data; the mappings below are derived once per version."""

    version: int = 0
    models: tuple[Model, ...] = ()
    providers: tuple[Provider, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    policies: tuple[Policy, ...] = ()
    prices: tuple[Price, ...] = ()
    slo: SloTargets = SLO_DEFAULT

    @cached_property
    def model(self) -> dict[int, Model]:
        return {model.id: model for model in self.models}

    @cached_property
    def model_named(self) -> dict[str, Model]:
        return {model.name: model for model in self.models}

    @cached_property
    def provider(self) -> dict[int, Provider]:
        return {provider.id: provider for provider in self.providers}

    @cached_property
    def endpoint(self) -> dict[int, Endpoint]:
        return {endpoint.id: endpoint for endpoint in self.endpoints}

    @cached_property
    def endpoints_of(self) -> dict[int, tuple[Endpoint, ...]]:
        """Endpoints by model id, in order of endpoint id."""
        grouped: dict[int, list[Endpoint]] = {model.id: [] for model in self.models}
        for endpoint in sorted(self.endpoints, key=lambda each: each.id):
            grouped.setdefault(endpoint.model_id, []).append(endpoint)
        return {model_id: tuple(found) for model_id, found in grouped.items()}

    @cached_property
    def policy(self) -> dict[int, Policy]:
        return {policy.id: policy for policy in self.policies}

    @cached_property
    def policy_named(self) -> dict[str, Policy]:
        return {policy.name: policy for policy in self.policies}

    def __getstate__(self) -> dict[str, object]:
        """Derived mappings are rebuilt by whoever receives the value."""
        names = ("version", "models", "providers", "endpoints", "policies", "prices", "slo")
        return {name: self.__dict__[name] for name in names}
