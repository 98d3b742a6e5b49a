"""What the accounts actor tells gateways, scheduler and classifier: the catalogue, the keys, how to reach providers.

Secrets travel here (`ProviderAccess.api_key`) and nowhere else: this value is never journalled, logged or stored by
its receiver. Everything in it is excluded from repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from logos.domain.catalogue import Catalogue
from logos.domain.nouns import Key


@dataclass(frozen=True, slots=True)
class ProviderAccess:
    """How to reach a remote provider: `auth_format` is filled with the key, as in "Bearer {key}"."""

    provider_id: int
    base_url: str = field(repr=False)
    api_key: str | None = field(default=None, repr=False)
    auth_header: str = "Authorization"
    auth_format: str = "Bearer {key}"


@dataclass(frozen=True, slots=True)
class DirectoryUpdate:
    """The answer to `watch(holder, epoch, version)`: what changed since, or nothing new after a while.

    `full`: replace everything held. Otherwise `keys` are added or replaced, `removed_key_ids` go, and a `catalogue`
    or `access` that is None stays as it is. By asking with `version` the holder acknowledges everything up to it:
    that is how a revocation is known to have reached every gateway. `recalls` are quota slices to hand back at once.
    """

    epoch: int
    version: int
    full: bool = False
    catalogue: Catalogue | None = None
    keys: tuple[Key, ...] = ()
    removed_key_ids: tuple[int, ...] = ()
    access: tuple[ProviderAccess, ...] | None = field(default=None, repr=False)
    recalls: tuple[str, ...] = ()
    salt: str = field(default="", repr=False)  # of fingerprints; told in full updates only
