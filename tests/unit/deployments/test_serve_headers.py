"""The outermost middleware: what of a client's headers Serve gets to see."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.serve_headers import LogosRequestId

Pairs = list[tuple[bytes, bytes]]


async def seen_by_serve(*headers: tuple[bytes, bytes]) -> Pairs:
    seen: list[Any] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])

    await LogosRequestId(serve)({"type": "http", "headers": list(headers)}, None, None)
    (found,) = seen
    return found  # type: ignore[no-any-return]


async def test_the_request_id_is_logoss_own_and_the_clients_is_kept_beside_it() -> None:
    (name, value), *rest = await seen_by_serve((b"x-request-id", b"mine"), (b"x-logos-client-request-id", b"forged"))
    assert (name, len(value)) == (b"x-request-id", 36)
    assert rest == [(b"x-logos-client-request-id", b"mine")]


async def test_a_clients_own_request_id_is_kept_printable_and_of_bounded_length() -> None:
    (_, (_, kept)) = await seen_by_serve((b"x-request-id", b"a\x80\tb" + b"c" * 300))
    assert kept == b"a??b" + b"c" * 196


@pytest.mark.parametrize(
    "name",
    [
        *(b"x-request-timeout-seconds", b"x-request-disconnect-disabled"),
        *(b"serve_multiplexed_model_id", b"serve-multiplexed-model-id", b"Serve-Multiplexed_Model-Id"),
        *(b"x-session-id", b"x_session_id"),
    ],
)
async def test_what_serve_would_obey_or_try_to_read_does_not_reach_it(name: bytes) -> None:
    """Serve decodes some of them as UTF-8 before anything of Logos runs: bytes that are none would be its own 500."""
    (_, *rest) = await seen_by_serve((name, b"\xff"), (b"user-agent", b"tests"))
    assert rest == [(b"user-agent", b"tests")]
