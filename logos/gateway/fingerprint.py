"""The fingerprint of a prompt's shared beginning, so that the scheduler can send what belongs together to one engine.

A keyed hash that says nothing of what it was made from: only whoever knows the platform's secret salt could test a
guess. It names a conversation by its first turn, so that later turns of it have the same; the first turn of all that
share a system prompt has that prompt's. Nothing is stored here and nothing decided.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from logos.classification.prompts import chat_prompt

DIGEST_BYTES = 8
LARGEST = 2**63 - 1  # so that it fits into a signed 64-bit number everywhere

_encode = msgspec.json.Encoder().encode


class Beginning(NamedTuple):
    """A fingerprint, and the estimated tokens of everything before the last user message."""

    prefix: int | None = None
    tokens: int = 0


NOTHING = Beginning()


def may_be_shared(capability: str, body: Mapping[str, Any]) -> bool:
    """Whether others may have had an engine compute the beginning of this prompt before: it has one. Costs nothing."""
    messages = body.get("messages") if capability == "chat" else None
    return isinstance(messages, list) and len(messages) > 1


def beginning(capability: str, body: Mapping[str, Any], salt: bytes) -> Beginning:
    """Of a validated body. Only chats have turns; of others nothing is known to be shared."""
    messages = body.get("messages") if capability == "chat" else None
    if not isinstance(messages, list) or not salt:
        return NOTHING
    said_by_user = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    last = said_by_user[-1] if said_by_user else len(messages) - 1
    if last <= 0:
        return NOTHING
    first = said_by_user[0] if said_by_user else last
    named_by = messages[: min(first + 1, last)]
    tools = body.get("tools")
    digest = hashlib.blake2b(_encode((tools, named_by)), digest_size=DIGEST_BYTES, key=salt[:64]).digest()
    shared = {"messages": messages[:last], "tools": tools}
    return Beginning(int.from_bytes(digest) & LARGEST, chat_prompt(shared).tokens)
