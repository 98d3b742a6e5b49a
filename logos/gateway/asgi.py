"""The root of the gateway: hot routes as plain ASGI, everything else to the app behind (admin, me, docs).

Gives every request its id, turns every error into an answer, and decides nothing else. A hot route costs one dictionary
access here; FastAPI's routing, validation and middleware are for routes that a person calls.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from logos.domain.errors import ClientLeft, LogosError, MethodNotAllowed
from logos.gateway.errors import send_error, unexpected
from logos.gateway.http import ASGIApp, HeaderList, Message, Receive, Scope, Send
from logos.gateway.models import ModelsPage

REQUEST_ID = "logos.request_id"  # key of the ASGI scope
REQUEST_ID_HEADER = b"x-request-id"
CLIENT_REQUEST_ID_HEADER = b"x-logos-client-request-id"
CLIENT_REQUEST_ID_CHARACTERS_MAX = 200

MODELS_PATHS = ("/v1/models", "/openai/models")
EXPOSED_HEADERS = (
    "x-request-id",
    *(f"x-logos-{name}" for name in ("model", "provider", "tier", "queue-ms", "predicted-ttft-ms", "overhead-ms")),
    *(f"x-logos-{name}" for name in ("attempts", "hedge-winner", "cost", "cost-currency")),
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
)


# Hot routes and what they ask of a model. The paths are those that follow /v1, at the upstream too.
CAPABILITIES = {"/chat/completions": "chat", "/completions": "completions", "/embeddings": "embeddings"}


class Flow(Protocol):
    """The way of one request (`gateway.flow`). Raises LogosError only while nothing was sent."""

    async def serve(self, scope: Scope, receive: Receive, send: Send, capability: str, request_id: str) -> None: ...


class Root:
    """The ASGI app of one gateway.

    `id_is_given`: an outer middleware (`deployments.serve_headers`) has made the request id, put it into the request's
    x-request-id and will see it returned; otherwise it is made and returned here, and the client's is kept aside.
    """

    def __init__(self, flow: Flow, models: ModelsPage, app: ASGIApp, *, id_is_given: bool = False) -> None:
        self._flow = flow
        self._models = models
        self._app = app
        self._id_is_given = id_is_given
        self._hot = {
            prefix + path: capability for prefix in ("/v1", "/openai") for path, capability in CAPABILITIES.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = self._identify(scope)
        outgoing = _Outgoing(send, None if self._id_is_given else request_id)
        try:
            await self._serve(scope, receive, outgoing.send, request_id)
        except LogosError as error:
            await self._answer(outgoing, error)
        except Exception as error:  # the boundary of a request: whatever it was, the client is answered
            told = unexpected(error, request_id)
            if outgoing.started:
                # Half an answer must not look like a whole one, so the server is left to break the connection.
                raise
            await self._answer(outgoing, told)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        path: str = scope["path"]
        capability = self._hot.get(path)
        if capability is not None:
            if scope["method"] != "POST":
                raise _NotAllowed("POST")
            await self._flow.serve(scope, receive, send, capability, request_id)
            return
        for models_path in MODELS_PATHS:
            if path == models_path or path.startswith(f"{models_path}/"):
                if scope["method"] != "GET":
                    raise _NotAllowed("GET")
                await self._models.serve(scope, receive, send, path[len(models_path) + 1 :] or None)
                return
        await self._app(scope, receive, send)

    async def _answer(self, outgoing: _Outgoing, error: LogosError) -> None:
        if outgoing.started or isinstance(error, ClientLeft):
            return
        headers: HeaderList = [(b"allow", error.allow)] if isinstance(error, _NotAllowed) else []
        await send_error(outgoing.send, error, headers)

    def _identify(self, scope: Scope) -> str:
        """The request id, also put into the scope. A client's own goes on as CLIENT_REQUEST_ID_HEADER."""
        if self._id_is_given:
            request_id = next((value for name, value in scope["headers"] if name == REQUEST_ID_HEADER), b"").decode()
        else:
            request_id = new_request_id()
            scope["headers"] = [_renamed(pair) for pair in scope["headers"] if pair[0] != CLIENT_REQUEST_ID_HEADER]
        scope[REQUEST_ID] = request_id
        return request_id


def _renamed(pair: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    return (CLIENT_REQUEST_ID_HEADER, client_request_id(pair[1])) if pair[0] == REQUEST_ID_HEADER else pair


def client_request_id(value: bytes) -> bytes:
    """A client's x-request-id as it is kept: of bounded length, and printable."""
    text = value[:CLIENT_REQUEST_ID_CHARACTERS_MAX].decode("latin-1")
    return "".join(each if each.isprintable() else "?" for each in text).encode("latin-1")


class _NotAllowed(MethodNotAllowed):
    """This method is not allowed here."""

    def __init__(self, *allowed: str) -> None:
        super().__init__(f"This method is not allowed here; allowed: {', '.join(allowed)}.")
        self.allow = ", ".join(allowed).encode()


class _Outgoing:
    """What is sent for one request: knows whether an answer has begun, and adds the request id to its start."""

    __slots__ = ("_request_id", "_send", "started")

    def __init__(self, send: Send, request_id: str | None) -> None:
        self._send = send
        self._request_id = request_id
        self.started = False

    def send(self, message: Message) -> Awaitable[None]:
        """Not a coroutine of its own: every chunk of every stream passes here."""
        if not self.started:
            self.started = True
            if self._request_id is not None:
                message = {**message, "headers": [*message["headers"], (REQUEST_ID_HEADER, self._request_id.encode())]}
        return self._send(message)


def new_request_id(now_ns: Callable[[], int] = time.time_ns) -> str:
    """A UUID of version 7: in order of time, so that indexes stay compact, and 74 random bits."""
    milliseconds = now_ns() // 1_000_000
    chance = int.from_bytes(os.urandom(10), "big")
    number = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | 7 << 76 | (chance & 0xFFF) << 64 | 2 << 62 | chance >> 18
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def with_cors(app: ASGIApp, origins: Sequence[str]) -> Any:
    """`app` as it is, unless origins are configured: then browsers from there may call it."""
    if not origins:
        return app
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["*"],
        expose_headers=list(EXPOSED_HEADERS),
    )
