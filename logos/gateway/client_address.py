"""The client's address, for the record: known only behind proxies that the operator has named.

Without a named proxy nothing is stored. Behind HAProxy the peer is HAProxy itself (loopback), which adds nothing, so an
operator who runs a proxy in front names both. Nothing else may depend on this address: it can be wrong.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from logos.domain.errors import InvalidDeclaration
from logos.gateway.http import Scope

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
FORWARDED_FOR = b"x-forwarded-for"


class TrustedProxies:
    """The networks whose X-Forwarded-For is believed."""

    def __init__(self, proxies: Iterable[str]) -> None:
        """Raises InvalidDeclaration for what is neither an address nor a network."""
        self._networks: list[Network] = []
        for proxy in proxies:
            try:
                self._networks.append(ipaddress.ip_network(proxy, strict=False))
            except ValueError:
                message = f"server.trusted_proxies: '{proxy}' is neither an IP address nor a network like 10.0.0.0/8"
                raise InvalidDeclaration(message) from None

    def client_of(self, scope: Scope, headers: Mapping[bytes, bytes]) -> str | None:
        """The last address that a trusted proxy was told of and that is not a trusted proxy itself."""
        if not self._networks:
            return None
        peer = scope.get("client")
        if peer is None or not self._trusts(peer[0]):
            return None
        for hop in reversed(headers.get(FORWARDED_FOR, b"").decode("latin-1").split(",")):
            address = hop.strip()
            if not _is_address(address):
                return None
            if not self._trusts(address):
                return address
        return None

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
