"""What a record keeps of a request's and an answer's bytes: bodies without media and credentials, headers without
credentials and without what tells where the client is.

Works on the text as it is, never on its JSON, so that everything else stays; what is replaced leaves JSON valid.
Whether anything is kept at all is decided elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from logos.gateway.media import without_media
from logos.telemetry.logs import REDACTED, redact

# A member that is named like a secret, in JSON or in JSON inside a string (arguments of a tool call).
_MEMBER = re.compile(
    rb"(\"(?:(?:x[-_])?api[-_]?key|logos[-_]key|(?:proxy-)?authorization|password|passwd|(?:client[-_])?secret"
    rb"|(?:access|auth|refresh)[-_]?token)\\{0,3}\"\s{0,9}:\s{0,9}\\{0,3}\")([^\"\\]{4,}+)",
    re.IGNORECASE,
)
# Keys by their shape: how they begin is looked for first, for that costs little.
_BEGINNINGS = (b"lg-", b"sk-", b"sk_live_", b"gsk_", b"xai-", b"ghp_", b"AIza", b"Bearer ", b"bearer ")
_KEYS = {begun: re.compile(rb"(%s)(?<![A-Za-z0-9]%s)([\w.~+/=-]{16,}+)" % (begun, begun)) for begun in _BEGINNINGS}

# Names of headers that carry credentials, whatever their values look like, and of those that tell where a client is:
# that is `client_ip`'s to say, and only of a proxy that the operator has named.
_SECRET_NAMES = re.compile(rb"auth(?!or\b)|[-_]?key$|token|secret|passw|cookie|credential|signature")
_ADDRESS_NAMES = re.compile(rb"forwarded(?:-for)?$|(?:^|-|client)ip(?:v6)?$|external-address$|remote-addr")


def kept_payload(payload: bytes) -> str:
    """A body, or as much of it as there is."""
    kept = _MEMBER.sub(_redacted, without_media(payload))
    for begun, key in _KEYS.items():
        if begun in kept:
            kept = key.sub(_redacted_key, kept)
    return kept.decode("utf-8", "replace")


def kept_headers(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Every header's name, and the value where it may be known."""
    return {
        name.decode("latin-1"): REDACTED if _is_hidden(name) else redact(value.decode("latin-1"))
        for name, value in headers.items()
    }


def _redacted(found: re.Match[bytes]) -> bytes:
    return found[1] + REDACTED.encode()


def _redacted_key(found: re.Match[bytes]) -> bytes:
    """Words may begin like keys, but have no digits in them."""
    return _redacted(found) if _DIGIT.search(found[2]) else found[0]


_DIGIT = re.compile(rb"[0-9]")


def _is_hidden(name: bytes) -> bool:
    return _SECRET_NAMES.search(name) is not None or _ADDRESS_NAMES.search(name) is not None
