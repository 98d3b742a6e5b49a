"""Every error that aiohttp or the operating system can raise has a place in the tree of ours."""

from __future__ import annotations

import errno
import inspect
import os
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from logos.domain.errors import NoCapacity, UpstreamFailed, UpstreamTimeout
from logos.providers.transport import FOREIGN_ERRORS, domain_error

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
