"""The record of one request: opened before it waits for a place or is sent to one, closed once, whatever happens.

Turns what the gateway saw into `domain.records` values and hands them to the outbox, the metrics and the quota wallet.
Synchronous from end to end, so that it also runs to its end when the task of the request is cancelled. Money is
computed by `billing`; nothing is sent anywhere from here.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from logos.billing.cost import charge
from logos.billing.prices import FREE, PriceBook, Tariff
from logos.billing.usage import normalise
from logos.domain.catalogue import Catalogue
from logos.domain.errors import NoCapacity
from logos.domain.lifecycle import Outcome, UsageSource
from logos.domain.nouns import Endpoint, Key, LogLevel, Place, Tier
from logos.domain.records import Attempt, Charge, Closing, Opening, Progress
from logos.gateway.kept import kept_headers, kept_payload
from logos.gateway.outbox import Outbox
from logos.gateway.parsing import ParsedRequest
from logos.gateway.placement import Grant
from logos.gateway.resolution import Resolved
from logos.telemetry.metrics import Instruments

log = logging.getLogger(__name__)

RECORDS_FULL = "Records of earlier requests cannot be stored at the moment."


@dataclass(slots=True)
class Accepted:
    """One accepted request on its way. `began` is on the gateway's monotonic clock, `*_at` are Unix seconds."""

    request_id: str
    route: str
    key: Key
    parsed: ParsedRequest
    resolved: Resolved
    catalogue: Catalogue
    headers: Mapping[bytes, bytes]
    accepted_at: float
    began: float
    client_request_id: str | None = None
    client_ip: str | None = None
    grant: Grant | None = None
    queue_wait_s: float = 0.0
    forwarded_at: float | None = None
    first_token_at: float | None = None
    ttft_s: float | None = None  # since it was forwarded; None where the first byte says nothing of it
    overhead_s: float | None = None
    usage: Mapping[str, int] | None = None  # as the endpoint reported it, by token type
    attempts: list[Attempt] = field(default_factory=list)
    hedge_winner: str | None = None  # first, second, none; None: it had one place at a time
    opened: bool = False
    noted: Place | None = None  # where it is served, as far as its record says
    closed: bool = False

    def at(self, clock: float) -> float:
        """A moment of the gateway's clock in Unix seconds, as they were counted when the request was accepted."""
        return self.accepted_at + (clock - self.began)

    @property
    def slo_ttft_ms(self) -> int | None:
        """The deadline for its first token that it is scheduled for: its own, or that of its mode."""
        controls = self.parsed.controls
        seconds = self.catalogue.slo.first_token_s(controls.mode, controls.slo_ttft_s, controls.slo_total_s)
        return None if seconds is None else round(seconds * 1000)

    @property
    def place(self) -> Place | None:
        return self.grant.place if self.grant is not None else None

    @property
    def keeps_payloads(self) -> bool:
        return self.key.log_level is LogLevel.FULL

    def may_say(self, message: str | None, summary: str | None) -> str | None:
        """What its record may say went wrong. `summary`: the same without the words of somebody else, if it has any."""
        return message if summary is None or self.keeps_payloads else summary


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended. `usage` is what the endpoint reported, by token type; None if it did not, then `relayed_tokens`
    counts."""

    outcome: Outcome
    http_status: int
    error_message: str | None = None
    usage: Mapping[str, int] | None = None
    relayed_tokens: int = 0
    response: bytes | None = None


class Settlement:
    """Opens and closes records. `clock` counts monotonic seconds: whoever sets the machine's clock while a request runs
    makes it neither longer nor shorter."""

    def __init__(self, gateway_id: str, outbox: Outbox, instruments: Instruments, clock: Callable[[], float]) -> None:
        self._gateway_id = gateway_id
        self._outbox = outbox
        self._instruments = instruments
        self._clock = clock
        self._book_of = Catalogue()
        self._book = PriceBook(())

    def wait(self, accepted: Accepted) -> None:
        """Before it waits for a place: the first one, or another after one that failed. Until it is sent there, nothing
        has been served. Raises NoCapacity if the outbox cannot be written."""
        self.open(accepted)
        if accepted.noted is not None:
            accepted.noted = None
            self._outbox.progress(Progress(accepted.request_id, waits=True))

    def open(self, accepted: Accepted) -> None:
        """Before the first upstream byte of each place. Raises NoCapacity if the outbox cannot be
        written."""
        if accepted.opened:
            if accepted.place != accepted.noted:
                self.progress(accepted, 0)
            return
        try:
            self._outbox.open(self._opening(accepted))
        except OSError as error:
            log.error("request %s is refused, its record cannot be written: %s", accepted.request_id, error.strerror)
            raise NoCapacity(RECORDS_FULL, code="outbox_full") from None
        accepted.opened = True
        accepted.noted = accepted.place

    def progress(self, accepted: Accepted, tokens: int) -> None:
        """So many tokens have been relayed, from where it is served now."""
        place = None if accepted.place == accepted.noted else accepted.place
        endpoint = accepted.catalogue.endpoint.get(place.endpoint_id) if place is not None else None
        accepted.noted = accepted.place
        self._outbox.progress(
            Progress(
                accepted.request_id,
                tokens,
                accepted.first_token_at,
                model_id=endpoint.model_id if endpoint is not None else None,
                provider_id=endpoint.provider_id if endpoint is not None else None,
                endpoint_id=endpoint.id if endpoint is not None else None,
                engine_id=place.engine_id if place is not None else None,
            )
        )

    def close(self, accepted: Accepted, ending: Ending) -> Closing | None:
        """The one end of a request. A second call changes nothing and returns None."""
        if accepted.closed:
            return None
        accepted.closed = True
        if not accepted.opened:
            with contextlib.suppress(NoCapacity):  # nothing was sent anywhere, and there is no record
                self.open(accepted)
        closing = self._closing(accepted, ending)
        self._outbox.close(closing)
        self._count(accepted, closing)
        return closing

    def tariff(self, catalogue: Catalogue, model_id: int | None, provider_id: int | None, at: float) -> Tariff:
        """What tokens cost there on the day (UTC) of a request that was accepted `at`, however long it takes: what a
        client was told and what it is charged must not lie on two sides of a midnight."""
        if model_id is None or provider_id is None:
            return FREE
        if self._book_of is not catalogue:
            self._book, self._book_of = PriceBook(catalogue.prices), catalogue
        day = dt.datetime.fromtimestamp(at, dt.UTC).date()
        return self._book.tariff(model_id, provider_id, day)

    def tariff_of(self, accepted: Accepted, endpoint: Endpoint) -> Tariff:
        """The same for one request, at one of its places."""
        return self.tariff(accepted.catalogue, endpoint.model_id, endpoint.provider_id, accepted.accepted_at)

    def house_cost(
        self, accepted: Accepted, endpoint: Endpoint, reported: Mapping[str, Any] | None, tokens: int
    ) -> Charge:
        """Of an answer that nobody is charged for: by the endpoint's own figures, or else by what came of it."""
        estimated = {"prompt": accepted.resolved.prompt_tokens, "completion": tokens}
        usage = normalise(reported) if reported is not None else estimated
        return charge(usage, self.tariff_of(accepted, endpoint))

    def charge_interrupted(self, catalogue: Catalogue, opening: Opening, usage: Mapping[str, int]) -> Charge:
        """What a request costs whose gateway died, for the gateway that finds its record."""
        return charge(usage, self.tariff(catalogue, opening.model_id, opening.provider_id, opening.accepted_at))

    # ------------------------------------------------------------------ values

    def _opening(self, accepted: Accepted) -> Opening:
        place = accepted.place
        endpoint = accepted.catalogue.endpoint.get(place.endpoint_id) if place is not None else None
        parsed, resolved, key = accepted.parsed, accepted.resolved, accepted.key
        full = accepted.keeps_payloads
        return Opening(
            request_id=accepted.request_id,
            accepted_at=accepted.accepted_at,
            key_id=key.id,
            route=accepted.route,
            log_level=key.log_level,
            team_id=key.team_id,
            user_id=key.user_id,
            model_id=endpoint.model_id if endpoint is not None else None,
            provider_id=endpoint.provider_id if endpoint is not None else None,
            endpoint_id=endpoint.id if endpoint is not None else None,
            engine_id=place.engine_id if place is not None else None,
            policy_id=resolved.policy.id or None,
            priority=resolved.priority,
            mode=parsed.controls.mode.value,
            client_request_id=accepted.client_request_id,
            client_ip=accepted.client_ip,
            prompt_tokens=resolved.prompt_tokens,
            slo_ttft_ms=accepted.slo_ttft_ms,
            slo_total_ms=parsed.controls.slo_total_ms,
            classification_statistics=resolved.statistics,
            input_payload=kept_payload(parsed.raw) if full else None,
            headers=kept_headers(accepted.headers) if full else None,
            gateway_id=self._gateway_id,
        )

    def _closing(self, accepted: Accepted, ending: Ending) -> Closing:
        grant = accepted.grant
        endpoint = accepted.catalogue.endpoint.get(grant.place.endpoint_id) if grant is not None else None
        usage, source = self._usage(accepted, ending)
        model_id = endpoint.model_id if endpoint is not None else None
        provider_id = endpoint.provider_id if endpoint is not None else None
        cold = grant is not None and grant.tier in (Tier.COLD, Tier.ASLEEP)
        return Closing(
            request_id=accepted.request_id,
            ended_at=accepted.at(self._clock()),
            outcome=ending.outcome,
            http_status=ending.http_status,
            error_message=ending.error_message,
            model_id=model_id,
            provider_id=provider_id,
            endpoint_id=endpoint.id if endpoint is not None else None,
            engine_id=grant.place.engine_id if grant is not None else None,
            forwarded_at=accepted.forwarded_at,
            first_token_at=accepted.first_token_at,
            usage=usage,
            usage_source=source,
            charge=charge(usage, self.tariff(accepted.catalogue, model_id, provider_id, accepted.accepted_at)),
            attempts=tuple(accepted.attempts),
            hedge_winner=accepted.hedge_winner,
            queue_wait_ms=round(accepted.queue_wait_s * 1000, 3),
            queue_depth_at_enqueue=grant.queue_depth_at_enqueue if grant is not None else None,
            queue_depth_at_schedule=grant.queue_depth_at_schedule if grant is not None else None,
            priority_when_scheduled=accepted.resolved.priority if grant is not None else None,
            predicted_ttft_ms=_ms(grant.predicted_ttft_s) if grant is not None else None,
            was_cold_start=cold,
            load_duration_ms=_ms(grant.load_s) if grant is not None else None,
            overhead_ms=_ms(accepted.overhead_s),
            response_payload=kept_payload(ending.response) if ending.response is not None else None,
        )

    def _usage(self, accepted: Accepted, ending: Ending) -> tuple[Mapping[str, int], UsageSource]:
        """The endpoint's own figures; without them, what a cut-off request is charged by."""
        if ending.usage is not None:
            return ending.usage, UsageSource.UPSTREAM
        answered = accepted.first_token_at is not None or ending.outcome is Outcome.SUCCESS
        # Not while it waited for another place, after one that failed.
        left_while_served = any(each.outcome is Outcome.CLIENT_LEFT for each in accepted.attempts)
        if not answered and not left_while_served:
            return {}, UsageSource.NONE
        prompt = accepted.resolved.prompt_tokens
        return {"prompt": prompt, "completion": ending.relayed_tokens}, UsageSource.RELAYED

    def _count(self, accepted: Accepted, closing: Closing) -> None:
        catalogue, instruments = accepted.catalogue, self._instruments
        model = catalogue.model.get(closing.model_id or 0)
        provider = catalogue.provider.get(closing.provider_id or 0)
        name = model.name if model is not None else ""
        instruments.request_ended(
            name,
            provider.name if provider is not None else "",
            closing.outcome.value,
            closing.ended_at - accepted.accepted_at,
        )
        instruments.tokens_used(name, closing.usage)
        instruments.charged(closing.charge.currency, closing.charge.micro_cents)
        instruments.queue_waited(accepted.queue_wait_s)
        if accepted.hedge_winner is not None:
            instruments.hedged(accepted.hedge_winner)
        if closing.first_token_at is not None:
            instruments.first_token(name, closing.first_token_at - accepted.accepted_at)
            self._compare(name, accepted)
        if accepted.overhead_s is not None:
            instruments.overhead(accepted.overhead_s)

    def _compare(self, model: str, accepted: Accepted) -> None:
        """What was predicted with what came, where the first place answered and showed its first token."""
        grant = accepted.grant
        if grant is None or grant.predicted_ttft_s is None or accepted.ttft_s is None or len(accepted.attempts) != 1:
            return
        assert accepted.first_token_at is not None
        self._instruments.predicted(model, grant.predicted_ttft_s, accepted.first_token_at - accepted.accepted_at)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
