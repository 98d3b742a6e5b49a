"""What happened: the only things the scheduler core ever hears of. Past tense, frozen, stamped by the driver.

`at` is in seconds on the driver's one monotonic clock (simulated seconds in a simulation). A gateway or node leaves
it at 0.0; the driver stamps each event on arrival. The events and commands are a versioned contract
(tests/unit/scheduling/test_contract.py): a change raises CONTRACT_VERSION and is an entry in docs/design.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from logos.domain.catalogue import Catalogue
from logos.domain.leases import SlotLease
from logos.domain.lifecycle import EngineState
from logos.domain.nouns import Mode, Node, Place, Priority

CONTRACT_VERSION = 5


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint that may serve a request (permitted, private enough, long enough, capable) and its weight from
    the classification room, higher is better. Prices in micro-cents per million tokens, 0 where there is none;
    `quality` from 0 (worst) to 1."""

    endpoint_id: int
    weight: float = 0.0
    prompt_price: int = 0
    completion_price: int = 0
    quality: float = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """What the scheduler knows of a request: never its content. Candidates are ordered best first.

    `attempt` counts placements of the same request id from 1; a retry leaves out the endpoints that failed.
    `prefix` is an opaque fingerprint of the prompt's shared beginning (`prefix_tokens` of it), for affinity.
    `may_hedge`: its gateway would take a second place for it until its first byte is here, which comes with its first
    token.
    """

    request_id: str
    gateway_id: str
    key_id: int
    candidates: tuple[Candidate, ...]
    team_id: int | None = None
    priority: Priority = Priority.MID
    mode: Mode = Mode.INTERACTIVE
    prompt_tokens: int = 0
    output_tokens_max: int | None = None
    queue_timeout_s: float = 60.0
    slo_ttft_s: float | None = None
    slo_total_s: float | None = None
    attempt: int = 1
    prefix: int | None = None
    prefix_tokens: int = 0
    may_hedge: bool = False


@dataclass(frozen=True, slots=True)
class Met:
    """What a request under a lease met at its place when it was forwarded, of all that its gateway runs there: how many
    others, and the prompt tokens (and the pairs of them that attend to each other) of those without a first token,
    which the engine had been at for `prefill_elapsed_s`."""

    prompt_tokens: int
    running: int
    prefill_tokens: float = 0.0
    prefill_pairs: float = 0.0
    prefill_elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request under a lease ended. Times in seconds since it was forwarded; None: never got there.

    `met` None: its first token teaches nothing. `batch` is how many sequences of its gateway ran there on average since
    its first token, itself included; 0: not known. The key (None: its answer is not one, or nobody's) and the most
    tokens that were asked for say whose answers are as long as this one.
    """

    request_id: str
    ok: bool
    ttft_s: float | None = None
    total_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cancelled: bool = False
    cached_tokens: int = 0  # of the prompt, as far as the upstream tells
    key_id: int | None = None
    output_tokens_max: int | None = None
    met: Met | None = None
    batch: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineSeen:
    """One engine that a node already has when it introduces itself (after a restart of scheduler or node)."""

    engine_id: str
    endpoint_id: int
    gpu_indices: tuple[int, ...]
    state: EngineState
    memory_mib: int
    has_slept: bool = False  # so its weights are in host RAM, whatever it does now


@dataclass(frozen=True, slots=True)
class RequestsArrived:
    """A gateway asks where these requests shall run. A request id already known is ignored."""

    at: float
    gateway_id: str
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """The client left, or (`outrun`) the first byte came from the other place of a hedged request; whatever the request
    holds under this id is free."""

    at: float
    request_id: str
    outrun: bool = False


@dataclass(frozen=True, slots=True)
class RequestStarted:
    """The gateway has taken up a dispatch."""

    at: float
    request_id: str


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The first byte of the answer reached the gateway `ttft_s` seconds after it was forwarded."""

    at: float
    request_id: str
    ttft_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RequestFinished:
    """The answer is complete."""

    at: float
    request_id: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_s: float = 0.0
    cached_tokens: int = 0  # of the prompt, as far as the upstream tells


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """The attempt ended without a complete answer. `endpoint_fault`: counts against the endpoint's health."""

    at: float
    request_id: str
    reason: str = ""
    endpoint_fault: bool = True
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class EngineReported:
    """An engine's own figures: requests running and waiting inside it, share of KV cache in use (0 to 1)."""

    at: float
    engine_id: str
    running: int
    waiting: int
    kv_usage: float


@dataclass(frozen=True, slots=True)
class EngineChanged:
    """A transition ended (or an engine failed by itself): the state it is in now, how long the transition took,
    the GPU memory measured (0: not measured), and why if it failed."""

    at: float
    engine_id: str
    state: EngineState
    seconds: float = 0.0
    memory_mib: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node introduces itself, with the engines that it already has. Repeats are harmless."""

    at: float
    node: Node
    engines: tuple[EngineSeen, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeLost:
    """A node is gone, and every engine on it."""

    at: float
    node_id: str


@dataclass(frozen=True, slots=True)
class LimitObserved:
    """A remote provider said how much is left until its window resets. None: not told."""

    at: float
    endpoint_id: int
    remaining_requests: int | None
    remaining_tokens: int | None
    reset_s: float


@dataclass(frozen=True, slots=True)
class GatewaySeen:
    """A gateway introduces itself, with the leases it holds and what runs where. Empty for a new one; after a
    restart of the scheduler this is how in-flight work becomes known again. Repeats are harmless."""

    at: float
    gateway_id: str
    leases: tuple[SlotLease, ...] = ()
    running: tuple[tuple[str, Place], ...] = ()


@dataclass(frozen=True, slots=True)
class GatewayLost:
    """A gateway is gone; its leases and everything it ran or waited for is free."""

    at: float
    gateway_id: str


@dataclass(frozen=True, slots=True)
class LeaseReported:
    """Requests that started and ended under a lease since the last report. A report also renews the lease."""

    at: float
    lease_id: str
    started: tuple[str, ...] = ()
    ended: tuple[Ended, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseReturned:
    """The holder gives its unused slots back; `running` goes on until later reports of the same lease end it."""

    at: float
    lease_id: str
    running: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CatalogueChanged:
    """A new version of the catalogue."""

    at: float
    catalogue: Catalogue


@dataclass(frozen=True, slots=True)
class Woke:
    """A time that the core asked for with WakeAt has come."""

    at: float


Event = (
    RequestsArrived
    | RequestCancelled
    | RequestStarted
    | FirstToken
    | RequestFinished
    | RequestFailed
    | EngineReported
    | EngineChanged
    | NodeSeen
    | NodeLost
    | LimitObserved
    | GatewaySeen
    | GatewayLost
    | LeaseReported
    | LeaseReturned
    | CatalogueChanged
    | Woke
)
