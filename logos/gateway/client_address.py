"""The client's address, for the record: known only behind proxies that the operator has named.

Without a named proxy nothing is stored. What the platform itself puts in front (HAProxy) is told of at the start: it
adds the address that connected to it to X-Forwarded-For and counts for nothing more, so a client that comes past the
named proxies cannot speak for one. Nothing else may depend on this address: it can be wrong.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from logos.domain.errors import InvalidDeclaration
from logos.gateway.http import Scope

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
FORWARDED_FOR = b"x-forwarded-for"


class TrustedProxies:
    """The networks whose X-Forwarded-For is believed. `front`: where the platform's own proxy connects from, if it has
    one that adds who connected to it; the connection's own address must then be one of these or a named one."""

    def __init__(self, proxies: Iterable[str], front: Iterable[str] = ()) -> None:
        """Raises InvalidDeclaration for what is neither an address nor a network."""
        self._named = tuple(map(_network, proxies))
        self._front = tuple(map(_network, front))

    def client_of(self, scope: Scope) -> str | None:
        """The last address that a trusted proxy was told of and that is not a trusted proxy itself; None where the
        request did not come through a trusted proxy."""
        if not self._named:
            return None
        way = self._way(scope)
        if not way or not _is_in(way[0], self._named):
            return None
        client = next((hop for hop in way if not _is_in(hop, self._named)), None)
        return None if client is None else str(client)

    def _way(self, scope: Scope) -> list[Address | None]:
        """Who passed the request on, the nearest first; None for what is no address."""
        peer = _address(scope["client"][0]) if scope.get("client") else None
        lines = [value for name, value in scope["headers"] if name == FORWARDED_FOR]
        told = [_address(hop) for hop in reversed(b",".join(lines).decode("latin-1").split(","))]
        if not self._front:
            return [peer, *told]
        return told if _is_in(peer, (*self._front, *self._named)) else []


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        message = f"server.trusted_proxies: '{text}' is neither an IP address nor a network like 10.0.0.0/8"
        raise InvalidDeclaration(message) from None


def _address(text: str) -> Address | None:
    """With a port or without; IPv4 inside IPv6 is IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: Address | None, networks: Iterable[Network]) -> bool:
    return address is not None and any(address in network for network in networks)
