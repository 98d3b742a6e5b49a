"""The scheduler's state as plain values, for /health, the admin page and people.

Read-only, JSON-able, no addresses and no request content; the names of fields here are what the admin page shows.
"""

from __future__ import annotations

from typing import Any

from logos.domain.lifecycle import EngineState
from logos.scheduling.nodes import Engine, NodeState
from logos.scheduling.places import EndpointState
from logos.scheduling.state import GatewayState, State
from logos.scheduling.swapping import Claim


def summarize(state: State) -> dict[str, Any]:
    """One dict per kind of thing; lists are ordered by id."""
    return {
        "policy": state.settings.policy,
        "now_s": state.now,
        "reconvening": state.is_reconvening,
        "waiting": len(state.waiting),
        "running": len(state.tickets) - len(state.waiting),
        "leases": len(state.leases),
        "hedges": state.hedges.sent,
        "endpoints": [_endpoint(state, each) for _, each in sorted(state.endpoints.items())],
        "engines": [_engine(state, each) for _, each in sorted(state.engines.items())],
        "claims": [_claim(state, each) for _, each in sorted(state.claims.items())],
        "nodes": [_node(each) for _, each in sorted(state.nodes.items())],
        "gateways": [_gateway(each) for _, each in sorted(state.gateways.items())],
    }


def _endpoint(state: State, endpoint: EndpointState) -> dict[str, Any]:
    leases = [lease for place in endpoint.places.values() for lease in place.leases.values()]
    oldest = endpoint.queue.oldest()
    return {
        "endpoint_id": endpoint.endpoint.id,
        "model": endpoint.model_name,
        "provider_id": endpoint.endpoint.provider_id,
        "pooled": endpoint.is_pooled,
        "removed": endpoint.is_removed,
        "waiting": len(endpoint.queue),
        "oldest_waits_s": state.now - oldest.arrived_at if oldest is not None else 0.0,
        "running": sum(len(place.running) for place in endpoint.places.values()),
        "leases": len(leases),
        "leased_unused": sum(lease.unused for lease in leases),
        "capacity": sum(place.capacity for place in endpoint.places.values() if place.is_open),
        "circuit": endpoint.circuit.state(state.now),
        "remaining_requests": endpoint.rate.remaining_requests(state.now),
        "service_p50_s": state.service.service_p50_s(endpoint.endpoint.id),
        "load_failures": endpoint.loading.failures,
        "load_failure_reason": endpoint.loading.reason if endpoint.loading.failures else "",
    }


def _engine(state: State, engine: Engine) -> dict[str, Any]:
    endpoint = state.endpoints[engine.endpoint_id]
    running = [place for place in endpoint.places.values() if place.place.engine_id == engine.engine_id]
    return {
        "engine_id": engine.engine_id,
        "endpoint_id": engine.endpoint_id,
        "model": endpoint.model_name,
        "node_id": engine.node_id,
        "gpus": list(engine.gpu_indices),
        "state": engine.state.value,
        "since_s": state.now - engine.since,
        "memory_mib": engine.memory_per_gpu_mib * len(engine.gpu_indices),
        "measured_mib": engine.measured_mib,
        "transition_s": engine.seconds,
        "running": sum(len(place.running) for place in running),
        "running_inside": engine.running_inside,
        "waiting_inside": engine.waiting_inside,
        "kv_usage": engine.kv_usage,
        "has_slept": engine.has_slept,
        "claimed_by": _claimant(state, engine),
    }


def _claimant(state: State, engine: Engine) -> str | None:
    """The model that it makes room for."""
    return None if engine.claimed_by is None else state.endpoints[engine.claimed_by].model_name


def _claim(state: State, claim: Claim) -> dict[str, Any]:
    """Who waits for whose memory. Until it is settled nobody has been told to go for good."""
    return {
        "model": claim.endpoint.model_name,
        "node_id": claim.node.node.id,
        "wakes": claim.sleeper.engine_id if claim.sleeper is not None else None,
        "victims": [victim.engine_id for victim in claim.victims],
        "settled": claim.is_settled,
        "for_s": state.now - claim.since,
    }


def _node(node: NodeState) -> dict[str, Any]:
    free = node.unheld_mib()
    return {
        "node_id": node.node.id,
        "provider_id": node.node.provider_id,
        "engines": sum(engine.state is not EngineState.COLD for engine in node.engines.values()),
        "sleeps": node.node.sleeps,
        "host_memory_mib": node.node.host_memory_mib or None,  # None: not limited
        "host_taken_mib": sum(engine.host_mib for engine in node.engines.values() if engine.has_slept),
        "gpus": [
            {"index": gpu.index, "memory_mib": gpu.memory_mib, "free_mib": free[gpu.index]} for gpu in node.node.gpus
        ],
    }


def _gateway(gateway: GatewayState) -> dict[str, Any]:
    waiting = sum(ticket.place is None for ticket in gateway.tickets.values())
    return {
        "gateway_id": gateway.gateway_id,
        "waiting": waiting,
        "running": len(gateway.tickets) - waiting,
        "leases": len(gateway.leases),
    }
