"""Placing requests from inside a gateway: under a lease without any call, else by one batched call to the scheduler.

Holds what this gateway holds: leases, requests waiting for a grant, requests that run. One sender at most is in flight;
while it is, events gather and go with the next call. One long-poll brings commands. Everything is repeated safely after
a restart of the scheduler (a higher epoch). No HTTP lives here, and no decision: who goes where is the scheduler's.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from logos.domain.errors import LogosError, NoCapacity, QueueTimeout, StaleEpoch
from logos.domain.leases import SlotLease
from logos.domain.nouns import Place, Priority, Tier
from logos.gateway.beside import BesideEach
from logos.gateway.ports import SchedulerPort
from logos.scheduling.commands import Dispatch, GrantLease, Reject, RevokeLease
from logos.scheduling.events import (
    Candidate,
    Ended,
    Event,
    FirstToken,
    GatewaySeen,
    LeaseReported,
    LeaseReturned,
    LimitObserved,
    Request,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    RequestsArrived,
    RequestStarted,
)
from logos.scheduling.messages import GatewayReport, SchedulerReply

log = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.25  # how long what happened under leases may wait for company
LEASE_IDLE_S = 20.0  # after its last request a lease is kept for the next one for so long
LEASE_ASKED_AGAIN_S = 1.0
POLL_WAIT_S = 2.0
RETRY_WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to run one request at one place, and what the record says about how it was won."""

    request_id: str
    place: Place
    tier: Tier
    lease_id: str | None = None
    address: str | None = None  # base URL of the engine; None at remote endpoints
    queue_wait_s: float = 0.0
    queue_depth_at_enqueue: int = 0
    queue_depth_at_schedule: int = 0
    priority_when_scheduled: Priority = Priority.MID
    predicted_ttft_s: float | None = None
    load_s: float | None = None
    hedge_of: str | None = None  # the request whose second place this is


@dataclass(slots=True)
class _HeldLease:
    """A lease as its holder keeps it. `deadline` is counted from when the request for it was sent."""

    lease: SlotLease
    deadline: float
    used_at: float
    told_at: float
    returned: bool = False
    running: set[str] = field(default_factory=set)
    started: list[str] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)

    def has_room(self, now: float) -> bool:
        return not self.returned and now < self.deadline and len(self.running) < self.lease.slots

    def has_idled(self, now: float) -> bool:
        return not self.running and now > min(self.deadline, self.used_at + LEASE_IDLE_S)

    def wants_renewal(self, now: float) -> bool:
        """A report renews, and a third of its time has gone without one."""
        is_due = now > self.deadline - self.lease.ttl_s * 2 / 3
        return not self.returned and is_due and now - self.told_at > LEASE_ASKED_AGAIN_S


