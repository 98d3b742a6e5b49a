"""How a client key is recognised: by a public prefix derived from its text, then by the SHA-256 digest of the whole.

Keys that Logos makes look like `lg-<12 hex>-<43 characters>`; their prefix is the part before the second dash. A key
that somebody chose (LOGOS_ROOT_KEY, `key: env:CI_KEY`) may look like anything, so its prefix is derived from a hash of
it. Making keys needs chance and does not live here; neither does any key itself.
"""

from __future__ import annotations

import hashlib
import re

PREFIX_HEX_DIGITS = 12
CHOSEN_KEY_LENGTH_MIN = 8
CHOSEN_KEY_LENGTH_MAX = 512

_MADE_BY_LOGOS = re.compile(rf"(lg-[0-9a-f]{{{PREFIX_HEX_DIGITS}}})-[A-Za-z0-9_-]{{43}}")
_SENDABLE = re.compile(r"[!-~]+")  # printable ASCII without spaces: what fits into a header


def key_prefix(key_text: str) -> str:
    """The public part under which a key is stored and found. Never empty, whatever a client sends."""
    made = _MADE_BY_LOGOS.fullmatch(key_text)
    if made is not None:
        return made.group(1)
    derived = hashlib.sha256(b"logos key prefix\0" + key_text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"own-{derived[:PREFIX_HEX_DIGITS]}"


def key_digest(key_text: str) -> bytes:
    """SHA-256 of the whole key: the only thing that is kept of it."""
    return hashlib.sha256(key_text.encode("utf-8", "surrogatepass")).digest()


def flaw_of_chosen(key_text: str) -> str | None:
    """Why somebody's own key cannot be used, without quoting it; None if it can."""
    if not CHOSEN_KEY_LENGTH_MIN <= len(key_text) <= CHOSEN_KEY_LENGTH_MAX:
        return f"a key has {CHOSEN_KEY_LENGTH_MIN} to {CHOSEN_KEY_LENGTH_MAX} characters, this one has {len(key_text)}"
    if _SENDABLE.fullmatch(key_text) is None:
        return "a key is printable ASCII without spaces, so that it can be sent in a header"
    return None
