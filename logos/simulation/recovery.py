"""How long a cluster takes to recover from what went wrong: a run with a fault beside the same run without it.

Works on the stories of requests that two runs left behind; nothing is simulated here.
"""

from __future__ import annotations

from logos.simulation.figures import is_in_time
from logos.simulation.run import Outcome, Run, Status

CALM_S = 30.0


def recovery_s(
    found: Run, without: Run, struck_at: float, slo_ttft_s: float | None = None, *, lasts_s: float = 0.0
) -> float | None:
    """Seconds from `struck_at` to the last request that fares worse because of the fault: for `CALM_S` after it, and
    after the fault itself is over, every arrival fares as it does in the run `without` it. Worse is to be late where it
    was in time (as `figures` has it), or not to be answered where it was.

    None if the workload ended before such a calm: the recovery was not seen.
    """
    before = {each.arrival.request_id: each for each in without.outcomes}
    after = sorted((each for each in found.outcomes if each.arrival.at >= struck_at), key=lambda each: each.arrival.at)
    recovered_at, over_at = struck_at, struck_at + lasts_s
    for each in after:
        if each.arrival.at - max(recovered_at, over_at) > CALM_S:
            return recovered_at - struck_at
        if _rank(each, slo_ttft_s) < _rank(before[each.arrival.request_id], slo_ttft_s):
            recovered_at = each.arrival.at
    return None


def _rank(outcome: Outcome, slo_ttft_s: float | None) -> int:
    """0 not answered, 1 late, 2 in time."""
    return (outcome.status is Status.OK) + is_in_time(outcome, slo_ttft_s)
