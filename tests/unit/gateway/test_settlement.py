"""What a settlement makes of what the gateway saw."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, cast

import pytest

from logos.domain.catalogue import Catalogue
from logos.domain.nouns import Endpoint, Price, Privacy
from logos.domain.records import Charge
from logos.gateway.outbox import Outbox
from logos.gateway.settlement import Accepted, Settlement
from logos.telemetry.metrics import Instruments

ENDPOINT = Endpoint(1, 1, 1, Privacy.LOCAL, "m")
PRICES = tuple(
    Price(number, token_type, 1_000_000 * number, "EUR", dt.date(2026, 1, 1))
    for number, token_type in enumerate(("prompt", "completion"), start=1)
)


class Asked:
    """As much of an accepted request as a price needs: 100 prompt tokens, by estimate."""

    class resolved:  # noqa: N801 (a field of `Accepted`)
        prompt_tokens = 100

    catalogue = Catalogue(prices=PRICES)


@pytest.mark.parametrize(
    ("reported", "tokens", "micro_cents"),
    [({"prompt_tokens": 10, "completion_tokens": 5}, 3, 10 + 2 * 5), (None, 3, 100 + 2 * 3)],
)
def test_an_answer_that_was_given_up_costs_the_house_what_was_reported_or_else_what_came(
    tmp_path: Path, reported: dict[str, Any] | None, tokens: int, micro_cents: int
) -> None:
    settlement = Settlement("g1", Outbox(tmp_path, "g1"), Instruments(), lambda: 1_790_000_000.0)
    cost = settlement.house_cost(cast(Accepted, Asked), ENDPOINT, reported, tokens)
    assert cost == Charge(micro_cents, "EUR")
