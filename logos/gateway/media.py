"""Payloads as a record may keep them: without the bytes of images, audio, video and files, which nobody reads in a log.

Base64 data URLs of these kinds (not of texts, which are read) and the members that carry such bytes without a URL
become a short note of what was there: `data` of `input_audio` (what a client sends) and `audio` (what a model answers),
`file_data`, `b64_json`, and `data` of `source` and `inline_data` as other providers name them. Works on bytes, so
everything else stays as it was, and answers that are streams, cut off or no JSON at all are treated alike. Credentials
are not looked for here.
"""

from __future__ import annotations

import re

_BASE64 = rb"(?:[A-Za-z0-9+/=_-]++|\\/|\\u002[BbFf])"
# Some encoders break lines. What follows a break belongs to it only if nothing else is on that line.
_BASE64_LINES = _BASE64 + rb"*+(?:(?:\\[rn])++" + _BASE64 + rb"*+(?=\\[rn]|\"|\Z))*"
# No parameter has a colon in it, so a search ends where the next data URL begins.
_DATA_URL = re.compile(
    rb"data:((?:image|audio|video|application|font|model)\\?/[\w.+\\-]++)(?:;[^;:,\"\\\s]*+)*?;base64,("
    + _BASE64_LINES
    + rb")"
)

_STRING_BEGUN = rb"(?:[^\"\\]++|\\.)*+"
_STRING = rb"\"" + _STRING_BEGUN + rb"\""
# Up to 100 strings and what is between them: members that stand before `data`, in an object without objects inside.
_DATA = re.compile(
    rb"(\"((?:input_)?audio|source|inline_?[dD]ata)\"\s*+:\s*+\{(?:[^\"{}]++|"
    + _STRING
    + rb"){0,200}?\"data\"\s*+:\s*+\")("
    + _STRING_BEGUN
    + rb")",
    re.DOTALL,
)

_NAMES_OF_DATA = (b'audio"', b'"source"', b'"inline')

_FILE = re.compile(rb"(\"(?:file_data|b64_json)\"\s*+:\s*+\")(" + _STRING_BEGUN + rb")", re.DOTALL)
_IS_BASE64 = re.compile(_BASE64_LINES)
SOURCE_BYTES_MIN = 64  # a shorter `data` of a source may well be a word

_ESCAPED_BREAK = re.compile(rb"\\[rn]")
_ESCAPED = re.compile(rb"\\u[0-9A-Fa-f]{4}|\\/")


def without_media(payload: bytes) -> bytes:
    """`payload` with "[image/png, 1234 bytes]" or "[audio, 1234 bytes]" for each medium in it. Links stay."""
    if b";base64," in payload:
        payload = _DATA_URL.sub(_noted_url, payload)
    if b'"file_data"' in payload or b'"b64_json"' in payload:
        payload = _FILE.sub(_noted_file, payload)
    if any(name in payload for name in _NAMES_OF_DATA):
        payload = _DATA.sub(_noted_data, payload)
    return payload


def _noted_url(found: re.Match[bytes]) -> bytes:
    return _note(found[1].replace(b"\\/", b"/"), found[2])


def _noted_file(found: re.Match[bytes]) -> bytes:
    is_noted = found[2].startswith(b"[")
    return found[0] if is_noted else found[1] + _note(b"file", found[2].rpartition(b"base64,")[2])


def _noted_data(found: re.Match[bytes]) -> bytes:
    _, name, data = found.groups()
    if data.startswith(b"["):
        return found[0]
    if name.endswith(b"audio"):
        return found[1] + _note(b"audio", data)
    is_bytes = len(data) >= SOURCE_BYTES_MIN and _IS_BASE64.fullmatch(data) is not None
    return found[1] + _note(b"file", data) if is_bytes else found[0]


def _note(kind: bytes, base64: bytes) -> bytes:
    characters = _ESCAPED.sub(b"+", _ESCAPED_BREAK.sub(b"", base64)).rstrip(b"=")
    return b"[%s, %d bytes]" % (kind, len(characters) * 3 // 4)
