"""The rules of swapping of the policy `slo`: every decision weighs who waits longer against who waits less.

While requests wait for a model whose memory is taken, its victims are contested: they go on with what they run, and of
their own waiting requests they admit those that cost the claimants less than they save. Let

    D  until the victims have left: they drain together, and who has drained falls asleep when the node gets to it
    W  the claimant's wake or load              T  what the claimants will take
    B  the way back: the claimants' sleep and the victims' wake
    N  what waits for the claimants, weighted   L = D + W + T + B, what a request waits that is not admitted now
    M  what waits for victims that have left already, and are out until the claimants have been served

A wait of w costs c(w) = w + CONVEXITY * w**4 / L**3 seconds: few who wait very long are as bad as many
who wait a little. Of the waiting requests of the victims, shortest first, the k are admitted that maximize

    sum over them of c(waited + L) - c(waited)
    - (N * E[c'(waited there + D + W)] + M * E[c'(waited there + L)]) * (how much longer D becomes)

where `drains` says how much longer: by what the longest of them needs beyond what runs, by what each takes from those
that run beside it, and by what a neighbour that stays busy takes from another. So whatever ends before the drain does
is nearly free, and the last of a batch is not waited for by many. Of several victims one alone may admit: while the
others fall asleep it may run on for nothing, also when they have begun to. For the sake of those admitted nobody waits
longer than a bound, and where requests give up before it, no model is kept out for longer than twice their patience.

When the victims run dry and none is worth admitting they leave, unless so little waits that a swap would cost more
than it saves: with arrival rates a and b on the two sides of a cycle whose fixed part is O, the mean number waiting is
least when a side is left once O * sqrt(a * b) wait for the other (a polling system with two queues, arrivals served as
they come). Last, a model that idles sleeps as soon as its neighbours are more likely to be asked for: waking is cheap
where falling asleep is dear.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from logos.domain.lifecycle import EngineState
from logos.prediction.service import Transition
from logos.scheduling.dispatching import dispatch
from logos.scheduling.drains import Drains, Stay
from logos.scheduling.idling import Idling
from logos.scheduling.nodes import Engine, NodeState
from logos.scheduling.places import SERVING, EndpointState
from logos.scheduling.state import State
from logos.scheduling.swapping import Claim, Claims
from logos.scheduling.tickets import Ticket
from logos.scheduling.transitions import Transitions

LOOK_AT_MAX = 64  # waiting requests of a victim that are weighed at once
SAMPLE = 16  # of each claimant's waiting requests, by which T and their patience are judged
TAKES_UNKNOWN_S = 3.0
TOLERANCE_S = 1e-6
CONVEXITY = 0.5  # how much more a second counts at the end of a long wait than at its beginning


class Line(NamedTuple):
    """What waits for some models: how many, weighted, and how long all of them have waited, on average."""

    pressure: float
    waited_s: float

    def cost_per_s(self, more_s: float, lost_s: float) -> float:
        """pressure * E[c']: what each second costs them that is added when they have waited so much longer. They came
        at about equal distances, so they have waited from nothing to twice the average `a`, and where m is the mean
        of what they will have waited, E[w**3] is m**3 + m * a**2."""
        will_wait_s = self.waited_s + more_s
        cubed = will_wait_s * (will_wait_s * will_wait_s + self.waited_s * self.waited_s)
        return self.pressure * (1.0 + 4.0 * CONVEXITY * cubed / lost_s**3)


@dataclass(frozen=True, slots=True)
class Stakes:
    """What hangs on a claim at one moment, in seconds and requests."""

    group: tuple[EndpointState, ...]  # who would come in: the claimant first
    serving: tuple[Engine, ...]  # victims that still serve
    node: NodeState
    claimants: Line  # N
    gone: Line  # M
    drain_s: float  # until the last of the victims has drained
    gone_s: float  # D
    covered_s: float  # how much sooner that is because who has drained does not wait for the others
    coming_s: float  # W
    back_s: float  # B
    takes_s: float  # T
    unserved_s: float  # since the claim was made, or since the first that waits has come
    patience_s: float  # how long the most patient of them may wait

    @property
    def lost_s(self) -> float:
        """L: what a request of a victim waits if it is not admitted now."""
        return self.away_s + self.takes_s + self.back_s

    @property
    def away_s(self) -> float:
        """D + W: until the claimants are served, if nothing more is admitted."""
        return self.gone_s + self.coming_s

    @property
    def cost_per_s(self) -> float:
        """What each second costs all by which the victims leave later."""
        lost_s = self.lost_s
        return self.claimants.cost_per_s(self.away_s, lost_s) + self.gone.cost_per_s(lost_s, lost_s)

    def saves(self, waited_s: float) -> float:
        """c(waited + L) - c(waited): what it is worth to admit a request of a victim that has waited so long."""
        share = waited_s / self.lost_s
        return self.lost_s * (1.0 + CONVEXITY * ((1.0 + share) ** 4 - share**4))


class Applicant(NamedTuple):
    """A request that waits for a victim: about how long it would stay, since when it waits, what it would bring, and
    where it would go."""

    stays_s: float
    since: float
    stay: Stay
    ticket: Ticket
    engine: Engine


class MarginalSwaps:
    """Who makes room, when, and what is still admitted before."""

    def __init__(self, state: State, transitions: Transitions, claims: Claims) -> None:
        self._state = state
        self._transitions = transitions
        self._claims = claims
        self._drains = Drains(state)
        self._idling = Idling(state, transitions)

    def wanted(self, endpoint: EndpointState) -> None:
        options = list(self._claims.options(endpoint, self._displaced))
        if not options:
            return
        claim = min(options, key=self._price)
        self._claims.make(claim)
        self._judge(claim)

    def attend(self, endpoint: EndpointState) -> None:
        for claim in self._claims.concerning(endpoint):
            self._judge(claim)
        for engine in self._idling.idlers(endpoint):
            self._idling.sleep_after(engine, endpoint, self._idle_s(engine, endpoint))

    def moved(self) -> None:
        for claim in list(self._state.claims.values()):
            self._claims.advance(claim)
            self._judge(claim)

    # Judging a claim.

    def _judge(self, claim: Claim) -> None:
        """Admits what pays; then its victims leave, or are looked at again soon. Those that still run when others have
        begun to leave may linger, too, but no longer."""
        if self._state.claims.get(claim.endpoint_id) is not claim:
            return
        if claim.is_settled:
            stakes = self._stakes(claim)
            while stakes.serving and self._admit(stakes, self._gone_within_s(claim, stakes)):
                stakes = self._stakes(claim)
            return
        makes_room = self._claims.review(claim, self._displaced)
        if not makes_room and self._claims.is_in_vain(claim):
            self._claims.withdraw(claim)
            return
        stakes = self._stakes(claim)
        while self._admit(stakes, self._gone_within_s(claim, stakes) if makes_room else math.inf):
            stakes = self._stakes(claim)
        if self._is_held_up(claim):
            return  # looked at again when a transition has ended
        if makes_room and self._shall_leave(stakes):
            claim.leaves_by = self._state.now + stakes.gone_s + self._state.settings.swap_linger_max_s
            self._claims.settle(claim)
        else:
            self._look_again(claim)

    def _is_held_up(self, claim: Claim) -> bool:
        """Transitions are under way on its GPUs, or as many as its node makes at once."""
        under_way = [engine for engine in claim.node.engines.values() if engine.is_in_transit]
        at_once = claim.node.node.transitions_at_once
        if at_once is not None and len(under_way) >= at_once:
            return True
        return any(not set(claim.gpu_indices).isdisjoint(engine.gpu_indices) for engine in under_way)

    def _shall_leave(self, stakes: Stakes) -> bool:
        running = [engine for engine in stakes.serving if not self._transitions.is_drained(engine)]
        if running:
            return self._pays_to_leave_early(stakes, running)
        if any(self._owner(engine).queue for engine in stakes.serving):
            return True
        now, settings = self._state.now, self._state.settings
        here = sum(self._owner(engine).demand.per_s(now) for engine in stakes.serving)
        there = sum(each.demand.per_s(now) for each in stakes.group)
        usual_s = max((self._usual_stay_s(engine) for engine in stakes.serving), default=0.0)
        cycle_s = stakes.away_s + stakes.back_s + stakes.takes_s + usual_s
        enough = settings.swap_threshold * cycle_s * math.sqrt(here * there)
        waiting = stakes.claimants.pressure + there * stakes.away_s
        return waiting >= enough or stakes.unserved_s + stakes.away_s >= settings.swap_linger_max_s

    def _pays_to_leave_early(self, stakes: Stakes, running: Sequence[Engine]) -> bool:
        """Some of several victims run nothing: their sleep now, while the others drain, against what they miss."""
        drained = [engine for engine in stakes.serving if engine not in running]
        if not drained or stakes.cost_per_s <= 0.0:
            return False
        saves = stakes.saves(0.0)
        until_s = stakes.drain_s + min(saves / stakes.cost_per_s, stakes.drain_s)  # what ends by then would be admitted
        missed = sum(
            self._owner(engine).demand.per_s(self._state.now) * max(0.0, until_s - self._usual_stay_s(engine))
            for engine in drained
        )
        return stakes.cost_per_s * stakes.covered_s > missed * saves

    def _look_again(self, claim: Claim) -> None:
        self._state.timers.cancel(claim.timer)
        endpoint_id = claim.endpoint_id
        at = self._state.now + self._state.settings.swap_review_s
        claim.timer = self._state.timers.add(at, lambda: self._state.touch(endpoint_id))

    # Admitting.

    def _admit(self, stakes: Stakes, gone_within_s: float) -> bool:
        """Dispatches the victims' waiting requests that are worth it, as long as the victims have left in time;
        whether there were any."""
        applicants = self._applicants(stakes)
        if not applicants:
            return False
        groups = [applicants]
        if len(stakes.serving) > 1:
            groups += [[each for each in applicants if each.engine is engine] for engine in stakes.serving]
        worth = [self._worthwhile(group, stakes, gone_within_s) for group in groups]
        _, chosen = max(worth, key=operator.itemgetter(0))
        return sum(self._send(each.ticket, each.engine) for each in chosen) > 0

    def _worthwhile(
        self, applicants: Sequence[Applicant], stakes: Stakes, gone_within_s: float
    ) -> tuple[float, Sequence[Applicant]]:
        """The first so many of them, as far as there are places, that save most, and how much that is; none and 0, if
        none save anything."""
        drain = self._drains.drain(stakes.serving, stakes.node)
        room = {engine.engine_id: self._room(engine) for engine in stakes.serving}
        taken: dict[str, Applicant] = {}  # by request id: of two replicas one takes it
        best, chosen, saved = 0.0, 0, 0.0
        for each in applicants:
            if room[each.engine.engine_id] < 1 or each.ticket.request_id in taken:
                continue
            room[each.engine.engine_id] -= 1
            drain.add(each.engine.engine_id, each.stay)
            gone_s = drain.gone_s
            if gone_s > gone_within_s + TOLERANCE_S:
                break
            saved += stakes.saves(self._state.now - each.since)
            taken[each.ticket.request_id] = each
            value = saved - stakes.cost_per_s * (gone_s - stakes.gone_s)
            if value > best + 1e-9:
                best, chosen = value, len(taken)
        return best, list(taken.values())[:chosen]

    def _applicants(self, stakes: Stakes) -> list[Applicant]:
        """What waits for the victims, what stays shortest first."""
        found: list[Applicant] = []
        for engine in stakes.serving:
            if self._room(engine) < 1:
                continue
            token_s = self._drains.token_s(engine, 1)
            for ticket in itertools.islice(self._owner(engine).queue.waiting(), LOOK_AT_MAX):
                if not self._owner(engine).queue.may_go(ticket.request_id):
                    continue  # an older one has been overtaken often enough
                stay = self._drains.stay(ticket, engine)
                found.append(Applicant(stay.seconds(token_s), ticket.arrived_at, stay, ticket, engine))
        found.sort(key=lambda each: (each.stays_s, each.since))
        return found

    def _room(self, engine: Engine) -> int:
        place = self._transitions.place_of(engine)
        return place.room if place is not None else 0

    def _send(self, ticket: Ticket, engine: Engine) -> bool:
        """Unless the place has filled up, or by those before it an older one has been overtaken often enough."""
        owner, place = self._owner(engine), self._transitions.place_of(engine)
        if place is None or place.room < 1 or not owner.queue.may_go(ticket.request_id):
            return False
        dispatch(self._state, ticket, owner, place)
        return True

    def _gone_within_s(self, claim: Claim, stakes: Stakes) -> float:
        """By when the victims must have left. For the sake of others nobody waits longer than the bound, or than twice
        what they would wait for its own; and no model is kept out for longer than twice what its requests may wait."""
        bound_s = max(self._state.settings.swap_wait_max_s, 2.0 * stakes.lost_s)
        most_s = min(bound_s, 2.0 * stakes.patience_s) - stakes.unserved_s - stakes.coming_s
        return min(most_s, claim.leaves_by - self._state.now)

    # What is at stake.

    def _stakes(self, claim: Claim) -> Stakes:
        group = self._group(claim)
        serving = tuple(each for each in claim.victims if each.state is EngineState.DRAINING)
        drain = self._drains.drain(serving, claim.node)
        back_s = sum(self._sleep_of(each, claim) for each in group)
        back_s += max((self._transition_s(each, Transition.WAKE) for each in serving), default=0.0)
        now = self._state.now
        first = [ticket for each in group for ticket in itertools.islice(each.queue.waiting(), SAMPLE)]
        return Stakes(
            tuple(group),
            serving,
            claim.node,
            self._line(group),
            self._line(self._left_behind(claim, group)),
            drain.seconds,
            drain.gone_s,
            drain.covered_s,
            self._coming_s(claim),
            back_s,
            self._takes_s(claim, group),
            now - min([claim.since, *(each.arrived_at for each in first)]),
            max((each.gives_up_at - each.arrived_at for each in first), default=math.inf),
        )

    def _line(self, endpoints: Sequence[EndpointState]) -> Line:
        pressure = sum(each.pressure for each in endpoints)
        if pressure <= 0.0:
            return Line(0.0, 0.0)
        return Line(pressure, max(self._state.now - sum(each.came for each in endpoints) / pressure, 0.0))

    def _left_behind(self, claim: Claim, group: Sequence[EndpointState]) -> list[EndpointState]:
        """The victims' models that nobody serves any more, unless they come in with the claimant."""
        gone = dict.fromkeys(each.endpoint_id for each in claim.victims if each.state not in SERVING)
        known = self._state.endpoints  # the model of one that has ended may have been forgotten since
        owners = [known[each] for each in gone if each in known]
        return [each for each in owners if not each.awake and not each.live and each not in group]

    def _group(self, claim: Claim) -> list[EndpointState]:
        """The claimant, and whoever waits and would find room beside it once the victims have gone."""
        node, group = claim.node, [claim.endpoint]
        free = node.free_mib(claim.endpoint_id, asleep=claim.victims)
        need = claim.endpoint.endpoint.engine
        for index in claim.gpu_indices:
            free[index] = free.get(index, 0) - (need.memory_per_gpu_mib if need is not None else 0)
        for engine in node.engines.values():
            owner = self._owner(engine)
            if engine.state is not EngineState.ASLEEP or not owner.queue or owner.live or owner in group:
                continue
            if all(free.get(index, -1) >= engine.memory_per_gpu_mib for index in engine.gpu_indices):
                group.append(owner)
                for index in engine.gpu_indices:
                    free[index] -= engine.memory_per_gpu_mib
        return group

    def _takes_s(self, claim: Claim, group: Sequence[EndpointState]) -> float:
        longest = 0.0
        for endpoint in group:
            engine = next(iter(endpoint.engines.values()), None)
            if engine is None:
                continue
            token_s = self._drains.token_s(engine, 1)
            for ticket in itertools.islice(endpoint.queue.waiting(), SAMPLE):
                longest = max(longest, self._drains.stay(ticket, engine).seconds(token_s))
        return longest or TAKES_UNKNOWN_S

    def _coming_s(self, claim: Claim) -> float:
        kind = Transition.LOAD if claim.sleeper is None else Transition.WAKE
        return self._state.predictor.transition(claim.endpoint_id, claim.node.node.id, kind).p50

    def _sleep_of(self, endpoint: EndpointState, claim: Claim) -> float:
        return self._state.predictor.transition(endpoint.endpoint.id, claim.node.node.id, Transition.SLEEP).p50

    def _transition_s(self, engine: Engine, kind: Transition) -> float:
        return self._state.predictor.transition(engine.endpoint_id, engine.node_id, kind).p50

    def _usual_stay_s(self, engine: Engine) -> float:
        """Of a request that comes next, at the pace that the engine has now."""
        tokens = self._state.predictor.answers.span(self._owner(engine).endpoint.model_id, -1)
        return tokens.p50 * self._drains.token_s(engine, 1)

    # Choosing victims.

    def _displaced(self, engine: Engine) -> tuple[int, float, str]:
        """First those with least running and least to come."""
        place, owner = self._transitions.place_of(engine), self._owner(engine)
        running = len(place.running) if place is not None else 0
        expected = running + owner.demand.per_s(self._state.now) * 10.0 / max(owner.awake, 1)
        return (1 if running else 0, expected, engine.engine_id)

    def _price(self, claim: Claim) -> tuple[float, str]:
        """Until the claimant could serve, and what the victims would have served meanwhile."""
        wait_s = self._drains.drain(claim.victims, claim.node).gone_s + self._coming_s(claim)
        now = self._state.now
        displaced = sum(self._owner(each).demand.per_s(now) / max(self._owner(each).awake, 1) for each in claim.victims)
        return (wait_s * (1.0 + displaced), claim.node.node.id)

    # Idling.

    def _idle_s(self, engine: Engine, endpoint: EndpointState) -> float:
        """How long it may idle: not long where its neighbours, who would have to wait for its sleep, are more likely
        to be asked for than it is."""
        settings, now = self._state.settings, self._state.now
        sleep_s = self._transition_s(engine, Transition.SLEEP)
        wake_s = self._transition_s(engine, Transition.WAKE)
        node = self._state.nodes[engine.node_id]
        kept_out = sum(
            self._owner(each).demand.per_s(now)
            for each in node.engines.values()
            if each.state is EngineState.ASLEEP and not self._owner(each).live and not node.has_room_for(each)
        )
        own = endpoint.demand.per_s(now)
        is_in_the_way = kept_out * sleep_s > 0.5 * own * (wake_s + sleep_s / 2.0)
        return settings.idle_in_the_way_s if is_in_the_way else settings.idle_sleep_s

    def _owner(self, engine: Engine) -> EndpointState:
        return self._state.endpoints[engine.endpoint_id]
