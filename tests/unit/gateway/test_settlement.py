"""What a settlement makes of what the gateway saw."""

from __future__ import annotations

import base64
import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from logos.domain.catalogue import Catalogue
from logos.domain.lifecycle import Outcome, UsageSource
from logos.domain.nouns import Endpoint, Key, LogLevel, Place, Policy, Price, Priority, Privacy, Tier
from logos.domain.records import Attempt, Charge
from logos.gateway.orphans import abandoned
from logos.gateway.outbox import Outbox
from logos.gateway.parsing import parse
from logos.gateway.placement import Grant
from logos.gateway.resolution import Resolved
from logos.gateway.settlement import Accepted, Ending, Settlement
from logos.telemetry.metrics import Instruments

NOW = 1_790_000_000.0
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
    accepted_at = NOW


@pytest.mark.parametrize(
    ("reported", "tokens", "micro_cents"),
    [({"prompt_tokens": 10, "completion_tokens": 5}, 3, 10 + 2 * 5), (None, 3, 100 + 2 * 3)],
)
def test_an_answer_that_was_given_up_costs_the_house_what_was_reported_or_else_what_came(
    tmp_path: Path, reported: dict[str, Any] | None, tokens: int, micro_cents: int
) -> None:
    settlement = Settlement("g1", Outbox(tmp_path, "g1"), Instruments(), lambda: 0.0)
    cost = settlement.house_cost(cast(Accepted, Asked), ENDPOINT, reported, tokens)
    assert cost == Charge(micro_cents, "EUR")


def question(picture: str) -> bytes:
    part = {"type": "image_url", "image_url": {"url": picture}}
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": [part]}]}).encode()


def streamed(sound: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"audio": {"data": sound}}}]}).encode() + b"\n\n"


def accepted_of(raw: bytes, headers: dict[bytes, bytes] | None = None, level: LogLevel = LogLevel.FULL) -> Accepted:
    return Accepted(
        request_id="r1",
        route="/v1/chat/completions",
        key=Key(1, "k", "k", b"", log_level=level),
        parsed=parse("chat", raw, {}),
        resolved=Resolved(Policy(0, "default"), Priority.MID, (), 1, None),
        catalogue=Catalogue(),
        headers=headers or {},
        accepted_at=NOW,
        began=0.0,
    )


def test_a_record_keeps_a_whole_exchange_but_not_the_bytes_of_its_pictures_and_sounds(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, "g1")
    settlement = Settlement("g1", outbox, Instruments(), lambda: 0.0)
    medium = base64.b64encode(b"x" * 1000).decode()
    accepted = accepted_of(question(f"data:image/png;base64,{medium}"))
    settlement.close(accepted, Ending(Outcome.SUCCESS, 200, response=streamed(medium) * 2))
    (record,) = outbox.take_batch(1, NOW)
    assert record.opening.input_payload == question("[image/png, 1000 bytes]").decode()
    assert record.closing is not None
    assert record.closing.response_payload == (streamed("[audio, 1000 bytes]") * 2).decode()


PLACED = Catalogue(endpoints=(ENDPOINT,), prices=PRICES)


def accepted_one(catalogue: Catalogue = PLACED, accepted_at: float = NOW) -> Accepted:
    """With 100 prompt tokens by estimate, and a place."""
    return Accepted(
        request_id="r1",
        route="/v1/chat/completions",
        key=Key(1, "k", "k", b""),
        parsed=parse("chat", b'{"model": "m", "messages": [{"role": "user", "content": "Hello"}]}', {}),
        resolved=Resolved(Policy(0, "default"), Priority.MID, (), 100, None),
        catalogue=catalogue,
        headers={},
        accepted_at=accepted_at,
        began=0.0,
        grant=Grant("r1", Place(1), Tier.REMOTE),
    )


