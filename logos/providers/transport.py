"""Bytes to an upstream and back: one aiohttp session per process, every foreign error as one of ours.

Nothing here knows what a model or a token is. Errors carry no URL, key or header, only what kind of failure it was:
`open` fails before any byte of the answer, `read_chunk` fails in the middle of it.

Stale connections. A server may close an idle connection at the moment a request is written to it. The request was
then never read, but for a POST the client library rightly refuses to guess. Here it is sent once more, on a fresh
connection, if the connection had been used before, not a byte of the answer came, and the end came within
`STALE_WITHIN_S` of sending. Completions have no effect beyond their cost, so the worst case (a server that began to
work and died at once) is work done twice, never a wrong answer. Anything later is for the caller to retry elsewhere.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
from aiohttp import http_exceptions
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict
from yarl import URL

from logos.domain.errors import LogosError, NoCapacity, UpstreamFailed, UpstreamTimeout

STALE_WITHIN_S = 1.0
ENCODINGS = frozenset({"", "identity"})

# What aiohttp and the operating system raise below `open` and `read_chunk`. RuntimeError: the session is closed.
FOREIGN_ERRORS = (
    aiohttp.ClientError,
    http_exceptions.HttpProcessingError,
    OSError,  # the builtin TimeoutError is one too
    ValueError,
    RuntimeError,
)


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Times an upstream may take. `first_byte_s` holds from sending to the first byte of the answer's body, and starts
    again at the headers; `total_s` counts from the first byte. With `connections_per_host_max` requests beyond it wait
    for a connection that is free again, within `connect_s`."""

    connect_s: float = 5.0
    first_byte_s: float = 300.0
    between_bytes_s: float = 120.0
    total_s: float = 3600.0
    keep_alive_s: float = 30.0
    connections_per_host_max: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """Where and how to call an endpoint, built once. `secrets` must never be seen in what a client is told."""

    url: URL = field(repr=False)
    headers: CIMultiDict[str] = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


class UpstreamResponse(Protocol):
    """An answer whose status and headers are there and whose body comes in chunks."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names compare without regard to case."""

    async def read_chunk(self) -> bytes:
        """What has arrived, waiting if nothing has; empty at the end. Raises UpstreamFailed or UpstreamTimeout."""

    def close(self) -> None:
        """Closes the connection unless the answer was read to its end: a half-read one must stop the upstream."""


class Transport(Protocol):
    """Sends one POST. Raises UpstreamFailed, UpstreamTimeout, or NoCapacity if this process is out of sockets."""

    async def open(self, target: Target, body: bytes) -> UpstreamResponse: ...


class AiohttpTransport:
    """The transport of a running gateway. Its session is made at the first use, inside the running loop."""

    def __init__(self, limits: TransportLimits | None = None) -> None:
        self._limits = limits or TransportLimits()
        self._session: aiohttp.ClientSession | None = None
        self._fresh_session: aiohttp.ClientSession | None = None

    async def open(self, target: Target, body: bytes) -> UpstreamResponse:
        session = self._session
        if session is None:
            session = self._session = self._new_session(reuse=True)
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        try:
            response = await _post(session, target, body)
        except (_Stale, aiohttp.ClientConnectionResetError) as error:
            if loop.time() - sent_at > STALE_WITHIN_S:
                raise domain_error(error) from None
            response = await self._open_fresh(target, body)
        except FOREIGN_ERRORS as error:
            raise domain_error(error) from None
        if response.headers.get("Content-Encoding", "").lower() not in ENCODINGS:
            response.close()
            raise UpstreamFailed("The model's endpoint answered in an encoding that it was not asked for.")
        return AiohttpResponse(response, self._limits)

    async def close(self) -> None:
        """Closes every connection, idle or not."""
        for session in (self._session, self._fresh_session):
            if session is not None:
                await session.close()
        self._session = self._fresh_session = None

    async def _open_fresh(self, target: Target, body: bytes) -> aiohttp.ClientResponse:
        """Over a connection of its own, which nobody uses again."""
        if self._fresh_session is None:
            self._fresh_session = self._new_session(reuse=False)
        try:
            return await _post(self._fresh_session, target, body)
        except FOREIGN_ERRORS as error:
            raise domain_error(error) from None

    def _new_session(self, *, reuse: bool) -> aiohttp.ClientSession:
        limits = self._limits
        per_host = limits.connections_per_host_max or 0  # which is no limit to aiohttp
        connector = (
            aiohttp.TCPConnector(limit=0, limit_per_host=per_host, keepalive_timeout=limits.keep_alive_s)
            if reuse
            else aiohttp.TCPConnector(limit=0, limit_per_host=per_host, force_close=True)
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            response_class=_Response,
            # The total is counted here, and only for answers that do not come at once: aiohttp's own way of counting
            # costs every request a tenth of what the whole call does.
            timeout=aiohttp.ClientTimeout(total=None, connect=limits.connect_s, sock_read=limits.first_byte_s),
        )


