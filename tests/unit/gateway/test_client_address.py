"""Whose address is stored: only what a proxy says that the operator has named."""

from __future__ import annotations

import pytest

from logos.domain.errors import InvalidDeclaration
from logos.gateway.client_address import TrustedProxies


def seen(proxies: list[str], peer: str | None, forwarded: str | None) -> str | None:
    scope = {"client": None if peer is None else (peer, 1)}
    headers = {} if forwarded is None else {b"x-forwarded-for": forwarded.encode()}
    return TrustedProxies(proxies).client_of(scope, headers)


def test_without_a_named_proxy_nothing_is_stored() -> None:
    assert seen([], "127.0.0.1", "203.0.113.9") is None


def test_a_peer_that_is_not_named_is_not_believed() -> None:
    assert seen(["10.0.0.0/8"], "203.0.113.1", "203.0.113.9") is None
    assert seen(["10.0.0.0/8"], None, "203.0.113.9") is None


def test_a_named_proxy_tells_the_address_and_a_client_cannot_add_one() -> None:
    assert seen(["10.0.0.0/8", "127.0.0.1"], "127.0.0.1", "198.51.100.7, 203.0.113.9, 10.1.1.1") == "203.0.113.9"
    assert seen(["::1"], "::1", "2001:db8::5") == "2001:db8::5"


def test_nonsense_in_the_header_is_nobody() -> None:
    assert seen(["127.0.0.1"], "127.0.0.1", "<script>") is None
    assert seen(["127.0.0.1"], "127.0.0.1", None) is None
    assert seen(["127.0.0.1"], "unix", "203.0.113.9") is None


def test_a_proxy_that_is_no_address_is_refused_at_the_start() -> None:
    with pytest.raises(InvalidDeclaration, match="'front'"):
        TrustedProxies(["front"])
