"""What a simulated run would have cost: charges as billing makes them, one for each answer, in micro-cents.

What a provider may ask for an attempt that failed or for a second place that was given up is not in it: nobody is
charged for that. What GPUs cost is not known here; how long they computed is in `figures`.
"""

from __future__ import annotations

from typing import Any

from logos.billing.cost import charge
from logos.billing.usage import COMPLETION, PROMPT
from logos.simulation.run import Outcome, Run, Status


def cost_micro_cents(run: Run, outcome: Outcome) -> int:
    """What the answer is charged, rounded once; 0 where there is no answer or no price."""
    tariff = run.tariffs.get(outcome.endpoint_id or 0)
    if tariff is None or outcome.status is not Status.OK:
        return 0
    return charge({PROMPT: outcome.arrival.prompt_tokens, COMPLETION: outcome.output_tokens}, tariff).micro_cents


def costs(run: Run) -> dict[str, Any]:
    """The charges of a run, those at remote providers and those for its own engines apart. Currency None: nothing has
    a price."""
    remote = local = requests = 0
    for outcome in run.outcomes:
        if outcome.endpoint_id in run.remote_ids:
            requests += outcome.status is Status.OK
            remote += cost_micro_cents(run, outcome)
        else:
            local += cost_micro_cents(run, outcome)
    currency = next((each.currency for each in run.tariffs.values()), None)
    return {
        "currency": currency,
        "remote_requests": requests,
        "remote_micro_cents": remote,
        "local_micro_cents": local,
    }
