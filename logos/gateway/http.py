"""Small ASGI pieces that everything at the door shares: headers in, whole answers out.

Nothing here knows about models, keys or errors of Logos.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

# ASGI header names are lower case.
RequestHeaders = Mapping[bytes, bytes]
HeaderList = list[tuple[bytes, bytes]]

JSON_TYPE = (b"content-type", b"application/json")


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """A request's headers by name; of a repeated one the last. Made once a request, for everybody who looks."""
    return dict(scope["headers"])


def header_value(text: str) -> bytes:
    """`text` as it may stand in a header: whatever is not printable ASCII is percent-encoded as UTF-8."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return b"".join(_encoded(character) for character in text)


def _encoded(character: str) -> bytes:
    if character.isascii() and character.isprintable():
        return character.encode()
    return b"".join(b"%%%02X" % byte for byte in character.encode("utf-8", "surrogatepass"))


async def send_whole(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
    """A whole answer; its length is added here."""
    all_headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})


async def send_json(
    send: Send, document: object, *, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """A JSON answer of anything that msgspec encodes."""
    await send_whole(send, status, [JSON_TYPE, *headers], msgspec.json.encode(document))
