"""The cost of an answer, written into its usage: the one thing that Logos adds to what an upstream said.

Bytes are put in before the closing brace of the usage object; everything around them stays as it was. What a token
costs is billing's to say.
"""

from __future__ import annotations

from typing import Any

import msgspec

from logos.billing.cost import format_cost
from logos.domain.records import Charge


class _Usage(msgspec.Struct):
    """The top level of an answer of which only the usage is read."""

    usage: msgspec.Raw = msgspec.Raw()


_decode_usage = msgspec.json.Decoder(_Usage).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def with_cost(document: bytes, charge: Charge) -> bytes:
    """`document` (JSON with a top-level usage object) with `usage.cost` and `usage.cost_currency`.

    A cost that the upstream put there is replaced: what this platform charges is what its client is told.
    """
    raw = bytes(_decode_usage(document).usage)
    usage: dict[str, Any] = _decode(raw)
    added = {"cost": msgspec.Raw(format_cost(charge).encode()), "cost_currency": charge.currency}
    if added.keys() & usage.keys():
        new = _encode({**usage, **added})
    else:
        new = raw[:-1] + (b"," if usage else b"") + _encode(added)[1:]
    # The same bytes may stand elsewhere too, so the place is right only if the document then says so.
    at = document.rfind(raw)
    while at >= 0:
        candidate = document[:at] + new + document[at + len(raw) :]
        if bytes(_decode_usage(candidate).usage) == new:
            return candidate
        at = document.rfind(raw, 0, at + len(raw) - 1)
    return _encode({**_decode(document), "usage": msgspec.Raw(new)})
