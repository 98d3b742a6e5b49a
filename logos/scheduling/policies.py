"""Policies: which of a request's endpoints it should go to. Data: a name and a function over views.

The formulas are the reference's (scheduling.md section 2). A policy sees views and settings, never the scheduler's
state; it orders no queue, moves no engine and sends no command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from logos.domain.nouns import MICRO_CENTS_PER_UNIT, Tier
from logos.scheduling.settings import SchedulerSettings

# E[wait] of the reference, in seconds.
WAIT_ASLEEP_S = 2.5
WAIT_COLD_S = 45.0
WAIT_REMOTE_S = 0.3
WAIT_REMOTE_SCARCE_S = 5.0
SCARCE_REQUESTS = 10
RECLAIM_IDLE_S = 3.0
RECLAIM_BUSY_S = 30.0
WAIT_HORIZON_S = 60.0
WAIT_WEIGHT = 1.5

MICRO_CENTS_PER_CENT = MICRO_CENTS_PER_UNIT / 100


class View(NamedTuple):
    """What a policy may know of one candidate, taken at the moment of the choice."""

    endpoint_id: int
    weight: float
    tier: Tier  # what the request would meet
    running: int
    waiting: int
    parallel: int  # requests that its awake engines, or else one engine, run at once; at least 1
    service_p50_s: float  # observed end to end, or the prior
    remaining_requests: int | None = None  # of a remote endpoint's limit; None: not limited
    memory_is_short: bool = False  # an engine would have to come, and no node has room for it
    neighbour_is_idle: bool = False  # memory is short, but an idle or sleeping engine holds some
    # For policies that predict; in seconds, micro-cents and shares of 1.
    ttft_p50_s: float = 0.0
    ttft_p90_s: float = 0.0
    price: float = 0.0
    quality: float = 1.0
    displaced_s: float = 0.0  # what other models' requests would wait longer, all together


class Stake(NamedTuple):
    """What a policy may know of the request: the deadline for its first token, and what breaking things weighs."""

    slo_ttft_s: float | None = None
    settings: SchedulerSettings = SchedulerSettings()


class Choice(NamedTuple):
    """The endpoint chosen, and what the policy expects until the first token, if it has an opinion."""

    endpoint_id: int
    predicted_ttft_s: float | None = None


Policy = Callable[[Sequence[View], Stake], Choice]
NO_STAKE = Stake()


def fcfs(views: Sequence[View], stake: Stake = NO_STAKE) -> Choice:
    """The first candidate."""
    return Choice(views[0].endpoint_id)


def utilization(views: Sequence[View], stake: Stake = NO_STAKE) -> Choice:
    """weight + (10 - 0.5 queue) when loaded, -20 when not, +5 remote."""
    return Choice(max(views, key=_utilization_score).endpoint_id)


def _utilization_score(view: View) -> float:
    if view.tier is Tier.REMOTE:
        return view.weight + 5.0
    if view.tier is Tier.WARM or view.tier is Tier.QUEUED:
        return view.weight + 10.0 - 0.5 * view.waiting
    return view.weight - 20.0


def ettft(views: Sequence[View], stake: Stake = NO_STAKE) -> Choice:
    """The best weight corrected by the estimated wait: weight - min(E[wait]/60 s, 1) * S * 1.5."""
    if len(views) == 1:
        return Choice(views[0].endpoint_id, expected_wait_s(views[0]))
    scale = spread([view.weight for view in views]) * WAIT_WEIGHT
    best: View = views[0]
    best_score = best_wait = float("-inf")
    for view in views:
        wait = expected_wait_s(view)
        score = view.weight - min(wait / WAIT_HORIZON_S, 1.0) * scale
        if score > best_score:
            best, best_score, best_wait = view, score, wait
    return Choice(best.endpoint_id, best_wait)


def spread(weights: Sequence[float]) -> float:
    """S = max(w_max - w_min, 0.2 * max(|w_max|, |w_min|), 1.0)."""
    highest, lowest = max(weights), min(weights)
    return max(highest - lowest, 0.2 * max(abs(highest), abs(lowest)), 1.0)


def expected_wait_s(view: View) -> float:
    """E[wait] = state + reclaim + queue, in seconds."""
    return _state_s(view) + _reclaim_s(view) + view.waiting / view.parallel * view.service_p50_s


def _state_s(view: View) -> float:
    match view.tier:
        case Tier.WARM | Tier.QUEUED:
            return 0.0
        case Tier.ASLEEP:
            return WAIT_ASLEEP_S
        case Tier.COLD:
            return WAIT_COLD_S
    remaining = view.remaining_requests
    return WAIT_REMOTE_S if remaining is None or remaining > SCARCE_REQUESTS else WAIT_REMOTE_SCARCE_S


def _reclaim_s(view: View) -> float:
    if not view.memory_is_short:
        return 0.0
    return RECLAIM_IDLE_S if view.neighbour_is_idle else RECLAIM_BUSY_S


def slo(views: Sequence[View], stake: Stake = NO_STAKE) -> Choice:
    """The least cost of deadline, price, quality and displaced work (scheduling.md section 3)."""
    best = views[0]
    if len(views) > 1:
        weights = [view.weight for view in views]
        scale, highest = spread(weights), max(weights)
        best = min(views, key=lambda view: _cost(view, stake, (highest - view.weight) / scale))
    return Choice(best.endpoint_id, best.ttft_p50_s)


def _cost(view: View, stake: Stake, loss: float) -> float:
    """In seconds. `loss` is what the classification thinks the model is worse than the best candidate, 0 to 1."""
    settings = stake.settings
    late_s = max(0.0, view.ttft_p90_s - stake.slo_ttft_s) if stake.slo_ttft_s is not None else 0.0
    return (
        settings.cost_late * late_s
        + settings.cost_wait * view.ttft_p50_s
        + settings.cost_price_s_per_cent * view.price / MICRO_CENTS_PER_CENT
        + settings.cost_quality_s * max(1.0 - view.quality, loss)
        + settings.cost_displaced * view.displaced_s
    )


POLICIES: dict[str, Policy] = {"fcfs": fcfs, "utilization": utilization, "ettft": ettft, "slo": slo}
PREDICTING = frozenset({"slo"})  # policies that want forecasts in their views
