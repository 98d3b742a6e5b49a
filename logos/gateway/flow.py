"""The way of one request, in order: key, body, candidates, quota, place, record, relay, settlement.

Each step belongs to another module; here is only their order and what happens when one of them fails. A client that
leaves cancels the task of its request at whatever step it is; settling is synchronous, so nothing stays behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from logos.billing.cost import charge
from logos.billing.usage import normalise
from logos.domain.errors import ClientLeft, DirectoryStale, LogosError, NoCapacity, UpstreamFailed, UpstreamTimeout
from logos.domain.lifecycle import Outcome
from logos.domain.nouns import Endpoint
from logos.domain.records import Attempt, Charge
from logos.gateway.admission import Admission, Admitted
from logos.gateway.asgi import CLIENT_REQUEST_ID_HEADER
from logos.gateway.auth import is_stale
from logos.gateway.client_address import TrustedProxies
from logos.gateway.directory import Directory
from logos.gateway.errors import RefusedByUpstream, status_of
from logos.gateway.faults import Fault, fault_of_error
from logos.gateway.fingerprint import beginning, may_be_shared
from logos.gateway.http import HeaderList, Receive, Scope, Send, headers_of
from logos.gateway.outbox import Outbox
from logos.gateway.parsing import GENERATES, ParsedRequest, parse, read_body, upstream_body
from logos.gateway.placement import Grant, Placement
from logos.gateway.race import Outrun, Try, first_byte
from logos.gateway.relay import RelayResult, StreamAnswer, Terms, WholeAnswer, open_answer
from logos.gateway.resolution import Resolution
from logos.gateway.responses import ServedBy, response_headers
from logos.gateway.settlement import RECORDS_FULL, Accepted, Ending, Settlement
from logos.gateway.steps import Steps
from logos.gateway.watch import ClientWatch
from logos.providers.openai import OpenAITargets
from logos.providers.transport import Target, Transport
from logos.scheduling.events import Candidate, Ended, LimitObserved, Request
from logos.telemetry.metrics import Instruments

FULL_ANSWER_BYTES_MAX = 4 * 1024 * 1024  # of an answer, at most this much is kept for keys that log FULL


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """Bounds of one request. Times in seconds."""

    body_bytes_max: int = 20 * 1024 * 1024
    queue_timeout_s: float = 60.0
    attempts_max: int = 3
    directory_stale_s: float = 5.0
    output_tokens_guess: int = 256  # counted against a token limit when a request names no maximum
    hedges: bool = False  # requests with a choice ask the scheduler, which may give them a second place


@dataclass(slots=True)
class Flow:
    """The steps' owners, and the order."""

    settings: FlowSettings
    directory: Directory
    resolution: Resolution
    admission: Admission
    placement: Placement
    outbox: Outbox
    settlement: Settlement
    instruments: Instruments
    transport: Transport
    proxies: TrustedProxies
    clock: Callable[[], float]
    wall_clock: Callable[[], float]
    steps: Steps = field(default_factory=Steps)
    targets: OpenAITargets = field(default_factory=OpenAITargets)
    streams: dict[str, tuple[Accepted, StreamAnswer]] = field(default_factory=dict)
    in_flight: int = 0

    async def serve(self, scope: Scope, receive: Receive, send: Send, capability: str, request_id: str) -> None:
        """One request of the public API, from its headers to its record. Raises LogosError while nothing was sent."""
        self.in_flight += 1
        try:
            accepted, admitted = await self._accept_or_count(scope, receive, capability, request_id)
            with ClientWatch(receive):
                await self._serve_accepted(accepted, admitted, send)
        finally:
            self.in_flight -= 1

    # ------------------------------------------------------------------ until accepted

    async def _accept_or_count(
        self, scope: Scope, receive: Receive, capability: str, request_id: str
    ) -> tuple[Accepted, Admitted]:
        """What is refused here has no record, so it is counted."""
        try:
            return await self._accept(scope, receive, capability, request_id)
        except ClientLeft:
            raise
        except LogosError as error:
            self.instruments.refused(error.code)
            raise

    async def _accept(
        self, scope: Scope, receive: Receive, capability: str, request_id: str
    ) -> tuple[Accepted, Admitted]:
        clock, steps, directory = self.clock, self.steps, self.directory
        began = clock()
        headers = headers_of(scope)
        stale = is_stale(began, directory.confirmed_at, self.settings.directory_stale_s)
        accepted_at = self.wall_clock()
        key = directory.keys.authenticate(headers, unix_now=accepted_at, stale=stale)
        steps.add("authenticate", (now := clock()) - began)
        raw = await read_body(receive, headers, self.settings.body_bytes_max)
        parsed = parse(capability, raw, headers)
        steps.add("parse", (then := clock()) - now)
        catalogue = directory.catalogue
        resolved = await self.resolution.resolve(catalogue, key, parsed, request_id)
        steps.add("resolve", (now := clock()) - then)
        if self.outbox.is_full:
            raise NoCapacity(RECORDS_FULL, code="outbox_full")
        tokens = resolved.prompt_tokens + self._output_tokens(parsed) * parsed.choices
        admitted = self.admission.admit_at_once(key, tokens) or await self.admission.admit(key, tokens)
        steps.add("admit", clock() - now)
        client_id = headers.get(CLIENT_REQUEST_ID_HEADER)
        accepted = Accepted(
            request_id=request_id,
            route=scope["path"],
            key=key,
            parsed=parsed,
            resolved=resolved,
            catalogue=catalogue,
            headers=headers,
            accepted_at=accepted_at,
            began=began,
            client_ip=self.proxies.client_of(scope),
            client_request_id=client_id.decode("latin-1") if client_id else None,
        )
        return accepted, admitted

    def _output_tokens(self, parsed: ParsedRequest) -> int:
        """What a request is taken to produce, for its limits, until it is known."""
        if parsed.max_output_tokens is not None:
            return parsed.max_output_tokens
        return 0 if parsed.capability == "embeddings" else self.settings.output_tokens_guess

    # ------------------------------------------------------------------ once accepted

    async def _serve_accepted(self, accepted: Accepted, admitted: Admitted, send: Send) -> None:
        """Exactly one ending, whatever happens."""
        ending = Ending(Outcome.INTERNAL_ERROR, 500, "Something went wrong inside Logos.")
        try:
            result = await self._answer(accepted, admitted, send)
            ending = Ending(
                result.outcome,
                499 if result.outcome is Outcome.CLIENT_LEFT else result.http_status,
                accepted.may_say(result.error_message, result.error_summary),
                accepted.usage,
                result.tokens,
                result.kept,
            )
            if result.cancelled:
                raise asyncio.CancelledError
        except asyncio.CancelledError:
            if ending.outcome is Outcome.INTERNAL_ERROR:
                ending = Ending(Outcome.CLIENT_LEFT, 499, ClientLeft().message)
            raise
        except LogosError as error:
            summary = error.summary if isinstance(error, RefusedByUpstream) else None
            ending = Ending(_outcome_of(error), status_of(error), accepted.may_say(error.message, summary))
            raise
        finally:
            began = self.clock()
            closing = self.settlement.close(accepted, ending)
            self.admission.settle(admitted, closing.usage if closing is not None else {})
            self.steps.add("settle", self.clock() - began)

    async def _answer(self, accepted: Accepted, admitted: Admitted, send: Send) -> RelayResult:
        """Tries places until one answers. Raises the last place's error when none does."""
        excluded: set[int] = set()
        failure: LogosError | None = None
        while (number := len(accepted.attempts) + 1) <= self.settings.attempts_max:
            candidates = accepted.resolved.candidates
            if excluded:
                candidates = tuple(each for each in candidates if each.endpoint_id not in excluded)
                if not candidates:
                    break
            try:
                grant = await self._place(accepted, candidates, number)
            except NoCapacity:
                if failure is None:
                    raise
                break  # what went wrong at the first place says more than that there is no second one
            outcome = await self._attempt(accepted, admitted, grant, number, send)
            if isinstance(outcome, RelayResult):
                return outcome
            failure = outcome.error
            if not outcome.may_retry:
                break
            excluded |= {each.endpoint_id for each in accepted.attempts if each.engine_id is None}
        raise failure or UpstreamFailed()

    async def _place(self, accepted: Accepted, candidates: tuple[Candidate, ...], number: int) -> Grant:
        began = self.clock()
        grant: Grant | None = None
        may_hedge = self._may_hedge(accepted, number)
        if not may_hedge:
            grant = self.placement.lease_for(accepted.request_id, candidates[0], accepted.resolved.prompt_tokens)
        if grant is None:
            parsed, resolved = accepted.parsed, accepted.resolved
            controls = parsed.controls
            timeout_s = self.settings.queue_timeout_s if controls.timeout_s is None else controls.timeout_s
            shared = beginning(parsed.capability, parsed.body, self.directory.salt)
            request = Request(
                request_id=accepted.request_id,
                gateway_id=self.placement.gateway_id,
                key_id=accepted.key.id,
                candidates=candidates,
                team_id=accepted.key.team_id,
                priority=resolved.priority,
                mode=controls.mode,
                prompt_tokens=resolved.prompt_tokens,
                output_tokens_max=parsed.max_output_tokens,
                queue_timeout_s=max(0.0, timeout_s - accepted.queue_wait_s),
                slo_ttft_s=controls.slo_ttft_s,
                slo_total_s=controls.slo_total_s,
                attempt=number,
                prefix=shared.prefix,
                prefix_tokens=shared.tokens,
                may_hedge=may_hedge,
            )
            self.settlement.wait(accepted)
            try:
                grant = await self.placement.ask(request)
            finally:
                accepted.queue_wait_s += self.clock() - began
        accepted.grant = grant
        self.steps.add("place", self.clock() - began)
        return grant

    def _may_hedge(self, accepted: Accepted, number: int) -> bool:
        """Only where there is a choice, and where the first byte comes with the first token. Not a retry."""
        if not self.settings.hedges or number > 1 or len(accepted.resolved.candidates) < 2:
            return False
        return accepted.parsed.stream or accepted.parsed.capability not in GENERATES

    def _try(self, accepted: Accepted, grant: Grant, number: int) -> Try:
        endpoint = accepted.catalogue.endpoint[grant.place.endpoint_id]
        return Try(endpoint, grant, number, began := self.clock(), accepted.at(began))

    async def _attempt(
        self, accepted: Accepted, admitted: Admitted, grant: Grant, number: int, send: Send
    ) -> RelayResult | Fault:
        """One place, or two in a race. What was granted is given back on every way out, and each try is on record."""
        first = running = self._try(accepted, grant, number)
        accepted.ttft_s = None
        result: RelayResult | Fault | None = None
        try:
            if self._may_hedge(accepted, number):
                running, answer = await self._race(accepted, first)
            else:
                answer = await self._open(accepted, first)
            opened = self.clock()
            if isinstance(answer, Fault):
                result = answer
                return result
            accepted.first_token_at = _first_byte_at(running, answer)
            accepted.overhead_s = (first.sent_at - accepted.began) - accepted.queue_wait_s
            if _shows_first_token(accepted.parsed, answer):
                accepted.ttft_s = answer.first_byte_at - running.sent_at
                self.placement.first_token(running.grant, accepted.ttft_s)
            result = await self._relay(accepted, admitted, answer, running, send)
            self.steps.add("relay", self.clock() - opened)
            return result
        finally:
            self._give_back(accepted, running, result)

    async def _open(self, accepted: Accepted, tried: Try) -> WholeAnswer | StreamAnswer | Fault:
        """Asks the upstream, and waits for its first byte."""
        try:
            target = self._target(accepted, tried.endpoint, tried.grant)
        except (NoCapacity, UpstreamFailed) as error:
            return fault_of_error(error)
        self.settlement.open(accepted)
        accepted.forwarded_at = accepted.forwarded_at or tried.started_at
        body = upstream_body(accepted.parsed, tried.endpoint.upstream_model)
        tried.sent_at = self.clock()
        self.steps.add("open", tried.sent_at - tried.began)
        answer = await open_answer(self.transport, target, body, self._terms(accepted, tried.endpoint), self.clock)
        self.steps.add("upstream", self.clock() - tried.sent_at)
        return answer

    async def _race(self, accepted: Accepted, first: Try) -> tuple[Try, WholeAnswer | StreamAnswer | Fault]:
        """The place that answers first, of one or two; the request is served by that one from here on."""
        taken: list[Grant] = []

        def second_of(grant: Grant) -> Try:
            taken.append(grant)
            accepted.hedge_winner = "none"
            return self._try(accepted, grant, first.number + 1)

        async def opened(tried: Try) -> WholeAnswer | StreamAnswer | Fault:
            return await self._open(accepted, tried)

        def over(tried: Try, result: Fault | Outrun | None) -> None:
            self._give_back(accepted, tried, result)

        with self.placement.second_place(first.grant.request_id, accepted.resolved.prompt_tokens) as hedged:
            try:
                winner, answer = await first_byte(first, hedged, second_of, opened, over)
            finally:
                if hedged.done() and not taken:  # it came together with the first byte
                    unused = hedged.result()
                    self.placement.ended(unused, Ended(unused.request_id, ok=False, cancelled=True))
        accepted.grant = winner.grant
        if taken and not isinstance(answer, Fault):
            accepted.hedge_winner = "second" if winner.is_hedge else "first"
        return winner, answer

    async def _relay(
        self, accepted: Accepted, admitted: Admitted, answer: WholeAnswer | StreamAnswer, tried: Try, send: Send
    ) -> RelayResult:
        headers = self._headers(accepted, admitted, answer, tried)
        if isinstance(answer, WholeAnswer):
            return await answer.relay(send, headers, self.clock)
        self.streams[accepted.request_id] = accepted, answer
        try:
            return await answer.relay(send, headers, self.clock)
        finally:
            del self.streams[accepted.request_id]

    def note_progress(self) -> None:
        """Writes how far each running stream has come; called every quarter of a second."""
        for accepted, answer in self.streams.values():
            self.settlement.progress(accepted, answer.events.tokens)

    # ------------------------------------------------------------------ pieces

    def _target(self, accepted: Accepted, endpoint: Endpoint, grant: Grant) -> Target:
        if not self._is_private_enough(accepted, endpoint):
            raise NoCapacity("The place is not private enough any more: send the request again.", retry_after_s=1.0)
        path = accepted.route.removeprefix("/openai").removeprefix("/v1")
        if grant.place.engine_id is not None:
            if grant.address is None:
                raise NoCapacity("The engine's address is not known yet.", retry_after_s=1.0)
            return self.targets.engine(grant.address, path)
        access = self.directory.access.get(endpoint.provider_id)
        if access is None:
            raise DirectoryStale
        is_azure = accepted.catalogue.provider[endpoint.provider_id].kind == "azure"
        return self.targets.remote(access, path, endpoint.upstream_model if is_azure else None)

    def _is_private_enough(self, accepted: Accepted, endpoint: Endpoint) -> bool:
        """By the catalogue of now: it may have changed while the request waited for the place."""
        known = self.directory.catalogue.endpoint.get(endpoint.id)
        return known is None or known.privacy <= accepted.resolved.policy.privacy

    def _terms(self, accepted: Accepted, endpoint: Endpoint) -> Terms:
        tariff = self.settlement.tariff_of(accepted, endpoint)

        def charge_of(usage: Mapping[str, Any]) -> Charge:
            return charge(normalise(usage), tariff)

        return Terms(
            stream=accepted.parsed.stream,
            drop_usage=accepted.parsed.usage_is_forced,
            charge_of=charge_of if tariff else None,
            keep_bytes_max=FULL_ANSWER_BYTES_MAX if accepted.keeps_payloads else 0,
        )

    def _headers(
        self, accepted: Accepted, admitted: Admitted, answer: WholeAnswer | StreamAnswer, tried: Try
    ) -> HeaderList:
        catalogue, endpoint, grant = accepted.catalogue, tried.endpoint, tried.grant
        served_by = ServedBy(
            model=catalogue.model[endpoint.model_id].name,
            provider=catalogue.provider[endpoint.provider_id].name,
            tier=grant.tier.value,
            queue_ms=accepted.queue_wait_s * 1000,
            overhead_ms=(accepted.overhead_s or 0.0) * 1000,
            attempts=len(accepted.attempts) + 1,
            hedge_winner=accepted.hedge_winner,
            predicted_ttft_ms=None if grant.predicted_ttft_s is None else grant.predicted_ttft_s * 1000,
            charge=answer.charge if isinstance(answer, WholeAnswer) else None,
        )
        return response_headers(answer.headers, served_by, admitted.spent)

    def _give_back(self, accepted: Accepted, tried: Try, result: RelayResult | Fault | Outrun | None) -> None:
        """The one end of a try: its place is free, and what became of it is on record. None: the client left."""
        if tried.is_over:
            return
        tried.is_over = True
        total_s = self.clock() - tried.began
        relayed = result if isinstance(result, RelayResult) else None
        fault = result if isinstance(result, Fault) else None
        outrun = result if isinstance(result, Outrun) else None
        left = fault is None and (relayed is None or relayed.outcome is Outcome.CLIENT_LEFT)
        ok = relayed is not None and relayed.is_complete
        if relayed is not None and relayed.usage is not None:
            accepted.usage = normalise(relayed.usage)
        usage = accepted.usage or {}
        blamed = not ok and not left and (fault is None or fault.endpoint_fault)
        end = Ended(
            request_id=tried.grant.request_id,
            ok=ok,
            ttft_s=accepted.ttft_s if relayed is not None else None,
            total_s=total_s,
            prompt_tokens=usage.get("prompt", 0),
            completion_tokens=usage.get("completion", relayed.tokens if relayed is not None else 0),
            cancelled=left or (not ok and not blamed),  # a client's own mistake says nothing of the endpoint
            cached_tokens=usage.get("cached_prompt", 0),
            key_id=accepted.key.id if accepted.parsed.choices == 1 else None,
            output_tokens_max=accepted.parsed.max_output_tokens,
        )
        is_fresh = not may_be_shared(accepted.parsed.capability, accepted.parsed.body)
        self.placement.ended(
            tried.grant,
            end,
            fault=_reason(result) if blamed else None,
            retry_after_s=fault.retry_after_s if fault is not None else None,
            outrun=outrun is not None,
            is_typical=is_fresh or "cached_prompt" in usage,
        )
        if fault is not None and fault.retry_after_s is not None and tried.grant.lease_id is not None:
            self.placement.observe_limit(LimitObserved(0.0, tried.endpoint.id, 0, None, fault.retry_after_s))
        accepted.attempts.append(self._on_record(accepted, tried, result, total_s))

    def _on_record(
        self, accepted: Accepted, tried: Try, result: RelayResult | Fault | Outrun | None, total_s: float
    ) -> Attempt:
        endpoint = tried.endpoint
        outcome, first_byte_at, house_cost = Outcome.CLIENT_LEFT, None, Charge()
        http_status: int | None = None
        message: str | None = None
        match result:
            case RelayResult():
                outcome, http_status = result.outcome, result.http_status
                message = accepted.may_say(result.error_message, result.error_summary)
                first_byte_at = accepted.first_token_at
            case Fault():
                outcome, http_status = result.outcome, result.http_status
                message = accepted.may_say(result.message, result.summary)
            case Outrun():
                outcome = Outcome.OUTRUN
                if result.answer is not None:
                    first_byte_at = _first_byte_at(tried, result.answer)
                    house_cost = self.settlement.house_cost(
                        accepted, endpoint, result.answer.usage, result.answer.tokens
                    )
        return Attempt(
            number=tried.number,
            model_id=endpoint.model_id,
            provider_id=endpoint.provider_id,
            endpoint_id=endpoint.id,
            engine_id=tried.grant.place.engine_id,
            started_at=tried.started_at,
            first_byte_at=first_byte_at,
            ended_at=tried.started_at + total_s,
            outcome=outcome,
            http_status=http_status,
            error_message=message,
            is_hedge=tried.is_hedge,
            house_cost=house_cost,
        )