class AiohttpResponse:
    """An answer on its way in over aiohttp."""

    __slots__ = ("_began", "_body", "_deadline", "_limits", "_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse, limits: TransportLimits) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._body = response.content
        self._limits = limits
        self._began = False
        self._deadline: asyncio.TimerHandle | None = None

    async def read_chunk(self) -> bytes:
        try:
            chunk = await self._body.readany()
        except FOREIGN_ERRORS as error:
            raise domain_error(error) from None
        if not self._began:
            self._begin()
        elif not chunk and self._deadline is not None:
            self._deadline.cancel()
        return chunk

    def close(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._response.close()

    def _begin(self) -> None:
        """After the first bytes other times hold. Nothing to do if the whole answer is here already."""
        self._began = True
        connection = self._response.connection
        protocol = connection.protocol if connection is not None else None
        if protocol is not None:
            protocol.read_timeout = self._limits.between_bytes_s
            protocol.start_timeout()
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._limits.total_s, self._take_too_long)

    def _take_too_long(self) -> None:
        if not self._body.is_eof():
            self._body.set_exception(aiohttp.ServerTimeoutError())


class _Stale(aiohttp.ServerDisconnectedError):
    """A connection that had served before was closed before the first byte of this answer."""


# The body that each connection carries or carried last: a connection that is in here has served before.
_bodies: weakref.WeakKeyDictionary[ResponseHandler, aiohttp.StreamReader] = weakref.WeakKeyDictionary()


class _Response(aiohttp.ClientResponse):
    """Adds what aiohttp leaves out. A used connection that went away is told from an upstream that breaks, and a body
    whose framing breaks in the middle ends with an error (aiohttp 3.14 closes the connection but lets the reader wait).
    """

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        try:
            response = await super().start(connection)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if protocol in _bodies:
                raise _Stale from error
            raise
        if protocol is not None:
            if protocol not in _bodies and (closed := protocol.closed) is not None:
                closed.add_done_callback(functools.partial(_break_off, weakref.ref(protocol)))
            _bodies[protocol] = self.content
        return response


def _break_off(connection: weakref.ref[ResponseHandler], closed: asyncio.Future[None]) -> None:
    """Called when a connection has closed, for whatever reason."""
    if not closed.cancelled():
        closed.exception()  # looked at, so that nobody warns
    protocol = connection()
    body = _bodies.get(protocol) if protocol is not None else None
    if body is not None and not body.is_eof() and body.exception() is None:
        body.set_exception(aiohttp.ClientPayloadError("the connection closed before the body was complete"))


async def _post(session: aiohttp.ClientSession, target: Target, body: bytes) -> aiohttp.ClientResponse:
    return await session.request("POST", target.url, data=body, headers=target.headers, allow_redirects=False)


def domain_error(error: BaseException) -> LogosError:
    """What a foreign error means, in words that name neither host nor header. The order of the cases matters."""
    number = _errno(error)
    if number in {errno.EMFILE, errno.ENFILE}:
        # Ours, not the endpoint's: calling it an upstream error would take healthy endpoints out.
        return NoCapacity("This gateway has no file descriptors left for another connection.", code="no_descriptors")
    match error:
        case aiohttp.ConnectionTimeoutError():
            return UpstreamTimeout("The model's endpoint did not accept a connection in time.")
        case TimeoutError():
            return UpstreamTimeout()
        case aiohttp.ClientConnectorDNSError():
            return _failed("The model's endpoint could not be reached: its name is not known.", "upstream_unreachable")
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch():
            return _failed("The model's endpoint could not be reached: TLS failed.", "upstream_unreachable")
        case aiohttp.ClientConnectorError():
            reason = errno.errorcode.get(number, "no connection") if number else "no connection"
            return _failed(f"The model's endpoint could not be reached: {reason}.", "upstream_unreachable")
        case aiohttp.ClientPayloadError() | http_exceptions.PayloadEncodingError():
            return _failed("The model's endpoint broke off in the middle of its answer.", "upstream_broke_off")
        case aiohttp.ClientResponseError() | http_exceptions.HttpProcessingError():
            return _failed("The model's endpoint answered something that is not HTTP.", "upstream_garbage")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return _failed("The endpoint's URL is not one that can be called.", "upstream_misdeclared")
        case aiohttp.ClientConnectionError() | ConnectionError():
            return _failed("The model's endpoint closed the connection.", "upstream_disconnected")
        case _:
            return _failed(f"The model's endpoint could not be called ({type(error).__name__}).", "upstream_error")


def _failed(message: str, code: str) -> UpstreamFailed:
    return UpstreamFailed(message, code=code)


def _errno(error: BaseException) -> int | None:
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.errno
    return error.errno if isinstance(error, OSError) else None
