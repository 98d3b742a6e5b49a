"""Every error that aiohttp or the operating system can raise has a place in the tree of ours, and settings hold."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import os
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict
from yarl import URL

from logos.config import UpstreamSettings
from logos.domain.errors import NoCapacity, UpstreamFailed, UpstreamTimeout
from logos.providers.transport import FOREIGN_ERRORS, AiohttpTransport, Target, TransportLimits, domain_error

SECRET_HOST = "secret-host.example"
KEY = ConnectionKey(SECRET_HOST, 443, True, True, None, None, None)


def foreign_errors() -> list[BaseException]:
    """One of each."""
    request_info: Any = SimpleNamespace(real_url=URL(f"https://{SECRET_HOST}/v1"))
    found: list[BaseException] = []
    for module in (client_exceptions, http_exceptions):
        kinds = [kind for kind in vars(module).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
        found += [made(kind, request_info) for kind in kinds if kind.__module__ == module.__name__]
    codes = (errno.ECONNRESET, errno.EPIPE, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.EMFILE)
    found += [OSError(code, os.strerror(code), SECRET_HOST) for code in codes]
    return [*found, TimeoutError(), ValueError(SECRET_HOST), RuntimeError(SECRET_HOST), UnicodeError(SECRET_HOST)]


def made(kind: type[Exception], request_info: Any) -> Exception:
    """An instance with whatever its constructor asks for."""
    if issubclass(kind, aiohttp.ClientConnectorCertificateError):
        return kind(KEY, ValueError(SECRET_HOST))
    if issubclass(kind, client_exceptions.UnixClientConnectorError):
        return kind(SECRET_HOST, KEY, OSError(errno.ENOENT, SECRET_HOST))
    if issubclass(kind, aiohttp.ClientConnectorError):
        return kind(KEY, OSError(errno.ECONNREFUSED, SECRET_HOST))
    if issubclass(kind, aiohttp.ServerFingerprintMismatch):
        return kind(b"a", b"b", SECRET_HOST, 443)
    if issubclass(kind, aiohttp.ClientResponseError):
        return kind(request_info, (), status=400, message=SECRET_HOST)
    if issubclass(kind, http_exceptions.BadHttpMethod | http_exceptions.BadStatusLine):
        return kind(SECRET_HOST)
    if issubclass(kind, http_exceptions.LineTooLong):
        return kind(SECRET_HOST.encode(), 100)
    if issubclass(kind, http_exceptions.InvalidHeader):
        return kind(SECRET_HOST.encode())
    if issubclass(kind, http_exceptions.HttpProcessingError):
        return kind(message=SECRET_HOST)
    return kind(SECRET_HOST)


@pytest.mark.parametrize("error", foreign_errors(), ids=lambda error: type(error).__name__)
def test_every_foreign_error_is_caught_and_mapped_without_its_words(error: BaseException) -> None:
    if not isinstance(error, client_exceptions.WSMessageTypeError):  # no websockets go through here
        assert isinstance(error, FOREIGN_ERRORS)
    told = domain_error(error)
    assert isinstance(told, UpstreamFailed | NoCapacity)
    assert SECRET_HOST not in told.message
    assert SECRET_HOST not in repr(told)


def test_the_list_of_foreign_errors_is_not_empty() -> None:
    assert len(foreign_errors()) > 30


def test_timeouts_are_told_from_failures() -> None:
    assert isinstance(domain_error(aiohttp.SocketTimeoutError()), UpstreamTimeout)
    assert isinstance(domain_error(aiohttp.ConnectionTimeoutError()), UpstreamTimeout)
    assert isinstance(domain_error(TimeoutError()), UpstreamTimeout)
    assert not isinstance(domain_error(aiohttp.ServerDisconnectedError()), UpstreamTimeout)


def test_running_out_of_file_descriptors_is_not_the_endpoints_fault() -> None:
    for code in (errno.EMFILE, errno.ENFILE):
        wrapped = aiohttp.ClientConnectorError(KEY, OSError(code, "too many"))
        assert isinstance(domain_error(wrapped), NoCapacity)
        assert isinstance(domain_error(OSError(code, "too many")), NoCapacity)


def test_a_refused_connection_says_so() -> None:
    told = domain_error(aiohttp.ClientConnectorError(KEY, OSError(errno.ECONNREFUSED, "x")))
    assert "ECONNREFUSED" in told.message
    assert told.code == "upstream_unreachable"


def test_every_upstream_setting_is_a_limit_of_the_transport_with_the_same_default() -> None:
    assert TransportLimits(**UpstreamSettings().model_dump()) == TransportLimits()


@pytest.mark.parametrize(("connections_per_host_max", "open_at_once"), [(None, 3), (2, 2)])
async def test_no_more_connections_to_a_host_than_the_settings_say(
    connections_per_host_max: int | None, open_at_once: int
) -> None:
    settings = UpstreamSettings(connections_per_host_max=connections_per_host_max)
    arrived: asyncio.Queue[None] = asyncio.Queue()
    may_answer = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.put_nowait(None)
        await may_answer.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        target = Target(URL.build(scheme="http", host="127.0.0.1", port=port_of(server)), CIMultiDict())
        transport = AiohttpTransport(TransportLimits(**settings.model_dump()))
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(transport.close)
            opening = [asyncio.create_task(transport.open(target, b"")) for _ in range(3)]
            for _ in range(open_at_once):
                await arrived.get()
            await asyncio.sleep(0.05)
            assert arrived.empty()
            may_answer.set()
            for response in await asyncio.gather(*opening):
                assert await response.read_chunk() == b""
            assert arrived.qsize() == 3 - open_at_once


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port
