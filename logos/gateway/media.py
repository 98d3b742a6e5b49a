"""Payloads as a record may keep them: without the bytes of images, audio and video, which nobody reads in a log.

Base64 data URLs of these kinds and the `data` of `input_audio` (what a client sends) and `audio` (what a model answers)
become a short note of what was there. Works on bytes, so everything else stays as it was, and answers that are streams,
cut off or no JSON at all are treated alike. Credentials are not looked for here.
"""

from __future__ import annotations

import re

_BASE64 = rb"(?:[A-Za-z0-9+/=_-]++|\\/|\\u002[BbFf])"
# Some encoders break lines. What follows a break belongs to it only if nothing else is on that line.
_BASE64_LINES = _BASE64 + rb"*+(?:(?:\\[rn])++" + _BASE64 + rb"*+(?=\\[rn]|\"|\Z))*"
_DATA_URL = re.compile(
    rb"data:((?:image|audio|video)\\?/[\w.+\\-]++)(?:;[^;,\"\\\s]*+)*?;base64,(" + _BASE64_LINES + rb")"
)

_STRING_BEGUN = rb"(?:[^\"\\]++|\\.)*+"
_STRING = rb"\"" + _STRING_BEGUN + rb"\""
# Up to 100 strings and what is between them: members that stand before `data`, in an object without objects inside.
_AUDIO = re.compile(
    rb"(\"(?:input_)?audio\"\s*+:\s*+\{(?:[^\"{}]++|"
    + _STRING
    + rb"){0,200}?\"data\"\s*+:\s*+\")("
    + _STRING_BEGUN
    + rb")",
    re.DOTALL,
)

_ESCAPED_BREAK = re.compile(rb"\\[rn]")
_ESCAPED = re.compile(rb"\\u[0-9A-Fa-f]{4}|\\/")


def without_media(payload: bytes) -> bytes:
    """`payload` with "[image/png, 1234 bytes]" or "[audio, 1234 bytes]" for each medium in it. Links stay."""
    if b";base64," in payload:
        payload = _DATA_URL.sub(_noted_url, payload)
    if b'audio"' in payload:
        payload = _AUDIO.sub(_noted_audio, payload)
    return payload


def _noted_url(found: re.Match[bytes]) -> bytes:
    return _note(found[1].replace(b"\\/", b"/"), found[2])


def _noted_audio(found: re.Match[bytes]) -> bytes:
    is_noted = found[2].startswith(b"[")
    return found[0] if is_noted else found[1] + _note(b"audio", found[2])


def _note(kind: bytes, base64: bytes) -> bytes:
    characters = _ESCAPED.sub(b"+", _ESCAPED_BREAK.sub(b"", base64)).rstrip(b"=")
    return b"[%s, %d bytes]" % (kind, len(characters) * 3 // 4)
