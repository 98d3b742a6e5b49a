"""Who is calling: the key directory, in memory.

Keys arrive and go through the accounts actor (`gateway.directory`); here they are only looked up. A lookup costs one
SHA-256 of some fifty bytes and two dictionary accesses, about two microseconds, so nothing verified is cached and a
revocation holds from the moment it is applied. The text of a key is never kept.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from logos.domain.errors import DirectoryStale, NotAuthenticated
from logos.domain.keys import key_digest, key_prefix
from logos.domain.nouns import Key
from logos.gateway.http import RequestHeaders

KEY_BYTES_MAX = 512  # longer than any key; what is longer is not hashed

# In this order; the first that is there and not empty decides, so that a wrong key is never made good by another.
_PLAIN_BEFORE_BEARER = (b"logos_key", b"logos-key")
_PLAIN_AFTER_BEARER = (b"x-api-key", b"api-key")


class KeyDirectory:
    """Keys by public prefix. Two keys may share a prefix; the digest decides."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._by_id: dict[int, Key] = {}
        self._by_prefix: dict[str, tuple[Key, ...]] = {}
        self.replace(keys)

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, key_id: int) -> Key | None:
        """The key as it is now: None once it was revoked."""
        return self._by_id.get(key_id)

    def replace(self, keys: Iterable[Key]) -> None:
        """From now on exactly these keys."""
        self._by_id = {}
        self._by_prefix = {}
        self.update(keys, ())

    def update(self, keys: Iterable[Key], removed_key_ids: Iterable[int]) -> None:
        """Adds or replaces `keys` by id (a rotated key has another prefix), then removes."""
        for key in keys:
            self._remove(key.id)
            self._by_id[key.id] = key
            self._by_prefix[key.prefix] = (*self._by_prefix.get(key.prefix, ()), key)
        for key_id in removed_key_ids:
            self._remove(key_id)

    def find_or_none(self, text: str) -> Key | None:
        """The key with this text."""
        for key in self._by_prefix.get(key_prefix(text), ()):
            if hmac.compare_digest(key.digest, key_digest(text)):
                return key
        return None

    def authenticate(self, headers: RequestHeaders, *, unix_now: float, stale: bool = False) -> Key:
        """The caller's key. `stale`: the directory could not be confirmed lately, so no key can be accepted or
        refused. Raises NotAuthenticated or DirectoryStale."""
        text = key_text(headers)
        if text is None:
            raise NotAuthenticated
        if stale:
            raise DirectoryStale
        key = self.find_or_none(text) if len(text) <= KEY_BYTES_MAX else None
        if key is None:
            raise NotAuthenticated("This API key is not valid here.")
        if key.expires_at is not None and unix_now >= key.expires_at:
            raise NotAuthenticated("This API key has expired.", code="expired_api_key")
        return key

    def _remove(self, key_id: int) -> None:
        old = self._by_id.pop(key_id, None)
        if old is None:
            return
        rest = tuple(key for key in self._by_prefix[old.prefix] if key.id != key_id)
        if rest:
            self._by_prefix[old.prefix] = rest
        else:
            del self._by_prefix[old.prefix]


def is_stale(now: float, confirmed_at: float, stale_after_s: float) -> bool:
    """Whether a directory last confirmed at `confirmed_at` may no longer be relied on, on one monotonic clock."""
    return now - confirmed_at > stale_after_s


def key_text(headers: RequestHeaders) -> str | None:
    """The key that a request carries, if any."""
    for name in _PLAIN_BEFORE_BEARER:
        value = headers.get(name)
        if value and (text := value.strip()):
            return _text(text)
    value = headers.get(b"authorization")
    if value and value[:7].lower() == b"bearer " and (text := value[7:].strip()):
        return _text(text)
    for name in _PLAIN_AFTER_BEARER:
        value = headers.get(name)
        if value and (text := value.strip()):
            return _text(text)
    return None


def _text(value: bytes) -> str:
    """Bytes that are no UTF-8 belong to no key of ours, and must not break the lookup either."""
    return value.decode("utf-8", "backslashreplace")
