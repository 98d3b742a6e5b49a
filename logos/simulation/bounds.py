"""What no schedule can beat: each request alone on the best place that it may use, which is ready for it.

Queues, neighbours and changes of state only add to that, so the figures hold for every policy in every world that
answers all requests, and are far away where models take turns; how near one can come is for `clairvoyant`. A remote
endpoint counts with the latency that this request would draw there, or with the better of two where it may be hedged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from logos.simulation.arrivals import Arrival, Luck, draw
from logos.simulation.engine import EnginePace
from logos.simulation.figures import spread
from logos.simulation.lengths import output_tokens
from logos.simulation.remotes import RemoteEndpoint
from logos.simulation.world import World


def lower_bound(world: World, workload: Sequence[Arrival], seed: int, *, hedges: bool = False) -> dict[str, Any]:
    """Spreads of TTFT and latency in seconds, as in `figures`. With `hedges` requests may be given second places."""
    alone = _Alone(world, hedges=hedges)
    ordered = sorted(workload, key=lambda each: each.at)
    times = [alone.times_s(arrival, luck) for arrival, luck in zip(ordered, draw(ordered, seed), strict=True)]
    return {
        "ttft_s": spread([ttft_s for ttft_s, _ in times]),
        "latency_s": spread([total_s for _, total_s in times]),
    }


class _Alone:
    """The times of a request that has a whole world to itself."""

    def __init__(self, world: World, *, hedges: bool) -> None:
        self._world = world
        self._hedges = hedges
        self._remotes = {each: RemoteEndpoint(each, profile) for each, profile in world.remotes.items()}
        self._fastest = min((each.slowness for each in world.nodes), default=1.0)

    def times_s(self, arrival: Arrival, luck: Luck) -> tuple[float, float]:
        """Least seconds to the first token and to the end, each over all endpoints that may serve it."""
        found = [self._at(candidate.endpoint_id, arrival, luck) for candidate in self._world.candidates(arrival.models)]
        return min(ttft_s for ttft_s, _ in found), min(total_s for _, total_s in found)

    def _at(self, endpoint_id: int, arrival: Arrival, luck: Luck) -> tuple[float, float]:
        model_id = self._world.catalogue.endpoint[endpoint_id].model_id
        tokens = arrival.output_tokens or output_tokens(
            self._world.shares_of(model_id), luck.length, arrival.output_tokens_max
        )
        remote = self._remotes.get(endpoint_id)
        if remote is not None:
            lucks = (luck.latency, luck.second) if self._hedges else (luck.latency,)
            ttfts_s, totals_s = zip(
                *(remote.times_s(arrival.prompt_tokens, tokens, each) for each in lucks), strict=True
            )
            return min(ttfts_s), min(totals_s)
        uncached = max(1, arrival.prompt_tokens - sum(tokens for _, tokens in arrival.shared))
        ttft_s = prefill_s(self._world.engines[endpoint_id].pace, uncached) * self._fastest
        step_s = self._world.engines[endpoint_id].pace.step_s(1, 0) * self._fastest
        return ttft_s, ttft_s + (tokens - 1) * step_s


def prefill_s(pace: EnginePace, prompt_tokens: int) -> float:
    """Seconds that the prompt takes in an engine that has nothing else to do, in chunks of its own size."""
    chunks = -(-prompt_tokens // pace.prefill_chunk_tokens)
    return chunks * (pace.step_base_s + pace.step_per_sequence_s) + pace.prefill_per_token_s * prompt_tokens
