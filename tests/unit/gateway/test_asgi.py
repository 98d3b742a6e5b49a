"""The root: ids, hot routes, methods, and an answer for every error."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from logos.domain.catalogue import Catalogue
from logos.domain.errors import ClientLeft, LimitReached
from logos.domain.keys import key_digest, key_prefix
from logos.domain.nouns import Endpoint, Key, Model, Privacy, Provider
from logos.gateway.asgi import CAPABILITIES, CLIENT_REQUEST_ID_HEADER, REQUEST_ID, Root, new_request_id, with_cors
from logos.gateway.auth import KeyDirectory
from logos.gateway.http import Message, Receive, Scope, Send, send_json
from logos.gateway.models import ModelsPage
from tests.support.door import DirectoryStandIn, app_behind

TEXT = "a-key-of-somebody"


@dataclass
class FlowStandIn:
    """Does what it is told, once."""

    act: Callable[[Send], Awaitable[None]] | None = None
    served: list[tuple[str, str, dict[bytes, bytes]]] = field(default_factory=list)

    async def serve(self, scope: Scope, receive: Receive, send: Send, capability: str, request_id: str) -> None:
        self.served.append((capability, request_id, dict(scope["headers"])))
        if self.act is not None:
            await self.act(send)
        else:
            await send_json(send, {"ok": True})


@dataclass
class Got:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        found = [value for each, value in self.headers if each == name]
        assert len(found) <= 1, f"{name!r} is there {len(found)} times"
        return found[0] if found else None

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.body)["error"]  # type: ignore[no-any-return]


def raising(error: BaseException) -> Callable[[Send], Awaitable[None]]:
    async def act(send: Send) -> None:
        raise error

    return act


CATALOGUE = Catalogue(
    models=(
        Model(1, "small", context_length_tokens=4096),
        Model(2, "org/large"),
        Model(3, "homeless"),
        Model(4, "forbidden"),
    ),
    providers=(Provider(1, "remote", "openai", Privacy.LOCAL),),
    endpoints=tuple(Endpoint(number, number, 1, Privacy.LOCAL, "x") for number in (1, 2, 4)),
)
CALLER = Key(1, "k", key_prefix(TEXT), key_digest(TEXT), model_ids=frozenset({1, 2, 3}))


def root_of(flow: FlowStandIn | None = None, *, confirmed_at: float = 0.0, id_is_given: bool = False) -> Root:
    directory = DirectoryStandIn(CATALOGUE, KeyDirectory([CALLER]), confirmed_at)
    page = ModelsPage(directory, stale_after_s=5.0, clock=lambda: 100.0, wall_clock=lambda: 0.0)
    return Root(flow or FlowStandIn(), page, app_behind, id_is_given=id_is_given)


async def call(root: Any, method: str, path: str, headers: list[tuple[bytes, bytes]] | None = None) -> Got:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}"}

    scope = {"type": "http", "method": method, "path": path, "headers": headers or [], "query_string": b""}
    await root(scope, receive, send)
    if not sent:
        return Got(0, [], b"")
    start, *rest = sent
    return Got(start["status"], list(start["headers"]), b"".join(each.get("body", b"") for each in rest))


@pytest.mark.parametrize("prefix", ["/v1", "/openai"])
@pytest.mark.parametrize("path", CAPABILITIES)
async def test_the_hot_routes_and_their_aliases_reach_the_flow(prefix: str, path: str) -> None:
    flow = FlowStandIn()
    got = await call(root_of(flow), "POST", prefix + path)
    assert got.status == 200
    [(capability, request_id, _)] = flow.served
    assert capability == CAPABILITIES[path]
    assert got.header(b"x-request-id") == request_id.encode()


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", b"POST"),
        ("OPTIONS", "/openai/embeddings", b"POST"),
        ("POST", "/v1/models", b"GET"),
        ("DELETE", "/v1/models/small", b"GET"),
    ],
)
async def test_another_method_is_a_405_that_says_which(method: str, path: str, allow: bytes) -> None:
    got = await call(root_of(), method, path)
    assert (got.status, got.header(b"allow")) == (405, allow)
    assert got.error["code"] == "method_not_allowed"


async def test_everything_else_goes_to_the_app_behind_with_an_id() -> None:
    got = await call(root_of(), "GET", "/admin/models")
    assert json.loads(got.body) == {"behind": "/admin/models"}
    assert got.header(b"x-request-id")


async def test_a_clients_request_id_is_kept_aside_and_changes_nothing() -> None:
    flow = FlowStandIn()
    headers = [(b"x-request-id", b"mine\x07" + b"x" * 500), (CLIENT_REQUEST_ID_HEADER, b"forged")]
    got = await call(root_of(flow), "POST", "/v1/embeddings", headers)
    [(_, request_id, seen)] = flow.served
    assert seen[CLIENT_REQUEST_ID_HEADER].startswith(b"mine?xxx")
    assert len(seen[CLIENT_REQUEST_ID_HEADER]) == 200
    assert b"x-request-id" not in seen
    assert got.header(b"x-request-id") == request_id.encode() != b"mine"


async def test_an_id_given_from_outside_is_used_and_left_to_be_returned_there() -> None:
    flow = FlowStandIn()
    headers = [(b"x-request-id", b"given"), (CLIENT_REQUEST_ID_HEADER, b"mine")]
    got = await call(root_of(flow, id_is_given=True), "POST", "/v1/embeddings", headers)
    [(_, request_id, seen)] = flow.served
    assert (request_id, seen[CLIENT_REQUEST_ID_HEADER]) == ("given", b"mine")
    assert got.header(b"x-request-id") is None


async def test_an_error_of_the_tree_is_an_answer() -> None:
    got = await call(root_of(FlowStandIn(raising(LimitReached(retry_after_s=3)))), "POST", "/v1/embeddings")
    assert (got.status, got.header(b"retry-after")) == (429, b"3")
    assert got.header(b"x-request-id")


async def test_a_client_that_left_is_told_nothing() -> None:
    got = await call(root_of(FlowStandIn(raising(ClientLeft()))), "POST", "/v1/embeddings")
    assert got.status == 0


async def test_the_unexpected_is_a_500_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        got = await call(root_of(), "GET", "/broken")
    assert got.status == 500
    request_id = got.header(b"x-request-id")
    assert request_id is not None
    assert request_id.decode() in got.error["message"]
    assert b"secret" not in got.body
    assert b"Traceback" not in got.body
    assert request_id.decode() in caplog.text


async def test_an_error_after_the_answer_began_breaks_it_off() -> None:
    async def half(send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await call(root_of(FlowStandIn(half)), "POST", "/v1/embeddings")


async def test_a_cancellation_is_passed_on() -> None:
    with pytest.raises(asyncio.CancelledError):
        await call(root_of(FlowStandIn(raising(asyncio.CancelledError()))), "POST", "/v1/embeddings")


async def test_lifespan_goes_to_the_app_behind() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    root = Root(FlowStandIn(), root_of()._models, app)
    await root({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]


BEARER = [(b"authorization", b"Bearer " + TEXT.encode())]


@pytest.mark.parametrize("prefix", ["/v1", "/openai"])
async def test_the_models_are_those_the_key_may_use_and_that_run_somewhere(prefix: str) -> None:
    got = await call(root_of(confirmed_at=99.0), "GET", f"{prefix}/models", BEARER)
    told = json.loads(got.body)
    assert told["object"] == "list"
    assert [(each["id"], each["max_model_len"]) for each in told["data"]] == [("small", 4096), ("org/large", None)]
    one = await call(root_of(confirmed_at=99.0), "GET", f"{prefix}/models/org/large", BEARER)
    assert json.loads(one.body)["id"] == "org/large"


@pytest.mark.parametrize("name", ["homeless", "forbidden", "nowhere"])
async def test_unknown_and_forbidden_models_are_told_in_the_same_words(name: str) -> None:
    got = await call(root_of(confirmed_at=99.0), "GET", f"/v1/models/{name}", BEARER)
    assert got.status == 404
    assert name not in got.error["message"]


async def test_models_need_a_key_that_can_be_confirmed() -> None:
    assert (await call(root_of(confirmed_at=99.0), "GET", "/v1/models")).status == 401
    assert (await call(root_of(confirmed_at=90.0), "GET", "/v1/models", BEARER)).status == 503


def test_request_ids_are_uuids_of_version_7_in_order_of_time() -> None:
    made = [new_request_id(lambda at=at: at) for at in (10**18, 10**18 + 10**6, 2 * 10**18)]  # type: ignore[misc]
    assert made == sorted(made)
    assert all(uuid.UUID(each).version == 7 and uuid.UUID(each).variant == uuid.RFC_4122 for each in made)
    assert len({new_request_id(lambda: 10**18) for _ in range(1000)}) == 1000


async def test_cors_is_off_by_default_and_on_for_configured_origins() -> None:
    root = root_of()
    assert with_cors(root, ()) is root
    origin = [(b"origin", b"https://a.example")]
    allowed = await call(with_cors(root, ("https://a.example",)), "GET", "/admin", origin)
    assert allowed.header(b"access-control-allow-origin") == b"https://a.example"
    assert b"x-request-id" in (allowed.header(b"access-control-expose-headers") or b"")
    other = await call(with_cors(root, ("https://b.example",)), "GET", "/admin", origin)
    assert other.header(b"access-control-allow-origin") is None


async def test_the_request_id_is_in_the_scope_for_everybody() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await send_json(send, {})

    got = await call(Root(FlowStandIn(), root_of()._models, app), "GET", "/me")
    assert scopes[0][REQUEST_ID].encode() == got.header(b"x-request-id")
