"""The platform in which everything goes wrong, with gateways that take second places and let the first byte decide.

A second place is a `SimRequest` of its own, so it dies, breaks and is counted like any other; what became of the client
is said by the first one alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from logos.domain.nouns import Place
from logos.scheduling import commands as cmd
from logos.scheduling import events as ev
from tests.scenarios.platform import ATTEMPTS_MAX, Platform, SimGateway, SimRequest


class HedgingPlatform(Platform):
    """Clients promise nothing that can be kept, so every request is nearly late."""

    def __init__(self, *arguments: object, **more: object) -> None:
        self.second_of: dict[str, SimRequest] = {}  # by the first one's id
        self.first_of: dict[str, SimRequest] = {}  # by the second one's id
        self.begun: set[str] = set()  # ids whose first byte is here
        self.races: Counter[str] = Counter()  # how they ended
        super().__init__(*arguments, **more)  # type: ignore[arg-type]  # passed through

    def client_asks(self, gateway: SimGateway, request: ev.Request, service_s: float) -> SimRequest:
        has_choice = len(request.candidates) > 1
        return super().client_asks(gateway, replace(request, may_hedge=has_choice, slo_ttft_s=0.05), service_s)

    def place(self, gateway: SimGateway, sim: SimRequest) -> None:
        if sim.request.may_hedge and sim.request.attempt == 1:
            gateway.waiting[sim.request.request_id] = None
            self.tell(gateway, ev.RequestsArrived(0.0, gateway.gateway_id, (sim.request,)))
        else:
            super().place(gateway, sim)

    def forward(self, gateway: SimGateway, sim: SimRequest, place: Place) -> None:
        super().forward(gateway, sim, place)
        attempt = len(sim.tried)
        after_s = sim.service_s * self.chance.uniform(0.2, 0.95)
        if self.chance.random() < self.mishaps.upstream_fails:
            self.after(after_s, lambda: self.upstream_ends(gateway, sim, attempt, ok=False))
        else:
            self.after(after_s, lambda: self.first_byte(gateway, sim, attempt, after_s))

    def first_byte(self, gateway: SimGateway, sim: SimRequest, attempt: int, ttft_s: float) -> None:
        """It goes on, and the other place of its request is given up."""
        if not gateway.alive or sim.place is None or sim.outcome is not None or attempt != len(sim.tried):
            return
        request_id = sim.request.request_id
        self.begun.add(request_id)
        if sim.lease_id is None:
            self.tell(gateway, ev.FirstToken(0.0, request_id, ttft_s))
        other = self.second_of.get(request_id) or self.first_of.get(request_id)
        if other is None or other.place is None:
            return
        self.races["second" if request_id in self.first_of else "first"] += 1
        del self.running[other.place][other.request.request_id]
        other.place = None
        self.tell(gateway, ev.RequestCancelled(0.0, other.request.request_id, outrun=True))
        if other.request.request_id in self.first_of:
            self.over(gateway, other, "outrun")

    def upstream_ends(self, gateway: SimGateway, sim: SimRequest, attempt: int, *, ok: bool) -> None:
        if not gateway.alive or sim.place is None or sim.outcome is not None or attempt != len(sim.tried):
            return
        request_id = sim.request.request_id
        first = self.first_of.get(request_id, sim)
        second = self.second_of.get(first.request.request_id)
        if second is None and request_id not in self.begun:
            super().upstream_ends(gateway, sim, attempt, ok=ok)
            return
        self.leave_place(gateway, sim, ok=ok)
        if sim is not first:
            self.over(gateway, sim, "success" if ok else "upstream_error")
        if ok or request_id in self.begun:
            self.races["broke after the first byte"] += not ok
            self.over(gateway, first, "success" if ok else "upstream_error")
        elif first.place is None and (second is None or second.place is None):
            self.races["both failed"] += 1
            self.try_elsewhere(gateway, first, second)

    def try_elsewhere(self, gateway: SimGateway, first: SimRequest, second: SimRequest | None) -> None:
        tried = first.tried + (second.tried if second is not None else [])
        rest = tuple(each for each in first.request.candidates if each.endpoint_id not in tried)
        if not rest or len(tried) >= ATTEMPTS_MAX:
            self.over(gateway, first, "upstream_error")
            return
        self.second_of.pop(first.request.request_id, None)
        first.request = replace(first.request, candidates=rest, attempt=len(tried) + 1, may_hedge=False)
        self.place(gateway, first)

    def client_leaves(self, gateway: SimGateway, sim: SimRequest) -> None:
        second = self.second_of.get(sim.request.request_id)
        both = second is not None and second.place is not None and gateway.alive and sim.outcome is None
        super().client_leaves(gateway, sim)
        if both:
            assert second is not None
            self.races["client left"] += 1
            self.leave_place(gateway, second, cancelled=True)
            self.over(gateway, second, "client_left")

    def gateway_obeys(self, gateway: SimGateway, command: cmd.Command, issued_at: float) -> None:
        if not isinstance(command, cmd.Dispatch) or command.hedge_of is None:
            super().gateway_obeys(gateway, command, issued_at)
            return
        first = gateway.requests.get(command.hedge_of)
        if first is None or first.place is None or command.hedge_of in self.begun or first.request.attempt > 1:
            self.races["came too late"] += 1
            self.tell(gateway, ev.RequestCancelled(0.0, command.request_id))
            return
        second = SimRequest(replace(first.request, request_id=command.request_id), self.chance.expovariate(4.0))
        self.second_of[command.hedge_of], self.first_of[command.request_id] = second, first
        gateway.requests[command.request_id] = second
        self.tell(gateway, ev.RequestStarted(0.0, command.request_id))
        self.forward(gateway, second, command.place)

    def note_answer(self, command: cmd.Command) -> None:
        if not isinstance(command, cmd.Dispatch) or command.hedge_of is None:
            super().note_answer(command)
            return
        assert command.hedge_of not in self.asked, f"a second place for what waits: {command}"
        assert command.request_id not in self.first_of, f"hedged twice: {command}"
        first = next((each for each in self.everyone if each.request.request_id == command.hedge_of), None)
        assert first is not None, command
        assert command.place.endpoint_id in {each.endpoint_id for each in first.request.candidates}, command
        # Unless its gateway has tried again meanwhile, under a lease, and will say that this came too late.
        has_moved_on = first.outcome is not None or first.request.attempt > 1
        assert command.place.endpoint_id not in first.tried or has_moved_on, command
