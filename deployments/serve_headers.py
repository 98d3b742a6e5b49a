"""The outermost middleware of Serve's proxy and replicas: the request id is ours, Serve's headers are not a client's.

Serve obeys `x-request-id`, `x-request-timeout-seconds` and `x-request-disconnect-disabled` from any client, and echoes
the first. Two more choose a replica, for a multiplexed model or a session; Serve answers 500 by itself where these are
no UTF-8. Here the client's are taken out, and a fresh Logos id takes the place of `x-request-id`, so that Serve's echo
is the one `x-request-id` of the answer. Named by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logos.gateway.asgi import CLIENT_REQUEST_ID_HEADER, client_request_id, new_request_id

if TYPE_CHECKING:
    from starlette.middleware import Middleware

# With hyphens: Serve takes underscores for the same.
_OBEYED_BY_SERVE = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve-multiplexed-model-id",
        b"x-session-id",
        CLIENT_REQUEST_ID_HEADER,
    }
)


class LogosRequestId:
    """Replaces the headers before anything else sees them."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = [(b"x-request-id", new_request_id().encode("ascii"))]
            for name, value in scope["headers"]:
                if name == b"x-request-id":
                    headers.append((CLIENT_REQUEST_ID_HEADER, client_request_id(value)))
                elif name.lower().replace(b"_", b"-") not in _OBEYED_BY_SERVE:
                    headers.append((name, value))
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """What Serve calls at start."""
    from starlette.middleware import Middleware

    return [Middleware(LogosRequestId)]
