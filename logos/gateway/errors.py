"""Errors at the door: each class of the domain's tree as an HTTP status and OpenAI's error shape.

What a client is told is the error's own message, which is written for it. Everything unexpected becomes a 500 that
says nothing but the request id; the log gets the kind of exception and where it happened, never its text, which may
hold parts of a prompt. No stack trace, secret or upstream address leaves through here.
"""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from logos.domain import errors as tree
from logos.domain.errors import LogosError, UpstreamRefused
from logos.gateway.http import JSON_TYPE, HeaderList, Send, send_whole

log = logging.getLogger(__name__)


class Shown(NamedTuple):
    """How a class of errors looks from outside."""

    status: int
    type: str


SHOWN: dict[type[LogosError], Shown] = {
    LogosError: Shown(500, "server_error"),
    tree.BadRequest: Shown(400, "invalid_request_error"),
    tree.ContextTooLong: Shown(400, "invalid_request_error"),
    tree.BodyTooLarge: Shown(413, "invalid_request_error"),
    tree.UnsupportedMediaType: Shown(415, "invalid_request_error"),
    tree.UnknownPolicy: Shown(400, "invalid_request_error"),
    tree.NotAuthenticated: Shown(401, "authentication_error"),
    tree.NotPermitted: Shown(403, "permission_error"),
    tree.PrivacyForbids: Shown(403, "permission_error"),
    tree.UnknownModel: Shown(404, "invalid_request_error"),
    tree.NotFound: Shown(404, "invalid_request_error"),
    tree.MethodNotAllowed: Shown(405, "invalid_request_error"),
    tree.Conflict: Shown(409, "invalid_request_error"),
    tree.InvalidDeclaration: Shown(422, "invalid_request_error"),
    tree.InvalidWorkload: Shown(422, "invalid_request_error"),
    tree.LimitReached: Shown(429, "rate_limit_error"),
    tree.BudgetExhausted: Shown(402, "insufficient_quota"),
    tree.NoCapacity: Shown(503, "server_error"),
    tree.QueueTimeout: Shown(503, "server_error"),
    tree.UpstreamFailed: Shown(502, "upstream_error"),
    tree.UpstreamTimeout: Shown(504, "upstream_error"),
    tree.UpstreamRefused: Shown(502, "upstream_error"),
    tree.ClientLeft: Shown(499, "client_error"),
    tree.DatabaseUnavailable: Shown(503, "server_error"),
    tree.DirectoryStale: Shown(503, "server_error"),
    tree.EmbeddingUnavailable: Shown(503, "server_error"),
    tree.StaleEpoch: Shown(503, "server_error"),
    tree.EngineFailed: Shown(502, "server_error"),
}

# Some answers carry a header that their class demands even if nobody said how long.
RETRY_AFTER_DEFAULT_S = 1.0
_NEEDS_RETRY_AFTER = frozenset({429, 503})


class RefusedByUpstream(UpstreamRefused):
    """The model's endpoint refused this request."""

    # A refusal that the client can do something about: status and type are the endpoint's own. Lives inside one
    # gateway (the tree of the domain knows no HTTP), so it never crosses an actor call.
    http_status: int = 400
    type: str = "invalid_request_error"
    summary: str = ""  # without the upstream's words

    @classmethod
    def of(
        cls,
        status: int,
        message: str,
        *,
        summary: str = "The model's endpoint refused this request.",
        kind: str | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> RefusedByUpstream:
        error = cls(message, code=code, param=param, retry_after_s=retry_after_s)
        error.http_status, error.summary = status, summary
        error.type = kind or ("rate_limit_error" if status == 429 else "invalid_request_error")
        return error


def shown(error: LogosError) -> Shown:
    """Status and type of an error; a class of its own is shown as the nearest class above it."""
    if isinstance(error, RefusedByUpstream):
        return Shown(error.http_status, error.type)
    for kind in type(error).__mro__:
        found = SHOWN.get(kind)
        if found is not None:
            return found
    return SHOWN[LogosError]


def status_of(error: LogosError) -> int:
    return shown(error).status


def error_object(error: LogosError) -> dict[str, str | None]:
    """The inside of `{"error": ...}`. A message that is not text (an upstream's, say) is shown as text."""
    return {"message": str(error.message), "type": shown(error).type, "param": error.param, "code": error.code}


def error_body(error: LogosError) -> bytes:
    return msgspec.json.encode({"error": error_object(error)})


def error_headers(error: LogosError, status: int) -> HeaderList:
    """Retry-After in whole seconds, rounded up, where the status calls for it or the error knows."""
    wait_s = error.retry_after_s
    if wait_s is None and status in _NEEDS_RETRY_AFTER:
        wait_s = RETRY_AFTER_DEFAULT_S
    headers: HeaderList = [JSON_TYPE]
    if wait_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(wait_s))))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


async def send_error(send: Send, error: LogosError, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Answers with `error`. Only before anything else was sent."""
    status = status_of(error)
    await send_whole(send, status, [*error_headers(error, status), *headers], error_body(error))


def unexpected(error: BaseException, request_id: str) -> LogosError:
    """What the client is told of an exception that nobody expected, after the log was told where it happened."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("request %s failed: %s\n%s", request_id, type(error).__name__, frames)
    return LogosError(f"Something went wrong inside Logos; tell its operators the request id {request_id}.")


def stream_error(error: LogosError) -> bytes:
    """The one event that ends a stream which cannot go on, and the end that clients wait for."""
    return b"data: " + error_body(error) + b"\n\ndata: [DONE]\n\n"
