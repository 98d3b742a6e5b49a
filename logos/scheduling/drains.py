"""How long what runs will run, and what waits would: until engines have drained, and left, in seconds.

Estimates from the predictor's quantiles of answer lengths and pace, for the rules of swapping. Nothing is decided here.

An engine takes a step for each token of its longest answer, and each sequence in its batch makes the step a little
longer, so with `longest` and `total` tokens to come a batch takes

    step * longest + sequence * total + what its prompts take

if it has its GPUs to itself. Of engines on the same GPUs each is slower while another is busy, so what one of them has
to do keeps the others, too, until it has drained. Who has drained first falls asleep while the others still run; where
a node does one thing at a time, one after the other. Nobody knows how long answers will be: what runs is judged near
the 0.9 quantile, for the longest of several is waited for, and what waits nearer to its median.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Place
from logos.prediction.service import Transition
from logos.prediction.spans import Span
from logos.scheduling.nodes import Engine, NodeState
from logos.scheduling.places import PlaceState
from logos.scheduling.situations import neighbours, neighbours_running
from logos.scheduling.state import State
from logos.scheduling.tickets import Ticket

RUNNING_UPPER = 0.85  # from the median (0) to the 0.9 quantile (1) of the length of an answer that runs
WAITING_UPPER = 0.6  # and of one that waits
JUDGED_FOR_S = 0.3  # how long what was worked out for a running request stands


@dataclass(frozen=True, slots=True)
class Stay:
    """What one request brings to an engine: tokens to come, and seconds for its prompt."""

    tokens: float
    prompt_s: float = 0.0

    def seconds(self, token_s: float) -> float:
        """With so many seconds from token to token."""
        return self.prompt_s + self.tokens * token_s


@dataclass(slots=True)
class Batch:
    """What one engine has to do until it has drained. `slowdown` is by a busy neighbour."""

    step_s: float
    sequence_s: float
    slowdown: float
    is_beside: bool  # a busy engine on the same GPUs that is not asked to drain
    longest: float = 0.0
    total: float = 0.0
    prompts_s: float = 0.0

    def add(self, stay: Stay) -> None:
        """One more joins it now."""
        self.longest = max(self.longest, stay.tokens)
        self.total += stay.tokens
        self.prompts_s += stay.prompt_s

    @property
    def alone_s(self) -> float:
        """With its GPUs to itself."""
        return self.step_s * self.longest + self.sequence_s * self.total + self.prompts_s

    @property
    def beside_s(self) -> float:
        """With a busy neighbour all the time."""
        return self.slowdown * self.alone_s


class Leaving(NamedTuple):
    """What a node has to do until engines have left: how many transitions it is at at once (None: no bound), what
    leaving takes each of them, by engine id, and when those began that are under way (0 or less), and what they take.
    """

    at_once: int | None
    takes_s: Mapping[str, float]
    under_way: Sequence[tuple[float, float]] = ()

    def gone_s(self, ends: Iterable[tuple[float, str]]) -> float:
        """Until all have left of which these have drained then, in this order, and those under way."""
        leaves = [*self.under_way, *((end_s, self.takes_s[engine_id]) for end_s, engine_id in ends)]
        if self.at_once is None:
            return max([0.0, *(begins_s + each_s for begins_s, each_s in leaves)])
        free_s = [-math.inf] * self.at_once
        for begins_s, each_s in leaves:
            heapq.heapreplace(free_s, max(free_s[0], begins_s) + each_s)
        return max([0.0, *free_s])


class Drain:
    """Engines of one node that drain at the same time, and what may still join them."""

    def __init__(self, batches: dict[str, Batch], neighbourhoods: Sequence[Sequence[str]], leaving: Leaving) -> None:
        """Batches by engine id, and the ids of those that share GPUs."""
        self._batches = batches
        self._neighbourhoods = neighbourhoods
        self._leaving = leaving

    def add(self, engine_id: str, stay: Stay) -> None:
        self._batches[engine_id].add(stay)

    @property
    def seconds(self) -> float:
        """Until the last of them has drained."""
        return max((end_s for end_s, _ in self._ends()), default=0.0)

    @property
    def gone_s(self) -> float:
        """Until the last of them has left, and those that are leaving already. Where the node takes turns, who has
        drained first leaves first."""
        return self._leaving.gone_s(sorted(self._ends()))

    @property
    def covered_s(self) -> float:
        """How much sooner that is because who has drained does not wait for the others."""
        seconds = self.seconds
        return self._leaving.gone_s([(seconds, engine_id) for _, engine_id in self._ends()]) - self.gone_s

    def _ends(self) -> Iterator[tuple[float, str]]:
        for ids in self._neighbourhoods:
            yield from zip(_ends_s([self._batches[each] for each in ids]), ids, strict=True)


class Drains:
    """Reads the books and the predictor; keeps what it worked out in `Ticket.left`."""

    def __init__(self, state: State) -> None:
        self._state = state

    def drain(self, engines: Sequence[Engine], node: NodeState) -> Drain:
        """Of these engines of a node, as things are."""
        batches = {each.engine_id: self._batch(each, engines) for each in engines}
        return Drain(batches, _neighbourhoods(engines), self._leaving(engines, node))

    def stay(self, ticket: Ticket, engine: Engine) -> Stay:
        """What a waiting request would bring."""
        prompt_s = ticket.uncached_tokens * self._state.predictor.prompt_token_s(engine.endpoint_id)
        return Stay(between(self._tokens(ticket, engine.endpoint_id, 0), WAITING_UPPER), prompt_s)

    def token_s(self, engine: Engine, more: int = 0) -> float:
        """Seconds from token to token on it, with so many more in its batch."""
        place = self._place(engine)
        running = (len(place.running) if place is not None else 0) + more
        beside = neighbours_running(self._state, Place(engine.endpoint_id, engine.engine_id))
        return self._state.predictor.tpot(engine.endpoint_id, running, beside).p50

    # Inside.

    def _batch(self, engine: Engine, draining: Sequence[Engine]) -> Batch:
        tpot, endpoint_id = self._state.predictor.tpot, engine.endpoint_id
        one, two, beside = tpot(endpoint_id, 1).p50, tpot(endpoint_id, 2).p50, tpot(endpoint_id, 1, 1).p50
        slowdown = max(beside / one, 1.0) if one > 0.0 else 1.0
        batch = Batch(max(2.0 * one - two, 0.0), two - one, slowdown, self._is_beside_others(engine, draining))
        place = self._place(engine)
        if place is not None and place.running:
            batch.prompts_s = self._prompts_s(place)
            token_s = self.token_s(engine)
            for ticket in place.running.values():
                batch.add(Stay(self._left(ticket, token_s)))
        return batch

    def _sleep_s(self, engine: Engine) -> float:
        return self._state.predictor.transition(engine.endpoint_id, engine.node_id, Transition.SLEEP).p50

    def _leaving(self, engines: Sequence[Engine], node: NodeState) -> Leaving:
        takes_s = {each.engine_id: self._sleep_s(each) for each in engines}
        falling = [each for each in node.engines.values() if each.state is EngineState.FALLING_ASLEEP]
        falling.sort(key=lambda each: each.since)
        under_way = [(each.since - self._state.now, self._sleep_s(each)) for each in falling]
        return Leaving(node.node.transitions_at_once, takes_s, under_way)

    def _prompts_s(self, place: PlaceState) -> float:
        """Of the prompts in flight, what is still to be computed."""
        token_s, pair_s = self._state.predictor.prompt_cost_s(place.place.endpoint_id)
        backlog = place.backlog
        whole_s = backlog.remaining_tokens * token_s + backlog.remaining_pairs * pair_s
        return max(whole_s - (self._state.now - backlog.at), 0.0) if whole_s > 0.0 else 0.0

    def _is_beside_others(self, engine: Engine, draining: Sequence[Engine]) -> bool:
        ids = {each.engine_id for each in draining}
        beside = neighbours(self._state, Place(engine.endpoint_id, engine.engine_id))
        return any(each.running and each.place.engine_id not in ids for each in beside)

    def _left(self, ticket: Ticket, token_s: float) -> float:
        """Tokens that a running request still needs, at least one."""
        now = self._state.now
        if now >= ticket.judged_at + JUDGED_FOR_S:
            produced = 0
            if ticket.first_token_at is not None and token_s > 0.0:
                produced = int((now - ticket.first_token_at) / token_s)
            tokens = between(self._tokens(ticket, ticket.endpoint_id, produced), RUNNING_UPPER)
            ticket.judged_at, ticket.left = now, max(tokens - produced, 1.0)
        return ticket.left

    def _tokens(self, ticket: Ticket, endpoint_id: int, produced: int) -> Span:
        request = ticket.request
        key_id, allowed = (request.key_id, request.output_tokens_max) if request is not None else (-1, None)
        model_id = self._state.endpoints[endpoint_id].endpoint.model_id
        return self._state.predictor.answers.span(model_id, key_id, allowed, produced)

    def _place(self, engine: Engine) -> PlaceState | None:
        return self._state.endpoints[engine.endpoint_id].places.get(Place(engine.endpoint_id, engine.engine_id))


def _ends_s(batches: Sequence[Batch]) -> list[float]:
    """When each of some engines that share GPUs has drained, in their order: who is last is slowed until the last but
    one has, or by others to the end."""
    ends = [each.beside_s for each in batches]
    last = max(range(len(ends)), key=ends.__getitem__)
    batch = batches[last]
    if not batch.is_beside:
        others = max((end for index, end in enumerate(ends) if index != last), default=0.0)
        ends[last] = batch.alone_s + others * (1.0 - 1.0 / batch.slowdown)
    return ends


def between(span: Span, share: float) -> float:
    """So far from the median to the 0.9 quantile."""
    return span.p50 + share * (span.p90 - span.p50)


def _neighbourhoods(engines: Sequence[Engine]) -> list[list[str]]:
    """The ids of those that share GPUs, directly or by others between them."""
    found: list[tuple[set[int], list[str]]] = []
    for engine in engines:
        gpus, ids = set(engine.gpu_indices), [engine.engine_id]
        for each in [each for each in found if not gpus.isdisjoint(each[0])]:
            found.remove(each)
            gpus |= each[0]
            ids += each[1]
        found.append((gpus, ids))
    return [ids for _, ids in found]
