"""Whose address is stored: only what a proxy says that the operator has named."""

from __future__ import annotations

import pytest

from logos.domain.errors import InvalidDeclaration
from logos.gateway.client_address import TrustedProxies

LOOPBACK = ["127.0.0.0/8", "::1", "192.0.2.10"]  # and the machine's own: where the platform's own proxy comes from


def seen(proxies: list[str], peer: str | None, *forwarded: str, front: list[str] | None = None) -> str | None:
    """Each of `forwarded` is a line of the header."""
    scope = {
        "client": None if peer is None else (peer, 1),
        "headers": [(b"x-forwarded-for", line.encode()) for line in forwarded],
    }
    return TrustedProxies(proxies, front or []).client_of(scope)


def test_without_a_named_proxy_nothing_is_stored() -> None:
    assert seen([], "127.0.0.1", "203.0.113.9") is None
    assert seen([], "127.0.0.1", "203.0.113.9", front=LOOPBACK) is None


def test_a_peer_that_is_not_named_is_not_believed() -> None:
    assert seen(["10.0.0.0/8"], "203.0.113.1", "203.0.113.9") is None
    assert seen(["10.0.0.0/8"], None, "203.0.113.9") is None


def test_a_named_proxy_tells_the_address_and_a_client_cannot_add_one() -> None:
    assert seen(["10.0.0.0/8", "127.0.0.1"], "127.0.0.1", "198.51.100.7, 203.0.113.9, 10.1.1.1") == "203.0.113.9"
    assert seen(["10.0.0.0/8"], "10.1.1.1", "198.51.100.7", "203.0.113.9") == "203.0.113.9"
    assert seen(["::1"], "::1", "2001:db8::5") == "2001:db8::5"


def test_addresses_are_understood_with_a_port_and_as_ipv4_inside_ipv6() -> None:
    assert seen(["10.0.0.0/8"], "::ffff:10.0.0.1", "203.0.113.9:4711") == "203.0.113.9"
    assert seen(["10.0.0.0/8"], "10.0.0.1", "[2001:db8::5]:4711") == "2001:db8::5"


def test_nonsense_in_the_header_is_nobody() -> None:
    assert seen(["127.0.0.1"], "127.0.0.1", "<script>") is None
    assert seen(["127.0.0.1"], "127.0.0.1", "203.0.113.9, <script>") is None
    assert seen(["127.0.0.1"], "127.0.0.1") is None
    assert seen(["127.0.0.1"], "unix", "203.0.113.9") is None


def test_behind_the_platforms_own_proxy_the_address_that_it_adds_must_be_a_named_one() -> None:
    assert seen(["10.0.0.5"], "127.0.0.1", "203.0.113.9", "10.0.0.5", front=LOOPBACK) == "203.0.113.9"
    assert seen(["10.0.0.5"], "192.0.2.10", "198.51.100.7, 203.0.113.9", "10.0.0.5", front=LOOPBACK) == "203.0.113.9"


def test_a_client_that_comes_past_the_named_proxy_cannot_speak_for_it() -> None:
    forged = "198.51.100.7, 10.0.0.5"
    assert seen(["10.0.0.5"], "127.0.0.1", forged, "203.0.113.9", front=LOOPBACK) is None
    # past the platform's own proxy too, at a port of a replica
    assert seen(["10.0.0.5"], "203.0.113.9", forged, front=LOOPBACK) is None
    # from this machine, where the platform's own proxy comes from as well
    assert seen(["10.0.0.5"], "127.0.0.1", forged, "127.0.0.1", front=LOOPBACK) is None


def test_a_named_proxy_on_the_same_machine_is_told_from_the_platforms_own() -> None:
    assert seen(["127.0.0.1"], "127.0.0.1", "203.0.113.9", "127.0.0.1", front=LOOPBACK) == "203.0.113.9"
    assert seen(["127.0.0.1"], "127.0.0.1", "198.51.100.7, 203.0.113.9", "127.0.0.1", front=LOOPBACK) == "203.0.113.9"


def test_a_proxy_that_is_no_address_is_refused_at_the_start() -> None:
    with pytest.raises(InvalidDeclaration, match="'front'"):
        TrustedProxies(["front"])
