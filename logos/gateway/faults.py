"""Attempts that failed before anything reached the client: what they mean for the client, the endpoint and a retry.

Decides from the upstream's status and words alone; whether there is another endpoint to try is not known here. What a
client is told never holds the upstream's key or address, and a refusal of Logos's own key is never shown as one of the
client's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from logos.domain.errors import LogosError, NoCapacity, UpstreamFailed, UpstreamTimeout
from logos.domain.lifecycle import Outcome
from logos.domain.text import storable_text
from logos.gateway.errors import RefusedByUpstream

MESSAGE_CHARACTERS_MAX = 1000
RETRY_AFTER_S_MAX = 3600.0

# Refusals that are about what the client sent: shown as they are, and not tried elsewhere.
_CLIENTS_OWN = frozenset({400, 413, 422})
# Shown as they are, but another endpoint may well accept.
_SHOWN_AND_RETRIED = frozenset({404, 429})

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an attempt failed. `error` is what the client is told if nothing else helps, `message` what full records say.

    `summary` is that without the upstream's words, for these may repeat what the client sent; None: `message` has none.
    `http_status` is the upstream's, None if it never said one. `endpoint_fault`: counts against the endpoint's health.
    """

    error: LogosError
    message: str
    summary: str | None = None
    http_status: int | None = None
    may_retry: bool = True
    endpoint_fault: bool = True
    retry_after_s: float | None = None

    @property
    def outcome(self) -> Outcome:
        if isinstance(self.error, UpstreamTimeout):
            return Outcome.UPSTREAM_TIMEOUT
        return Outcome.NO_CAPACITY if isinstance(self.error, NoCapacity) else Outcome.UPSTREAM_ERROR


def fault_of_error(error: LogosError, *, http_status: int | None = None) -> Fault:
    """A fault of the transport: no connection, no answer in time, broken off. Being out of sockets is our own."""
    return Fault(error, error.message, None, http_status, endpoint_fault=isinstance(error, UpstreamFailed))


def refusal(status: int, headers: Mapping[str, str], body: bytes, secrets: tuple[str, ...]) -> Fault:
    """An answer that is an error: by its status, or one that said 200 and held an error."""
    said = _said(body, secrets)
    words = _short(said.message or f"The model's endpoint answered {status}.")
    summary: str | None = _summary(status, said)
    retry_after_s = _retry_after_s(headers) if status in {429, 503} else None
    if status in _CLIENTS_OWN or status in _SHOWN_AND_RETRIED:
        error: LogosError = RefusedByUpstream.of(
            status,
            words,
            summary=_summary(status, said),
            kind=said.type,
            code=said.code,
            param=said.param,
            retry_after_s=retry_after_s,
        )
    elif status in {401, 403}:
        error = UpstreamFailed("The model's endpoint does not accept the key that Logos has for it.")
        words, summary = f"the endpoint refused Logos's own key ({status})", None
    elif status in {408, 504}:
        error = UpstreamTimeout()
    else:
        error = UpstreamFailed(f"The model's endpoint answered with an error ({status}).")
    return Fault(
        error,
        words,
        summary,
        http_status=status,
        may_retry=status not in _CLIENTS_OWN,
        endpoint_fault=status not in _CLIENTS_OWN,
        retry_after_s=retry_after_s,
    )


def refusal_in_stream(error: object, headers: Mapping[str, str], secrets: tuple[str, ...]) -> Fault:
    """An error event of a stream, in whatever shape it came."""
    return refusal(hidden_error_status(error), headers, msgspec.json.encode({"error": error}), secrets)


def garbage() -> UpstreamFailed:
    """An answer that is not what the protocol says."""
    return UpstreamFailed(
        "The model's endpoint answered something that is not what was asked for.", code="upstream_garbage"
    )


def hidden_error_status(error: object) -> int:
    """The status that an error inside a 200 answer stands for: its own `code` if that is one, else 502."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isascii() and code.isdigit():
        code = int(code)
    return code if type(code) is int and 400 <= code <= 599 else 502


@dataclass(frozen=True, slots=True)
class _Said:
    """An error in the upstream's words."""

    message: str | None = None
    type: str | None = None
    code: str | None = None
    param: str | None = None


def _said(body: bytes, secrets: tuple[str, ...]) -> _Said:
    """OpenAI's shape, vLLM's older one without `error` around it, FastAPI's `detail`, or no shape at all. Without what
    belongs to the endpoint."""
    try:
        document = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Said()
    if not isinstance(document, dict):
        return _Said()
    inner: Any = document.get("error") or document
    if not isinstance(inner, dict):
        return _Said(message=_text_or_none(inner, secrets))
    message = inner.get("message") or inner.get("detail")
    if message is not None and not isinstance(message, str):
        message = msgspec.json.encode(message).decode()
    kind, code, param = (_text_or_none(inner.get(name), secrets) for name in ("type", "code", "param"))
    return _Said(_without(secrets, message) if message else None, kind, code, param)


def _summary(status: int, said: _Said) -> str:
    """What may be said of a refusal where content is not kept."""
    name = next((each for each in (said.code, said.type) if each is not None and _NAME.fullmatch(each)), None)
    return f"The model's endpoint answered {status}{f' ({name})' if name else ''}."


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


def _text_or_none(value: object, secrets: tuple[str, ...]) -> str | None:
    return storable_text(_without(secrets, value))[:200] if isinstance(value, str) and value else None


def _without(secrets: tuple[str, ...], text: str) -> str:
    """`text` without what belongs to the endpoint, and without what is left of a URL around it."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, _HIDDEN)
    return _HIDDEN_URL.sub(_HIDDEN, text)


def _short(message: str) -> str:
    """Of bounded length, storable, and without keys that an upstream echoes in part."""
    return storable_text(_KEY_LIKE.sub(_HIDDEN, message)[:MESSAGE_CHARACTERS_MAX])


_HIDDEN = "[hidden]"
_HIDDEN_URL = re.compile(r"https?://(?:[^\s/@\"']*@)?\[hidden\](?:[^\s\"'<>()\[\]]|\[hidden\])*", re.IGNORECASE)
_KEY_LIKE = re.compile(r"\b(?:sk|lg|key)-[A-Za-z0-9_*.-]{8,}")


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds only: the date form is rare, and would need a clock that agrees with the upstream's."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_S_MAX) if math.isfinite(seconds) else None
