"""An upstream's answer on its way to the client.

`open_answer` asks the upstream and waits until there is something worth telling: a whole answer, or the first event of
a stream. Until then nothing was sent to the client, so what goes wrong comes back as a `Fault`, a value, and the caller
may try elsewhere or answer with a real HTTP error. After the first byte an error can only be told in the stream.

The upstream's connection is closed on every way out on which the answer was not read to its end. Which upstream is
asked, what is retried and what is recorded is decided elsewhere; so are the response headers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from logos.domain.errors import LogosError, NoCapacity, UpstreamFailed
from logos.domain.lifecycle import Outcome
from logos.domain.records import Charge
from logos.gateway.cost import with_cost
from logos.gateway.errors import stream_error
from logos.gateway.faults import Fault, fault_of_error, garbage, hidden_error_status, refusal, refusal_in_stream
from logos.gateway.http import HeaderList, Send, send_whole
from logos.gateway.sse import ChargeOf, EventStream
from logos.providers.transport import Target, Transport, UpstreamResponse

FIRST_EVENT_BYTES_MAX = 1024 * 1024
ANSWER_BYTES_MAX = 512 * 1024 * 1024
REFUSAL_BYTES_MAX = 64 * 1024
REFUSAL_S_MAX = 1.0
END_AFTER_DONE_S = 1.0  # how long an upstream may take to end its answer once it said [DONE]

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for one answer, beside the bytes."""

    stream: bool  # the client asked for a stream
    drop_usage: bool = False  # the usage event was asked for by Logos only
    charge_of: ChargeOf | None = None  # usage -> charge; None or a charge without currency: no price
    keep_bytes_max: int = 0  # how much of the answer the record keeps (keys that log FULL)


@dataclass(frozen=True, slots=True)
class RelayResult:
    """What became of an answer. Times are the clock's that was given.

    `http_status` is what the client saw. `usage` is as the upstream reported it. `tokens` counts relayed events that
    carried text. `cancelled`: the request's task was cancelled, so the caller, having settled, must not go on.
    """

    outcome: Outcome
    http_status: int
    first_byte_at: float
    ended_at: float
    usage: Mapping[str, Any] | None = None
    tokens: int = 0
    bytes_sent: int = 0
    error_message: str | None = None
    error_summary: str | None = None  # without the upstream's words, where there are any in the message
    kept: bytes | None = field(default=None, repr=False)
    cancelled: bool = False

    @property
    def is_complete(self) -> bool:
        return self.outcome is Outcome.SUCCESS


class WholeAnswer:
    """An answer that is here to its last byte. `charge` is None without a price or without usage."""

    __slots__ = ("_terms", "body", "charge", "first_byte_at", "headers", "status", "usage")

    def __init__(
        self, upstream: UpstreamResponse, body: bytes, raw_usage: bytes, first_byte_at: float, terms: Terms
    ) -> None:
        self.status = upstream.status
        self.headers = upstream.headers
        self.first_byte_at = first_byte_at
        self.usage: Mapping[str, Any] | None = None
        self.charge: Charge | None = None
        self._terms = terms
        if raw_usage.startswith(b"{"):
            usage = self.usage = _decode(raw_usage)
            charge = terms.charge_of(usage) if terms.charge_of is not None else None
            if charge is not None and charge.currency is not None:
                self.charge = charge
                body = with_cost(body, charge)
        self.body = body

    async def relay(self, send: Send, headers: HeaderList, clock: Clock) -> RelayResult:
        """Sends it with these headers. Content type and length are the caller's and `send_whole`'s."""
        outcome, message, cancelled, bytes_sent = Outcome.SUCCESS, None, False, len(self.body)
        try:
            await send_whole(send, self.status, headers, self.body)
        except asyncio.CancelledError:
            outcome, message, cancelled, bytes_sent = Outcome.CLIENT_LEFT, CLIENT_LEFT, True, 0
        except OSError:
            outcome, message, bytes_sent = Outcome.CLIENT_LEFT, CLIENT_LEFT, 0
        keep = self._terms.keep_bytes_max
        return RelayResult(
            outcome=outcome,
            http_status=self.status,
            first_byte_at=self.first_byte_at,
            ended_at=clock(),
            usage=self.usage,
            bytes_sent=bytes_sent,
            error_message=message,
            kept=self.body[:keep] if keep else None,
            cancelled=cancelled,
        )

    @property
    def tokens(self) -> int:
        """Nobody counted them; they are in `usage`, or unknown."""
        return 0

    def close(self) -> None:
        """Nothing is open any more; here so that both kinds of answers are closed alike."""


CLIENT_LEFT = "The client closed its connection."
EMPTY = "The model's endpoint ended its answer before it had begun."
TRUNCATED = "The model's endpoint ended its answer before it was complete."


