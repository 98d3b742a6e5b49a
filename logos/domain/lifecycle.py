"""Lifecycles as tables: what may follow what, for engines and for requests.

The tables are the rule; code that moves a state asks `may_become` instead of knowing. No behaviour lives here.
"""

from __future__ import annotations

import enum


class EngineState(enum.StrEnum):
    """States of one engine (one vLLM process on some GPUs of one node)."""

    COLD = "cold"  # no process
    LOADING = "loading"
    AWAKE = "awake"
    DRAINING = "draining"  # awake, finishes what it runs, admits nothing but what costs whom it makes room for little
    FALLING_ASLEEP = "falling_asleep"
    ASLEEP = "asleep"
    WAKING = "waking"
    STOPPING = "stopping"
    FAILED = "failed"


ENGINE_TRANSITIONS: dict[EngineState, frozenset[EngineState]] = {
    EngineState.COLD: frozenset({EngineState.LOADING}),
    EngineState.LOADING: frozenset({EngineState.AWAKE, EngineState.FAILED, EngineState.STOPPING}),
    EngineState.AWAKE: frozenset(
        {EngineState.DRAINING, EngineState.FALLING_ASLEEP, EngineState.STOPPING, EngineState.FAILED}
    ),
    EngineState.DRAINING: frozenset(
        {EngineState.AWAKE, EngineState.FALLING_ASLEEP, EngineState.STOPPING, EngineState.FAILED}
    ),
    EngineState.FALLING_ASLEEP: frozenset(
        {EngineState.ASLEEP, EngineState.AWAKE, EngineState.STOPPING, EngineState.FAILED}
    ),
    EngineState.ASLEEP: frozenset({EngineState.WAKING, EngineState.STOPPING, EngineState.FAILED}),
    EngineState.WAKING: frozenset({EngineState.AWAKE, EngineState.ASLEEP, EngineState.STOPPING, EngineState.FAILED}),
    EngineState.STOPPING: frozenset({EngineState.COLD, EngineState.FAILED}),
    EngineState.FAILED: frozenset({EngineState.COLD, EngineState.STOPPING}),
}

# States in which an engine's GPU memory must be counted as used. A pending free is not credited: memory is free
# only when the node has reported COLD (or ASLEEP, less the residue that stays).
HOLDS_GPU_MEMORY: frozenset[EngineState] = frozenset(EngineState) - {EngineState.COLD, EngineState.ASLEEP}


class RequestState(enum.StrEnum):
    """States of one request inside the scheduler. An absent request is unknown or ended."""

    WAITING = "waiting"
    DISPATCHED = "dispatched"  # told to the gateway, not yet confirmed
    STARTED = "started"
    STREAMING = "streaming"  # the first token was seen
    ENDED = "ended"


REQUEST_TRANSITIONS: dict[RequestState, frozenset[RequestState]] = {
    RequestState.WAITING: frozenset({RequestState.DISPATCHED, RequestState.ENDED}),
    RequestState.DISPATCHED: frozenset({RequestState.STARTED, RequestState.ENDED}),
    RequestState.STARTED: frozenset({RequestState.STREAMING, RequestState.ENDED}),
    RequestState.STREAMING: frozenset({RequestState.ENDED}),
    RequestState.ENDED: frozenset(),
}


def may_become(old: EngineState, new: EngineState) -> bool:
    """Whether an engine in state `old` may be reported in state `new` next."""
    return new in ENGINE_TRANSITIONS[old]


class Outcome(enum.StrEnum):
    """The one terminal outcome of an accepted request, as `log_entry.result_status` shows it."""

    SUCCESS = "success"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    QUEUE_TIMEOUT = "queue_timeout"
    NO_CAPACITY = "no_capacity"
    CLIENT_LEFT = "client_left"
    INTERRUPTED = "interrupted"  # the gateway that served it died
    INTERNAL_ERROR = "internal_error"
    OUTRUN = "outrun"  # of one attempt of a hedged request: the other place was faster


class UsageSource(enum.StrEnum):
    """Where the token counts of a record come from."""

    UPSTREAM = "upstream"  # the endpoint's own usage
    RELAYED = "relayed"  # cut off: estimated prompt tokens + tokens relayed to the client
    NONE = "none"  # nothing was sent to any endpoint, or it refused
