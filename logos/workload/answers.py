"""What one answer says, read from its bytes as they arrive: text, token times, usage, errors, whether it was whole.

Fed with bytes and the time at which they came; nothing is received here. Chunks are decoded to the few fields that
matter, which costs about a microsecond each, so that thousands of streams do not disturb each other's clocks.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import msgspec

ERROR_CHARACTERS_MAX = 300


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Part(msgspec.Struct):
    """A chunk of a stream, or a whole answer."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Part).decode


class AnswerReader:
    """One answer. `error` says why it is none; `is_whole` whether the server said that it was finished."""

    __slots__ = ("_parts", "_rest", "_times", "error", "is_whole", "usage")

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._times = array("d")
        self._rest = b""
        self.usage = _Usage()
        self.error: str | None = None
        self.is_whole = False

    @property
    def text(self) -> str:
        return "".join(self._parts)

    @property
    def first_at(self) -> float | None:
        return self._times[0] if self._times else None

    @property
    def last_at(self) -> float | None:
        return self._times[-1] if self._times else None

    def gaps(self) -> array[float]:
        """Times between pieces of text, in the clock's unit; pieces that came in one read are 0 apart."""
        return array("d", (self._times[i] - self._times[i - 1] for i in range(1, len(self._times))))

    def feed(self, data: bytes, at: float) -> None:
        """Bytes of a server-sent event stream."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), at)

    def whole(self, data: bytes) -> None:
        """An answer that was not streamed."""
        part = self._decoded(data)
        if part is not None:
            self._understand(part)
            self.is_whole = self.error is None

    def _event(self, data: bytes, at: float) -> None:
        if data == b"[DONE]":
            self.is_whole = True
            return
        part = self._decoded(data)
        if part is not None and self._understand(part):
            self._times.append(at)

    def _decoded(self, data: bytes) -> _Part | None:
        try:
            return _decode(data)
        except (msgspec.DecodeError, RecursionError):
            self.error = self.error or f"the server sent what is no answer: {_shown(data)}"
            return None

    def _understand(self, part: _Part) -> bool:
        """Whether there was any text in it."""
        if part.error is not None:
            self.error = self.error or _error_message(part.error)
        if part.usage is not None:
            self.usage = part.usage
        said = False
        for choice in part.choices or ():
            said |= self._keep(choice)
        return said

    def _keep(self, choice: _Choice) -> bool:
        if choice.finish_reason is not None:
            self.is_whole = True
        delta = choice.delta or choice.message
        pieces: Iterable[str | None] = (choice.text,)
        if delta is not None:
            pieces = (delta.reasoning_content or delta.reasoning, delta.content)
        found = [piece for piece in pieces if piece]
        self._parts += found
        return bool(found or (delta is not None and delta.tool_calls))


def error_text(body: bytes) -> str:
    """The message inside OpenAI's error shape, or the beginning of whatever else it is."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return _shown(body)
    error = found.get("error") if isinstance(found, dict) else None
    return _shown(body) if error is None else _error_message(error)


def _error_message(error: object) -> str:
    """Of an `error` field, which should be an object with a message and often is not."""
    message = error.get("message") if isinstance(error, dict) else error
    return _shown(str(message or error).encode("utf-8", "replace"))


def _shown(data: bytes) -> str:
    return " ".join(data[:ERROR_CHARACTERS_MAX].decode("utf-8", "replace").split()) or "(nothing)"