class StreamAnswer:
    """A stream whose first event is here. `events` tells, while it runs, what has been relayed so far."""

    __slots__ = (
        "_bytes_sent",
        "_first",
        "_kept",
        "_secrets",
        "_terms",
        "_upstream",
        "events",
        "first_byte_at",
        "headers",
        "status",
    )

    def __init__(
        self,
        upstream: UpstreamResponse,
        events: EventStream,
        first: bytes,
        first_byte_at: float,
        terms: Terms,
        secrets: tuple[str, ...],
    ) -> None:
        self.status = upstream.status
        self.headers = upstream.headers
        self.events = events
        self.first_byte_at = first_byte_at
        self._upstream = upstream
        self._first = first
        self._terms = terms
        self._secrets = secrets
        self._bytes_sent = 0
        self._kept = bytearray()

    async def relay(self, send: Send, headers: HeaderList, clock: Clock) -> RelayResult:
        """Sends the stream to its end, whatever the end is. Raises nothing that the upstream or the client did."""
        try:
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            fault = await self._pass_on(send)
            if fault is None:
                return self._result(clock, Outcome.SUCCESS)
            await self._end_with(send, fault.error)
            return self._result(clock, fault.outcome, fault.message, fault.summary)
        except asyncio.CancelledError:
            return self._result(clock, Outcome.CLIENT_LEFT, CLIENT_LEFT, cancelled=True)
        except OSError:
            return self._result(clock, Outcome.CLIENT_LEFT, CLIENT_LEFT)
        finally:
            self._upstream.close()

    @property
    def usage(self) -> Mapping[str, Any] | None:
        """As the upstream reported it, if it has."""
        return self.events.usage

    @property
    def tokens(self) -> int:
        """Events with text that have come so far."""
        return self.events.tokens

    def close(self) -> None:
        """Gives the stream up; the upstream stops."""
        self._upstream.close()

    async def _pass_on(self, send: Send) -> Fault | None:
        """Bytes as they come, until the end. Returns what broke it, if something did."""
        feed, read_chunk, keep = self.events.feed, self._upstream.read_chunk, self._terms.keep_bytes_max
        out = self._first
        try:
            while True:
                if out:
                    if keep:
                        self._keep(out)
                    self._bytes_sent += len(out)
                    await send({"type": "http.response.body", "body": out, "more_body": True})
                if self.events.done:
                    await self._read_to_end()
                    break
                if self.events.error is not None:
                    break
                chunk = await read_chunk()
                if not chunk:
                    break
                out = feed(chunk)
        except LogosError as error:
            return fault_of_error(error)
        out = self.events.end()
        fault = self._fault()
        if fault is None:
            await self._send_last(send, out)
        elif out:
            self._bytes_sent += len(out)
            await send({"type": "http.response.body", "body": out, "more_body": True})
        return fault

    def _fault(self) -> Fault | None:
        """An end that is none: an error event, or neither [DONE] nor any finish_reason."""
        events = self.events
        if events.error is not None:
            return refusal_in_stream(events.error, self.headers, self._secrets)
        if not events.done and not events.finished:
            return fault_of_error(UpstreamFailed(TRUNCATED, code="upstream_broke_off"))
        return None

    async def _read_to_end(self) -> None:
        """After [DONE] only the end can come. Read, so that the connection can be used again, but not waited for."""
        try:
            async with asyncio.timeout(END_AFTER_DONE_S):
                while await self._upstream.read_chunk():
                    pass
        except (TimeoutError, LogosError):
            self._upstream.close()

    async def _send_last(self, send: Send, out: bytes) -> None:
        if out and self._terms.keep_bytes_max:
            self._keep(out)
        self._bytes_sent += len(out)
        await send({"type": "http.response.body", "body": out, "more_body": False})

    async def _end_with(self, send: Send, failure: LogosError) -> None:
        """One error event and the [DONE] that clients wait for, unless they had that already."""
        # The blank lines end whatever event was cut off.
        ending = b"" if self.events.done else b"\n\n" + stream_error(failure)
        await self._send_last(send, ending)

    def _keep(self, out: bytes) -> None:
        room = self._terms.keep_bytes_max - len(self._kept)
        if room > 0:
            self._kept += out[:room]

    def _result(
        self,
        clock: Clock,
        outcome: Outcome,
        message: str | None = None,
        summary: str | None = None,
        *,
        cancelled: bool = False,
    ) -> RelayResult:
        return RelayResult(
            outcome=outcome,
            http_status=self.status,
            first_byte_at=self.first_byte_at,
            ended_at=clock(),
            usage=self.events.usage,
            tokens=self.events.tokens,
            bytes_sent=self._bytes_sent,
            error_message=message,
            error_summary=summary,
            kept=bytes(self._kept) if self._terms.keep_bytes_max else None,
            cancelled=cancelled,
        )