def test_a_request_that_runs_over_midnight_costs_what_its_client_was_told(tmp_path: Path) -> None:
    midnight = dt.datetime(2026, 3, 1, tzinfo=dt.UTC).timestamp()
    dearer = tuple(
        replace(price, id=9, micro_cents_per_million=10**9, valid_from=dt.date(2026, 3, 1)) for price in PRICES
    )
    catalogue = replace(PLACED, prices=(*PRICES, *dearer))
    outbox = Outbox(tmp_path, "g1")
    settlement = Settlement("g1", outbox, Instruments(), lambda: 2.0)
    accepted = accepted_one(catalogue, midnight - 1)
    settlement.open(accepted)
    closing = settlement.close(accepted, Ending(Outcome.SUCCESS, 200, usage={"prompt": 10, "completion": 5}))
    assert closing is not None
    assert closing.ended_at == midnight + 1
    assert closing.charge == Charge(10 + 2 * 5, "EUR")
    (record,) = outbox.take_batch(1, midnight + 1)
    assert settlement.charge_interrupted(catalogue, record.opening, {"prompt": 10}) == Charge(10, "EUR")


@pytest.mark.parametrize(
    ("tries", "micro_cents"), [((Outcome.CLIENT_LEFT,), 100), ((Outcome.UPSTREAM_ERROR,), 0), ((), 0)]
)
def test_a_client_that_leaves_pays_for_a_place_that_served_it_and_not_for_waiting_after_one_that_failed(
    tmp_path: Path, tries: tuple[Outcome, ...], micro_cents: int
) -> None:
    settlement = Settlement("g1", Outbox(tmp_path, "g1"), Instruments(), lambda: 1.0)
    accepted = accepted_one()
    accepted.forwarded_at = NOW
    accepted.attempts += [Attempt(1, 1, 1, 1, None, NOW, outcome=outcome) for outcome in tries]
    closing = settlement.close(accepted, Ending(Outcome.CLIENT_LEFT, 499))
    assert closing is not None
    assert closing.charge.micro_cents == micro_cents


@pytest.mark.parametrize("retried", [False, True])
def test_a_gateway_that_dies_while_a_retry_waits_leaves_a_request_that_is_free_until_it_is_sent_again(
    tmp_path: Path, retried: bool
) -> None:
    outbox = Outbox(tmp_path, "g1")
    settlement = Settlement("g1", outbox, Instruments(), lambda: 1.0)
    accepted = accepted_one()
    settlement.open(accepted)  # under a lease: it did not wait
    settlement.wait(accepted)  # that place failed
    if retried:
        settlement.open(accepted)  # the same place once more
    outbox.dispose()
    [orphan] = abandoned(tmp_path)
    [record] = orphan.records(lambda opening, usage: settlement.charge_interrupted(PLACED, opening, usage))
    orphan.delete()
    assert record.closing is not None
    assert record.closing.outcome is Outcome.INTERRUPTED
    charged = (record.closing.usage_source, record.closing.charge)
    assert charged == ((UsageSource.RELAYED, Charge(100, "EUR")) if retried else (UsageSource.NONE, Charge()))
    assert record.opening.endpoint_id == 1


def test_a_request_whose_place_could_not_be_asked_waits_for_another_as_free_as_before(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, "g1")
    settlement = Settlement("g1", outbox, Instruments(), lambda: 1.0)
    settlement.wait(accepted_one())  # it has a place that it was never sent to
    outbox.dispose()
    [orphan] = abandoned(tmp_path)
    [record] = orphan.records(lambda opening, usage: settlement.charge_interrupted(PLACED, opening, usage))
    orphan.delete()
    assert record.closing is not None
    assert record.closing.charge == Charge()


def test_a_request_ends_once_and_what_comes_later_changes_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, "g1")
    settlement = Settlement("g1", outbox, Instruments(), lambda: 1.0)
    accepted = accepted_of(question("x"))
    assert settlement.close(accepted, Ending(Outcome.CLIENT_LEFT, 499)) is not None
    assert settlement.close(accepted, Ending(Outcome.SUCCESS, 200)) is None
    [record] = outbox.take_batch(10, NOW)
    assert record.closing is not None
    assert record.closing.outcome is Outcome.CLIENT_LEFT
