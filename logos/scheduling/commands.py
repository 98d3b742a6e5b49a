"""What shall be done: the only way the scheduler core ever acts. Imperative, frozen, performed by a driver.

Each command becomes one task of the driver and each task ends by feeding one event back; `ANSWERED_BY` is the
table of which event answers which command.
"""

from __future__ import annotations

from dataclasses import dataclass

from logos.domain.leases import SlotLease
from logos.domain.nouns import Place, Priority, Tier
from logos.scheduling import events


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run this request there, now. The rest is for the record and the response headers.

    With `hedge_of`, the id of a request that runs already, this is a second place for it: run it there, too, under the
    id given here, unless its first byte is here. The place whose first byte comes first goes on; the other one is
    given up (RequestCancelled, `outrun`). Each id is answered and ends by itself.
    """

    request_id: str
    gateway_id: str
    place: Place
    tier: Tier
    queue_wait_s: float = 0.0
    queue_depth_at_enqueue: int = 0
    queue_depth_at_schedule: int = 0
    priority_when_scheduled: Priority = Priority.MID
    predicted_ttft_s: float | None = None  # from arrival, the median
    load_s: float | None = None  # seconds of the load or wake-up that this request waited for
    slo_ttft_s: float | None = None  # the request's own, or its class's
    hedge_of: str | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """This request will not run. `code` is no_capacity, queue_timeout or does_not_fit; `message` is for clients."""

    request_id: str
    gateway_id: str
    code: str
    message: str
    retry_after_s: float | None = None
    queue_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LoadEngine:
    """Start an engine of this endpoint on these GPUs of this node."""

    engine_id: str
    endpoint_id: int
    node_id: str
    gpu_indices: tuple[int, ...]
    memory_mib: int


@dataclass(frozen=True, slots=True)
class SleepEngine:
    """Put an engine to sleep. It must have been drained: nothing runs on it."""

    engine_id: str
    level: int = 1


@dataclass(frozen=True, slots=True)
class WakeEngine:
    """Wake a sleeping engine."""

    engine_id: str


@dataclass(frozen=True, slots=True)
class StopEngine:
    """End an engine's process."""

    engine_id: str


@dataclass(frozen=True, slots=True)
class ReleaseNode:
    """Give a node back to the cluster."""

    node_id: str


@dataclass(frozen=True, slots=True)
class RequestNodes:
    """A notice to the autoscaler: so many GPUs with so much memory each are wanted."""

    gpus: int
    memory_per_gpu_mib: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send Woke at this time (the driver's clock, seconds)."""

    at: float


@dataclass(frozen=True, slots=True)
class GrantLease:
    """Grant or renew: a lease id already held replaces slots and deadline."""

    lease: SlotLease


@dataclass(frozen=True, slots=True)
class RevokeLease:
    """Give the unused slots of this lease back at once."""

    lease_id: str
    gateway_id: str


Command = (
    Dispatch
    | Reject
    | LoadEngine
    | SleepEngine
    | WakeEngine
    | StopEngine
    | ReleaseNode
    | RequestNodes
    | WakeAt
    | GrantLease
    | RevokeLease
)

# Exactly one of these answers each command; an empty tuple marks a notice.
ANSWERED_BY: dict[type, tuple[type, ...]] = {
    Dispatch: (events.RequestStarted, events.RequestFailed, events.RequestCancelled),
    LoadEngine: (events.EngineChanged,),
    SleepEngine: (events.EngineChanged,),
    WakeEngine: (events.EngineChanged,),
    StopEngine: (events.EngineChanged,),
    ReleaseNode: (events.NodeLost,),
    WakeAt: (events.Woke,),
    GrantLease: (events.LeaseReturned,),
    RevokeLease: (events.LeaseReturned,),
    Reject: (),
    RequestNodes: (),
}