def _reason(result: RelayResult | Fault | Outrun | None) -> str:
    """Why a try failed, for the scheduler and its journal: in no words but ours."""
    match result:
        case Fault():
            return result.summary or result.message
        case RelayResult():
            return result.error_summary or result.error_message or "failed"
        case _:
            return "failed"


def _first_byte_at(tried: Try, answer: WholeAnswer | StreamAnswer) -> float:
    """Unix seconds."""
    return tried.started_at + (answer.first_byte_at - tried.began)


def _shows_first_token(parsed: ParsedRequest, answer: WholeAnswer | StreamAnswer) -> bool:
    """Whether its first byte came with its first token: that of a whole answer comes with the last."""
    return isinstance(answer, StreamAnswer) or parsed.capability not in GENERATES


def _outcome_of(error: LogosError) -> Outcome:
    if isinstance(error, UpstreamTimeout):
        return Outcome.UPSTREAM_TIMEOUT
    if isinstance(error, UpstreamFailed):
        return Outcome.UPSTREAM_ERROR
    if isinstance(error, NoCapacity):
        return Outcome.QUEUE_TIMEOUT if error.code == "queue_timeout" else Outcome.NO_CAPACITY
    if isinstance(error, ClientLeft):
        return Outcome.CLIENT_LEFT
    return Outcome.INTERNAL_ERROR
