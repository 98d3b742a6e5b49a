"""GET /v1/models: the models that a key may use and that have somewhere to run. Reads memory only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from logos.domain.catalogue import Catalogue
from logos.domain.errors import UnknownModel
from logos.domain.nouns import Key, Model
from logos.gateway.auth import KeyDirectory, is_stale
from logos.gateway.http import Receive, Scope, Send, headers_of, send_json

Clock = Callable[[], float]


class DirectoryView(Protocol):
    """What is known of catalogue and keys at the moment (`gateway.directory.Directory`)."""

    @property
    def catalogue(self) -> Catalogue: ...

    @property
    def keys(self) -> KeyDirectory: ...

    @property
    def confirmed_at(self) -> float: ...


class ModelsPage:
    """The list, and one model of it by name. `clock` is the directory's monotonic one."""

    def __init__(self, directory: DirectoryView, *, stale_after_s: float, clock: Clock, wall_clock: Clock) -> None:
        self._directory = directory
        self._stale_after_s = stale_after_s
        self._clock = clock
        self._wall_clock = wall_clock

    async def serve(self, scope: Scope, receive: Receive, send: Send, name: str | None) -> None:
        """Raises NotAuthenticated, DirectoryStale or UnknownModel."""
        directory = self._directory
        stale = is_stale(self._clock(), directory.confirmed_at, self._stale_after_s)
        key = directory.keys.authenticate(headers_of(scope), unix_now=self._wall_clock(), stale=stale)
        if name is None:
            data = [model_object(directory.catalogue, model) for model in usable_models(directory.catalogue, key)]
            await send_json(send, {"object": "list", "data": data})
            return
        model = directory.catalogue.model_named.get(name)
        if model is None or not is_usable(directory.catalogue, key, model):
            raise UnknownModel
        await send_json(send, model_object(directory.catalogue, model))


def usable_models(catalogue: Catalogue, key: Key) -> list[Model]:
    return [model for model in catalogue.models if is_usable(catalogue, key, model)]


def is_usable(catalogue: Catalogue, key: Key, model: Model) -> bool:
    return key.may_use(model.id) and bool(catalogue.endpoints_of.get(model.id))


def model_object(catalogue: Catalogue, model: Model) -> dict[str, Any]:
    """OpenAI's shape, with vLLM's `max_model_len` (None where nobody declared it)."""
    providers = (catalogue.provider.get(endpoint.provider_id) for endpoint in catalogue.endpoints_of[model.id])
    owner = next((provider.name for provider in providers if provider is not None), "logos")
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": owner,
        "max_model_len": model.context_length_tokens,
    }