@dataclass(slots=True)
class _Waiting:
    request: Request
    granted: asyncio.Future[Grant]
    asked_at: float


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A place that somebody waits for, and how long the prompt is."""

    granted: asyncio.Future[Grant]
    prompt_tokens: int


class Placement:
    """`lease_for` answers at once or not at all; `ask` waits for the scheduler; `ended` gives the place back."""

    def __init__(self, gateway_id: str, scheduler: SchedulerPort, clock: Callable[[], float]) -> None:
        self.gateway_id = gateway_id
        self._scheduler = scheduler
        self._clock = clock
        self._epoch = 0
        self._acknowledged = 0
        self._number = 0
        self._unanswered: GatewayReport | None = None
        self._leases: dict[str, _HeldLease] = {}
        self._leases_at: dict[int, list[_HeldLease]] = {}  # by endpoint id
        self._waiting: dict[str, _Waiting] = {}
        self._granted: dict[str, Place] = {}  # dispatched by the scheduler, not under a lease
        self._hedged: dict[str, _Awaited] = {}  # second places, of requests that would take one
        self._beside = BesideEach()
        self._addresses: dict[str, str] = {}
        self._outgoing: list[Event] = []
        self._urgent = asyncio.Event()
        self._sending = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------------ for the request's way

    def lease_for(self, request_id: str, candidate: Candidate, prompt_tokens: int = 0) -> Grant | None:
        """A place for the best candidate under a lease held here, the one with most room; None: ask."""
        held_here = self._leases_at.get(candidate.endpoint_id)
        if not held_here:
            return None
        now = self._clock()
        best: _HeldLease | None = None
        room_best = 0
        for held in held_here:
            room = held.lease.slots - len(held.running)
            if room > room_best and held.has_room(now):
                best, room_best = held, room
        if best is None:
            return None
        best.used_at = now
        best.running.add(request_id)
        best.started.append(request_id)
        place = best.lease.place
        self._beside.started(request_id, place, prompt_tokens, now)
        address = self._addresses.get(place.engine_id) if place.engine_id is not None else None
        tier = Tier.REMOTE if place.engine_id is None else Tier.WARM
        return Grant(
            request_id,
            place,
            tier,
            lease_id=best.lease.lease_id,
            address=address,
            predicted_ttft_s=best.lease.predicted_ttft_s(prompt_tokens),
        )

    async def ask(self, request: Request) -> Grant:
        """Waits for the scheduler's word. Raises NoCapacity or QueueTimeout; cancelling gives up the place in line."""
        future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(request, future, self._clock())
        self._waiting[request.request_id] = waiting
        self._tell(RequestsArrived(0.0, self.gateway_id, (request,)), urgent=True)
        try:
            # The scheduler keeps the time-out; this is the net for when it has been away for longer than that.
            async with asyncio.timeout(request.queue_timeout_s + 5.0):
                return await future
        except (TimeoutError, asyncio.CancelledError) as error:
            # A grant may have come in the same moment.
            place = self._granted.pop(request.request_id, None)
            if place is not None:
                self._beside.ended(request.request_id, place, self._clock())
            self._tell(RequestCancelled(0.0, request.request_id), urgent=True)
            if isinstance(error, TimeoutError):
                raise QueueTimeout(retry_after_s=5.0) from None
            raise
        finally:
            self._waiting.pop(request.request_id, None)

    @contextlib.contextmanager
    def second_place(self, request_id: str, prompt_tokens: int) -> Iterator[asyncio.Future[Grant]]:
        """Where else the scheduler wants it to run, if it comes to that. Within the block a second place is taken up;
        who was given one has to say when it ended."""
        granted: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._hedged[request_id] = _Awaited(granted, prompt_tokens)
        try:
            yield granted
        finally:
            del self._hedged[request_id]

    def first_token(self, grant: Grant, ttft_s: float) -> None:
        """Only requests that the scheduler placed itself are told one by one; leased ones are told when they end."""
        token_s = self._prompt_token_s(grant.lease_id)
        self._beside.first_token(grant.request_id, grant.place, self._clock(), token_s)
        if grant.lease_id is None:
            self._tell(FirstToken(0.0, grant.request_id, ttft_s))

    def ended(
        self,
        grant: Grant,
        end: Ended,
        *,
        fault: str | None = None,
        retry_after_s: float | None = None,
        outrun: bool = False,
        is_typical: bool = True,
    ) -> None:
        """The request left its place. `fault` says why, when the endpoint is to blame; `outrun`: its other place was
        faster. `is_typical` False: its prompt may have been computed before, as far as anybody knows, so its first
        token says nothing of others."""
        token_s = self._prompt_token_s(grant.lease_id)
        seen = self._beside.ended(grant.request_id, grant.place, self._clock(), token_s)
        if seen is not None:
            is_telling = is_typical and end.ttft_s is not None
            end = dataclasses.replace(end, met=seen[0] if is_telling else None, batch=seen[1])
        if grant.lease_id is not None and self._ended_under_lease(grant.lease_id, end):
            return
        if self._granted.pop(grant.request_id, None) is None:
            return
        if end.cancelled:
            self._tell(RequestCancelled(0.0, grant.request_id, outrun), urgent=True)
        elif end.ok:
            self._tell(
                RequestFinished(
                    0.0,
                    grant.request_id,
                    end.prompt_tokens,
                    end.completion_tokens,
                    end.total_s or 0.0,
                    end.cached_tokens,
                ),
                urgent=True,
            )
        else:
            self._tell(
                RequestFailed(0.0, grant.request_id, fault or "", fault is not None, retry_after_s),
                urgent=True,
            )

    def observe_limit(self, observed: LimitObserved) -> None:
        """A remote provider told what is left of its limits."""
        self._tell(observed, urgent=observed.remaining_requests == 0 or observed.remaining_tokens == 0)

    def _ended_under_lease(self, lease_id: str, end: Ended) -> bool:
        """False: the lease is no more, because a restarted scheduler was told of the request by itself."""
        held = self._leases.get(lease_id)
        if held is None:
            return False
        held.running.discard(end.request_id)
        held.ended.append(end)
        if held.returned:
            self._urgent.set()
        return True

    def _prompt_token_s(self, lease_id: str | None) -> float:
        held = self._leases.get(lease_id) if lease_id is not None else None
        return held.lease.prompt_token_s if held is not None else 0.0

    # ------------------------------------------------------------------ figures

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs here."""
        return not self._waiting and not self._granted and not any(h.running for h in self._leases.values())

    def figures(self) -> dict[str, int]:
        running_leased = sum(len(held.running) for held in self._leases.values())
        return {
            "waiting": len(self._waiting),
            "running": running_leased + len(self._granted),
            "leases": len(self._leases),
            "epoch": self._epoch,
        }

    # ------------------------------------------------------------------ talking to the scheduler

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._send_loop(), name="placement-send"),
            asyncio.create_task(self._poll_loop(), name="placement-poll"),
        ]

    async def close(self) -> None:
        """Hands every lease back and stops. What still runs is told as running; the gateway drains before this."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for held in list(self._leases.values()):
            self._give_back(held)
        with contextlib.suppress(ConnectionError, LogosError, TimeoutError):
            async with asyncio.timeout(2.0):
                await self._send()

    def _tell(self, event: Event, *, urgent: bool = False) -> None:
        self._outgoing.append(event)
        if urgent:
            self._urgent.set()

    async def _send_loop(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_INTERVAL_S):
                    await self._urgent.wait()
            self._urgent.clear()
            try:
                await self._send()
            except StaleEpoch:
                self._introduce_again()
            except (ConnectionError, TimeoutError) as error:
                log.warning("the scheduler is away (%s); living on leases until it is back", error)
                self._urgent.set()
                await asyncio.sleep(RETRY_WAIT_S)

    async def _send(self) -> None:
        """Sends what happened. A report that failed on its way is sent again as it was before anything newer."""
        async with self._sending:
            if self._unanswered is None:
                events = self._take_outgoing() if self._epoch else self._introduction()
                if not events:
                    return
                self._number += 1
                self._unanswered = GatewayReport(self.gateway_id, self._epoch, self._number, self._acknowledged, events)
            sent_at = self._clock()
            reply = await self._scheduler.report(self._unanswered)
            self._unanswered = None
            self._epoch = reply.epoch
            self._take_in(reply, sent_at)

    async def _poll_loop(self) -> None:
        while True:
            epoch = self._epoch
            if not epoch:
                self._urgent.set()
                await asyncio.sleep(0.02)
                continue
            sent_at = self._clock()
            try:
                reply = await self._scheduler.poll(self.gateway_id, epoch, self._acknowledged, POLL_WAIT_S)
                if reply.epoch == self._epoch:
                    self._take_in(reply, sent_at)
            except StaleEpoch:
                if epoch == self._epoch:
                    self._introduce_again()
            except (ConnectionError, TimeoutError):
                await asyncio.sleep(RETRY_WAIT_S)

    def _introduce_again(self) -> None:
        """The scheduler does not know us (any more), so whatever was told before is void."""
        self._epoch = 0
        self._unanswered = None
        self._urgent.set()

    def _take_outgoing(self) -> tuple[Event, ...]:
        now = self._clock()
        for held in list(self._leases.values()):
            has_idled = not held.returned and held.has_idled(now)
            if held.started or held.ended or (not has_idled and held.wants_renewal(now)):
                self._tell_lease(held)
            if held.returned and not held.running:
                self._forget(held)
            elif has_idled:
                self._give_back(held)
        events, self._outgoing = self._outgoing, []
        return tuple(events)

    def _tell_lease(self, held: _HeldLease) -> None:
        self._outgoing.append(LeaseReported(0.0, held.lease.lease_id, tuple(held.started), tuple(held.ended)))
        held.started, held.ended, held.told_at = [], [], self._clock()

    def _introduction(self) -> tuple[Event, ...]:
        """Everything held, as if for the first time."""
        now = self._clock()
        self._acknowledged = 0
        self._outgoing = []
        leases: list[SlotLease] = []
        running = list(self._granted.items())
        for held in list(self._leases.values()):
            held.started, held.ended = [], []
            running += [(request_id, held.lease.place) for request_id in held.running]
            if held.returned or now >= held.deadline:
                self._move_to_granted(held)
            else:
                leases.append(dataclasses.replace(held.lease, ttl_s=held.deadline - now))
        arrivals = tuple(waiting.request for waiting in self._waiting.values())
        introduction: list[Event] = [GatewaySeen(0.0, self.gateway_id, tuple(leases), tuple(running))]
        introduction += [
            LeaseReported(0.0, lease.lease_id, tuple(self._leases[lease.lease_id].running)) for lease in leases
        ]
        if arrivals:
            introduction.append(RequestsArrived(0.0, self.gateway_id, arrivals))
        return tuple(introduction)

    def _move_to_granted(self, held: _HeldLease) -> None:
        """What runs under a lease that ended is from now on told one by one."""
        for request_id in held.running:
            self._granted[request_id] = held.lease.place
        self._forget(held)

    # ------------------------------------------------------------------ taking commands in

    def _take_in(self, reply: SchedulerReply, sent_at: float) -> None:
        self._addresses.update(reply.addresses)
        for offset, command in enumerate(reply.commands):
            number = reply.first + offset
            if number <= self._acknowledged:
                continue
            self._acknowledged = number
            if isinstance(command, Dispatch):
                self._on_dispatch(command)
            elif isinstance(command, Reject):
                self._on_reject(command)
            elif isinstance(command, GrantLease):
                self._on_grant(command.lease, sent_at)
            elif isinstance(command, RevokeLease):
                held = self._leases.get(command.lease_id)
                if held is not None:
                    self._give_back(held)

    def _on_dispatch(self, command: Dispatch) -> None:
        awaited = self._awaited(command)
        if awaited is None or awaited.granted.done():
            # The client left while the grant was on its way; whoever asked has told so already, but a dispatch
            # that crossed a restart is unknown to it, so say it again: cancelling twice is harmless.
            if command.request_id not in self._granted:
                self._tell(RequestCancelled(0.0, command.request_id), urgent=True)
            return
        place = command.place
        self._granted[command.request_id] = place
        self._beside.started(command.request_id, place, awaited.prompt_tokens, self._clock())
        self._tell(RequestStarted(0.0, command.request_id))
        awaited.granted.set_result(
            Grant(
                request_id=command.request_id,
                place=place,
                tier=command.tier,
                address=self._addresses.get(place.engine_id) if place.engine_id is not None else None,
                queue_wait_s=command.queue_wait_s,
                queue_depth_at_enqueue=command.queue_depth_at_enqueue,
                queue_depth_at_schedule=command.queue_depth_at_schedule,
                priority_when_scheduled=command.priority_when_scheduled,
                predicted_ttft_s=command.predicted_ttft_s,
                load_s=command.load_s,
                hedge_of=command.hedge_of,
            )
        )

    def _awaited(self, command: Dispatch) -> _Awaited | None:
        """Who waits for this place: a request for its first, or one that runs and would take a second."""
        if command.hedge_of is not None:
            return self._hedged.get(command.hedge_of)
        waiting = self._waiting.get(command.request_id)
        return _Awaited(waiting.granted, waiting.request.prompt_tokens) if waiting is not None else None

    def _on_reject(self, command: Reject) -> None:
        waiting = self._waiting.get(command.request_id)
        if waiting is None or waiting.granted.done():
            return
        kind = QueueTimeout if command.code == "queue_timeout" else NoCapacity
        waiting.granted.set_exception(kind(command.message, code=command.code, retry_after_s=command.retry_after_s))

    def _on_grant(self, lease: SlotLease, sent_at: float) -> None:
        deadline = sent_at + lease.ttl_s
        held = self._leases.get(lease.lease_id)
        if held is not None:
            if not held.returned:
                held.lease, held.deadline = lease, deadline
            return
        held = _HeldLease(lease, deadline, used_at=sent_at, told_at=sent_at)
        self._leases[lease.lease_id] = held
        self._leases_at.setdefault(lease.place.endpoint_id, []).append(held)

    def _give_back(self, held: _HeldLease) -> None:
        if held.returned:
            return
        held.returned = True
        if held.started or held.ended:
            self._tell_lease(held)
        self._tell(LeaseReturned(0.0, held.lease.lease_id, tuple(held.running)), urgent=True)
        siblings = self._leases_at.get(held.lease.place.endpoint_id, [])
        if held in siblings:
            siblings.remove(held)

    def _forget(self, held: _HeldLease) -> None:
        self._leases.pop(held.lease.lease_id, None)
        siblings = self._leases_at.get(held.lease.place.endpoint_id, [])
        if held in siblings:
            siblings.remove(held)
        if not siblings:
            self._leases_at.pop(held.lease.place.endpoint_id, None)
