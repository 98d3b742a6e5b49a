"""What a request costs: exact integer arithmetic in micro-cents, the whole sum first, rounded once, half up.

Rounding per token type would lose up to a micro-cent on each; floats would lose more. Never negative, never more than
the database holds.
"""

from __future__ import annotations

from collections.abc import Mapping

from logos.billing.prices import Tariff
from logos.billing.usage import COMPLETION, PARTS_OF, PROMPT, billable
from logos.domain.nouns import MICRO_CENTS_PER_UNIT
from logos.domain.records import Charge

MICRO_CENTS_MAX = 2**63 - 1
_MILLION = 1_000_000


def charge(usage: Mapping[str, int], tariff: Tariff) -> Charge:
    """The charge for tokens by type (`usage.normalise`). Without any price: nothing, in no currency."""
    if not tariff:
        return Charge()
    prices = tariff.micro_cents_per_million
    bill = billable(usage, prices)
    exact = sum(count * prices.get(name, 0) for name, count in bill.items())
    return Charge(min((max(exact, 0) + _MILLION // 2) // _MILLION, MICRO_CENTS_MAX), tariff.currency)


def upper_bound(prompt_tokens: int, output_tokens_max: int, tariff: Tariff) -> Charge:
    """The most that so many prompt and output tokens can cost, whatever types they turn out to be: what a budget must
    reserve before the request. Rounded up."""
    if not tariff:
        return Charge()
    exact = max(prompt_tokens, 0) * _dearest(PROMPT, tariff) + max(output_tokens_max, 0) * _dearest(COMPLETION, tariff)
    return Charge(min(-(-exact // _MILLION), MICRO_CENTS_MAX), tariff.currency)


def _dearest(total: str, tariff: Tariff) -> int:
    prices = tariff.micro_cents_per_million
    return max(0, *(prices.get(name, 0) for name in (total, *PARTS_OF[total])))


def format_cost(charge: Charge) -> str:
    """The charge in whole currency units as an exact decimal that is also a JSON number: 12345 -> 0.00012345."""
    units, rest = divmod(charge.micro_cents, MICRO_CENTS_PER_UNIT)
    return f"{units}.{rest:08d}".rstrip("0").rstrip(".")
