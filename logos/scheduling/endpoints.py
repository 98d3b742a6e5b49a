"""Takes in a new version of the catalogue: endpoints come, change and go.

Of an endpoint that has left the catalogue, waiting requests choose again, leases are asked back and engines drain; it
stays in the books until nothing runs there. Which engines are wanted is decided in `capacity`.
"""

from __future__ import annotations

from logos.domain.catalogue import Catalogue
from logos.domain.nouns import Endpoint, Place
from logos.scheduling.capacity import Capacity
from logos.scheduling.leases import Leases
from logos.scheduling.places import EndpointState
from logos.scheduling.state import State


class Endpoints:
    """The endpoints as the catalogue declares them."""

    def __init__(self, state: State, capacity: Capacity, leases: Leases) -> None:
        self._state = state
        self._capacity = capacity
        self._leases = leases

    def apply(self, catalogue: Catalogue) -> None:
        """An older version than the one held is ignored."""
        state = self._state
        if catalogue.version < state.catalogue.version:
            return
        state.catalogue = catalogue
        for endpoint in sorted(catalogue.endpoints, key=lambda each: each.id):
            self._declare(state.endpoint(endpoint.id), endpoint)
        for known in list(state.endpoints.values()):
            if known.endpoint.id not in catalogue.endpoint:
                self._remove(known)
        self._capacity.reconsider()

    def forget_if_over(self, endpoint: EndpointState) -> None:
        """A removed endpoint is forgotten once nothing of it is left."""
        if endpoint.closed:
            self.drop_idle_places(endpoint)
        if endpoint.is_removed and not (endpoint.queue or endpoint.engines or endpoint.places):
            self._state.timers.cancel(endpoint.recheck)
            self._state.timers.cancel(endpoint.loading.timer)
            del self._state.endpoints[endpoint.endpoint.id]
            if self._state.has_catalogue:
                self._state.service.forget(endpoint.endpoint.id)
                self._state.predictor.forget(endpoint.endpoint.id)
                self._forget_model_if_over(endpoint.endpoint.model_id)

    def drop_idle_places(self, endpoint: EndpointState) -> None:
        """Places of engines that are gone, once nothing runs there."""
        for place in list(endpoint.closed.values()):
            if place.is_idle and place.place.engine_id not in endpoint.engines:
                endpoint.drop_place(place)

    def _forget_model_if_over(self, model_id: int) -> None:
        """What is known of its answers is of no use once nobody serves it."""
        if all(each.endpoint.model_id != model_id for each in self._state.endpoints.values()):
            self._state.predictor.answers.forget_model(model_id)

    def _declare(self, known: EndpointState, endpoint: Endpoint) -> None:
        state = self._state
        if not known.is_removed and known.is_pooled != (endpoint.engine is not None):
            self._remove(known)  # what was a remote place is none of a pool's, and the other way round
            self._capacity.withdraw_claims(known)
        if known.endpoint.engine is None and endpoint.engine is not None:
            for engine in known.engines.values():  # taken over before anybody had said what such engines keep
                engine.residue_per_gpu_mib = endpoint.engine.residue_per_gpu_mib
                engine.host_mib = endpoint.engine.host_mib
                state.nodes[engine.node_id].memory_changed()
        model = state.catalogue.model.get(endpoint.model_id)
        known.endpoint = endpoint
        known.model_name = model.name if model is not None else str(endpoint.model_id)
        known.is_removed = False
        state.predictor.introduce(endpoint.id, endpoint.engine)
        if endpoint.limits != known.rate.limits:
            known.rate.limits = endpoint.limits
            self._leases.recall(known.places.values())
        if endpoint.engine is None:
            known.open(state.place(Place(endpoint.id)))
        for place in known.places.values():
            self._resize(place.place, known)
        state.touch(endpoint.id)

    def _resize(self, place: Place, endpoint: EndpointState) -> None:
        known = endpoint.places[place]
        known.capacity = endpoint.capacity_per_place
        endpoint.grown(known)
        if known.held > known.capacity:
            known.inherited = max(known.inherited, known.held)
            self._leases.recall([known])

    def _remove(self, known: EndpointState) -> None:
        known.is_removed = True
        for place in known.places.values():
            if place.place.engine_id is None:
                known.close(place)
        self._leases.recall(known.places.values())
        self._state.upset_endpoint(known.endpoint.id)