class _Outline(msgspec.Struct):
    """The top level of a whole answer: what tells success from error, unparsed."""

    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    object: msgspec.Raw = msgspec.Raw()
    choices: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()

    def error_in(self, body: bytes) -> Any:
        """The error of an answer that has nothing else to say. vLLM's older one has no `error` around it."""
        if bytes(self.choices) or bytes(self.data):
            return None
        raw = bytes(self.error) or (body if bytes(self.object) == b'"error"' else b"")
        return _decode(raw) if raw else None


_decode_outline = msgspec.json.Decoder(_Outline).decode
_decode = msgspec.json.Decoder().decode


async def open_answer(
    transport: Transport, target: Target, body: bytes, terms: Terms, clock: Clock
) -> WholeAnswer | StreamAnswer | Fault:
    """Asks the upstream and waits for a whole answer or the first event of a stream.

    Never raises for what an upstream does. If it is cancelled (the client left), the upstream's connection is closed.
    """
    try:
        upstream = await transport.open(target, body)
    except (UpstreamFailed, NoCapacity) as error:
        return fault_of_error(error)
    try:
        opened = await _first_words(upstream, target, terms, clock)
    except LogosError as error:
        upstream.close()
        return fault_of_error(error, http_status=upstream.status)
    except BaseException:
        upstream.close()
        raise
    if isinstance(opened, Fault):
        upstream.close()
    return opened


async def _first_words(
    upstream: UpstreamResponse, target: Target, terms: Terms, clock: Clock
) -> WholeAnswer | StreamAnswer | Fault:
    if upstream.status != 200:
        return refusal(upstream.status, upstream.headers, await _read_begin(upstream), target.secrets)
    content_type = upstream.headers.get("content-type", "")
    if content_type.startswith("text/event-stream"):
        return await _first_event(upstream, target, terms, clock)
    return await _whole(upstream, target, terms, clock)


async def _whole(upstream: UpstreamResponse, target: Target, terms: Terms, clock: Clock) -> WholeAnswer | Fault:
    first = await upstream.read_chunk()
    first_byte_at = clock()
    body = first + await _read(upstream, ANSWER_BYTES_MAX) if first else b""
    try:
        outline = _decode_outline(body)
        error = outline.error_in(body)
        if error:
            return refusal(hidden_error_status(error), upstream.headers, body, target.secrets)
        return WholeAnswer(upstream, body, bytes(outline.usage), first_byte_at, terms)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return fault_of_error(garbage(), http_status=upstream.status)


async def _first_event(upstream: UpstreamResponse, target: Target, terms: Terms, clock: Clock) -> StreamAnswer | Fault:
    """Reads until there is an event with data. Comments before it are kept for the client, not sent alone."""
    events = EventStream(drop_usage=terms.drop_usage, charge_of=terms.charge_of)
    first = b""
    while not events.events and not events.done and events.error is None:
        chunk = await upstream.read_chunk()
        if not chunk:
            first += events.end()
            break
        first += events.feed(chunk)
        if not _may_be_events(first) or len(first) + len(chunk) > FIRST_EVENT_BYTES_MAX:
            return fault_of_error(garbage(), http_status=upstream.status)
    if events.error is not None and not events.tokens:
        return refusal_in_stream(events.error, upstream.headers, target.secrets)
    if not _may_be_events(first):
        return fault_of_error(garbage(), http_status=upstream.status)
    if not events.events:
        return fault_of_error(UpstreamFailed(EMPTY, code="upstream_broke_off"), http_status=upstream.status)
    return StreamAnswer(upstream, events, first, clock(), terms, target.secrets)


def _may_be_events(begun: bytes) -> bool:
    """Whether these lines can begin a stream of events."""
    begun = begun.removeprefix(_BYTE_ORDER_MARK).lstrip(b"\r\n")
    return not begun or begun.startswith(_EVENT_STARTS)


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_EVENT_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")


async def _read(upstream: UpstreamResponse, bytes_max: int) -> bytes:
    """Everything that is left. Raises UpstreamFailed if that is more than `bytes_max`."""
    parts: list[bytes] = []
    size = 0
    while chunk := await upstream.read_chunk():
        size += len(chunk)
        if size > bytes_max:
            raise UpstreamFailed("The model's endpoint answered with more than this gateway accepts.")
        parts.append(chunk)
    return b"".join(parts)


async def _read_begin(upstream: UpstreamResponse) -> bytes:
    """As much of a refusal as can be worth telling. Its status is there, so its words are not waited for long."""
    begun = b""
    with contextlib.suppress(TimeoutError, LogosError):
        async with asyncio.timeout(REFUSAL_S_MAX):
            while len(begun) < REFUSAL_BYTES_MAX and (chunk := await upstream.read_chunk()):
                begun += chunk
    return begun
