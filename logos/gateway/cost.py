"""The usage of an answer: its cost written in, the one thing that Logos adds to what an upstream said, or left out.

Bytes are put in before the closing brace of the usage object, or its member is cut out; everything around them stays as
it was. What a token costs is billing's to say, and whether a client asked for usage is the caller's.
"""

from __future__ import annotations

import re
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


def without_usage(document: bytes) -> bytes:
    """`document` (JSON with a top-level usage object) without it."""
    raw = re.escape(bytes(_decode_usage(document).usage))
    rest = {name: value for name, value in _decode(document).items() if name != "usage"}
    # The same bytes may stand elsewhere too, so the place is right only if the document then says so.
    for found in re.finditer(rb'(,\s*)?"usage"\s*:\s*' + raw + rb"\s*(,\s*)?", document):
        between = b"," if found[1] and found[2] else b""
        candidate = document[: found.start()] + between + document[found.end() :]
        if _is(candidate, rest):
            return candidate
    return _encode(rest)


def _is(document: bytes, value: object) -> bool:
    try:
        return bool(_decode(document) == value)
    except msgspec.DecodeError:
        return False
