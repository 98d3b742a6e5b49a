"""The figures of merit of a run, as `logos simulate --json` prints them.

Percentiles are linear between closest ranks; of nothing there are none (None). TTFT and latency count from arrival;
what was not answered has none and counts against attainment, which is over everything sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from logos.domain.lifecycle import EngineState
from logos.simulation.costs import costs
from logos.simulation.run import Outcome, Run, Status


def figures(run: Run, slo_ttft_s: float | None = None) -> dict[str, Any]:
    """Everything about one run. Attainment is by `slo_ttft_s` where it is given, else by each request's own SLO.

    `swaps` counts engines brought in (woken or loaded), `swap_seconds` what all transitions took; `worst_wait_s` is the
    longest from arrival until it ran (or was turned away); fairness is Jain's index over keys of the tokens per second
    of latency that each got, None if none got any; `gpu_seconds` is the GPU time in which an engine was computing,
    `gpu_use` its share of all GPU time; `cost` is what `costs` says.
    """
    outcomes = run.outcomes
    answered = [each for each in outcomes if each.status is Status.OK]
    tokens = sum(each.output_tokens for each in answered)
    seconds = max(run.ended_at, 1e-9)
    return {
        "world": run.world,
        "policy": run.policy,
        "seed": run.seed,
        "requests": len(outcomes),
        "ok": len(answered),
        "rejected": _count(outcomes, Status.REJECTED),
        "failed": _count(outcomes, Status.FAILED),
        "cancelled": _count(outcomes, Status.LEFT),
        "hedged": sum(each.hedge_winner is not None for each in outcomes),
        "hedges_won": sum(each.hedge_winner == "second" for each in outcomes),
        "unanswered": unanswered(outcomes),
        "slo_attainment": attainment(outcomes, slo_ttft_s),
        "ttft_s": spread(_known(each.ttft_s for each in answered)),
        "latency_s": spread(_known(each.latency_s for each in answered)),
        "queue_wait_s": spread(_known(each.queue_wait_s for each in outcomes)),
        "tpot_s": spread(_known(each.tpot_s for each in answered)),
        "swaps": len([each for each in run.transitions if each.after is EngineState.AWAKE]),
        "swap_seconds": sum(each.seconds for each in run.transitions),
        "worst_wait_s": max(_known(each.queue_wait_s for each in outcomes), default=0.0),
        "fairness": fairness(outcomes),
        "cost": costs(run),
        "gpu_seconds": run.gpu_busy_s,
        "gpu_use": run.gpu_busy_s / (run.gpus * seconds) if run.gpus else 0.0,
        "requests_per_s": len(answered) / seconds,
        "output_tokens_per_s": tokens / seconds,
        "seconds": run.ended_at,
        "per_model": per_model(run, slo_ttft_s),
        "prediction": prediction(answered),
    }


def unanswered(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Why requests were not answered, most frequent first: how many, and what was said to the first of them. Reasons
    that differ only in numbers are one."""
    found: dict[tuple[Status, str], dict[str, Any]] = {}
    for each in outcomes:
        if each.status is not Status.OK:
            entry = {"status": each.status.value, "requests": 0, "reason": each.reason}
            found.setdefault((each.status, _kind(each.reason)), entry)["requests"] += 1
    return sorted(found.values(), key=lambda entry: -int(entry["requests"]))


def _kind(reason: str) -> str:
    return reason if reason.isdigit() else "".join(each for each in reason if not each.isdigit())


def per_model(run: Run, slo_ttft_s: float | None = None) -> dict[str, dict[str, float | None]]:
    """Waits and first tokens by model: the one that answered, or the best that was asked for."""
    grouped: dict[str, list[Outcome]] = {}
    for outcome in run.outcomes:
        grouped.setdefault(outcome.model or outcome.arrival.models[0][0], []).append(outcome)
    return {name: _of_model(grouped[name], slo_ttft_s) for name in sorted(grouped)}


def _of_model(outcomes: Sequence[Outcome], slo_ttft_s: float | None) -> dict[str, float | None]:
    waits = spread(_known(each.queue_wait_s for each in outcomes))
    ttfts = spread(_known(each.ttft_s for each in outcomes if each.status is Status.OK))
    return {
        "requests": len(outcomes),
        "ok": _count(outcomes, Status.OK),
        "mean_wait_s": waits["mean"],
        "mean_ttft_s": ttfts["mean"],
        "p95_ttft_s": ttfts["p95"],
        "slo_attainment": attainment(outcomes, slo_ttft_s),
    }


def attainment(outcomes: Sequence[Outcome], slo_ttft_s: float | None = None) -> float:
    """The share of everything sent that had its first token within `slo_ttft_s`, or where that is None, for which both
    of its own promises were kept, of its first token and of its end. What has no SLO only has to be answered."""
    if not outcomes:
        return 1.0
    return sum(is_in_time(each, slo_ttft_s) for each in outcomes) / len(outcomes)


def is_in_time(outcome: Outcome, slo_ttft_s: float | None = None) -> bool:
    """Whether it counts for attainment, which says what that means."""
    if outcome.status is not Status.OK or outcome.ttft_s is None:
        return False
    if slo_ttft_s is not None:
        return outcome.ttft_s <= slo_ttft_s
    return _keeps(outcome.ttft_s, outcome.slo_ttft_s) and _keeps(outcome.latency_s, outcome.slo_total_s)


def _keeps(seconds: float | None, promised_s: float | None) -> bool:
    return promised_s is None or (seconds is not None and seconds <= promised_s)


def fairness(outcomes: Iterable[Outcome]) -> float | None:
    """Jain's index over keys, (sum x)^2 / (n sum x^2), x being a key's tokens per second of latency: 1 is even. For a
    key that asked and got no answer x is 0; None if no key got anything."""
    tokens: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for each in outcomes:
        key, is_answered = each.arrival.key_id, each.status is Status.OK
        tokens[key] = tokens.get(key, 0) + (each.output_tokens if is_answered else 0)
        seconds[key] = seconds.get(key, 0.0) + (each.latency_s or 0.0)
    rates = [tokens[key] / seconds[key] if seconds[key] > 0 else 0.0 for key in tokens]
    if not any(rates):
        return None
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))


def prediction(answered: Iterable[Outcome]) -> dict[str, float | None]:
    """How good the TTFT predictions were that came with the dispatches, as absolute percentage errors. What had two
    places is left out: no prediction was for both."""
    errors = [
        abs(each.predicted_ttft_s - each.ttft_s) / each.ttft_s
        for each in answered
        if each.predicted_ttft_s is not None and each.ttft_s and each.hedge_winner is None
    ]
    found = spread(errors)
    return {"predicted": len(errors), "mape": found["mean"], "median_ape": found["p50"]}


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, p50, p95 and p99; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return dict.fromkeys(("mean", "p50", "p95", "p99"))
    return {
        "mean": mean(ordered),
        "p50": _ranked(ordered, 0.5),
        "p95": _ranked(ordered, 0.95),
        "p99": _ranked(ordered, 0.99),
    }


def mean(values: Sequence[float]) -> float:
    """The average; 0 of nothing."""
    return math.fsum(values) / len(values) if values else 0.0


def quantile(values: Iterable[float], q: float) -> float:
    """The quantile at `q` (0 to 1), linear between closest ranks; 0 of nothing."""
    return _ranked(sorted(values), q)


def _ranked(ordered: Sequence[float], q: float) -> float:
    if not ordered:
        return 0.0
    place = q * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _count(outcomes: Iterable[Outcome], status: Status) -> int:
    return sum(each.status is status for each in outcomes)
