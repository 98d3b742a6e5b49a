"""What a stream of server-sent events says on its way past: usage, tokens, the end; and the two changes to it.

Bytes are the upstream's own, line by line as they come: nothing is re-framed or re-encoded. Two changes are made, and
only these: usage that Logos asked for and the client did not is left out, with its event where that holds nothing
else; and where the endpoint has a price, `cost` and `cost_currency` are added to the usage that is passed on. The bytes
around them stay as they are. An error event ends what goes on; the relay tells it in words that are fit for a client.

A line that is not complete yet is held back until the rest of it is there. No client can act on half a line, and a
stream that breaks in the middle of one can still end with an error that is readable. Lines longer than `LINE_BYTES_MAX`
are passed on as they come.

Ordinary chunks are never parsed: a few searches for bytes tell that they hold nothing but text. In JSON a quote inside
a string is escaped, so `"usage"` in the bytes is a key (or a whole string), never a part of what the model wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from logos.domain.records import Charge
from logos.gateway.cost import with_cost, without_usage

LINE_BYTES_MAX = 1024 * 1024

# An event with one of these carries no text: the role that opens a stream, the finish that ends it.
_EMPTY = (b'"content":""', b'"content": ""', b'"text":""', b'"text": ""', b'"delta":{}', b'"delta": {}')

_REASONING = (b'"reasoning":"', b'"reasoning": "', b'"reasoning_content":"', b'"reasoning_content": "')

_ERROR_EVENT = (b"event: error", b"event:error")

ChargeOf = Callable[[Mapping[str, Any]], Charge]

_decode = msgspec.json.Decoder().decode


class EventStream:
    """Reads one stream on its way past. `feed` returns what may go on to the client now.

    `usage` is the last one reported; `tokens` counts events that carried text, which is what a stream that was cut
    off is charged by; `done` is [DONE], `finished` any finish_reason. `error` is that of the first error event, in
    whatever shape it came: neither it nor anything after it goes on, for it may name the upstream or its key.
    """

    __slots__ = (
        "_charge_of",
        "_drop_usage",
        "_dropped_line",
        "_error_event",
        "_overlong",
        "_tail",
        "charge",
        "done",
        "error",
        "events",
        "finished",
        "tokens",
        "usage",
    )

    def __init__(self, *, drop_usage: bool = False, charge_of: ChargeOf | None = None) -> None:
        self._drop_usage = drop_usage
        self._charge_of = charge_of
        self._tail = b""
        self._overlong = False
        self._dropped_line = False
        self._error_event = False
        self.usage: Mapping[str, Any] | None = None
        self.charge: Charge | None = None
        self.tokens = 0
        self.events = 0
        self.done = False
        self.finished = False
        self.error: object = None

    def feed(self, chunk: bytes) -> bytes:
        """Takes in what arrived and returns what goes on: whole lines."""
        if self.error is not None:
            return b""
        if self._overlong:
            return self._feed_overlong(chunk)
        if self._tail:
            chunk = self._tail + chunk
            self._tail = b""
        rest = b""
        if not chunk.endswith(b"\n"):
            end = chunk.rfind(b"\n") + 1
            rest, chunk = chunk[end:], chunk[:end]
            if len(rest) <= LINE_BYTES_MAX:
                self._tail, rest = rest, b""
            else:
                self._overlong = True
        if self._is_ordinary(chunk):
            self._count(chunk)
            return chunk + rest if rest else chunk
        passed = b"".join(map(self._line, chunk.splitlines(keepends=True)))
        return passed + rest if rest and self.error is None else passed

    def end(self) -> bytes:
        """The upstream ended properly: what was held back goes on too."""
        line, self._tail = self._tail, b""
        return self._line(line) if line else b""

    def _feed_overlong(self, chunk: bytes) -> bytes:
        end = chunk.find(b"\n") + 1
        if not end:
            return chunk
        self._overlong = False
        self.events += 1
        self.tokens += 1
        return chunk[:end] + self.feed(chunk[end:])

    def _is_ordinary(self, chunk: bytes) -> bool:
        """Whether these lines hold neither usage nor error nor end."""
        if b"[DONE]" in chunk or b'"error"' in chunk or b"event: error" in chunk or b"event:error" in chunk:
            return False
        if self._dropped_line or self._error_event:
            return False
        usages = chunk.count(b'"usage"')
        return not usages or usages == chunk.count(b'"usage":null') + chunk.count(b'"usage": null')

    def _count(self, lines: bytes) -> None:
        """Events, and those of them that carry text. A newline in JSON is always the end of a line."""
        events = lines.count(b"\ndata:") + lines.startswith(b"data:")
        if not events:
            return
        self.events += events
        if not self.finished and (b'"finish_reason":"' in lines or b'"finish_reason": "' in lines):
            self.finished = True
        if b'""' not in lines and b"{}" not in lines:
            self.tokens += events
        elif events == 1:
            self.tokens += not _is_empty(lines)
        else:
            events_apart = [line for line in lines.split(b"\n") if line.startswith(b"data:")]
            self.tokens += sum(not _is_empty(event) for event in events_apart)

    def _line(self, line: bytes) -> bytes:
        """One line of a chunk that is not ordinary."""
        if self.error is not None:
            return b""
        text = line.rstrip(b"\r\n")
        after_dropped, self._dropped_line = self._dropped_line, False
        if not text:
            self._error_event = False
            return b"" if after_dropped else line
        if text in _ERROR_EVENT:
            self._error_event = True
            return b""
        if not text.startswith(b"data:"):
            # An error outside of any event is no part of the protocol, but it has been seen.
            return self._document(line, text) if text.startswith(b'{"error"') else line
        data = text[5:].strip(b" ")
        if data == b"[DONE]":
            self.done = True
        elif b'"usage"' in data or b'"error"' in data or self._error_event:
            return self._document(line, data)
        else:
            self._count(line)
        return line

    def _document(self, line: bytes, data: bytes) -> bytes:
        """An event that may hold usage or an error. What is not JSON passes through like everything else."""
        try:
            document = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            document = None
        if not isinstance(document, dict):
            self.error = data.decode("utf-8", "replace") if self._error_event else None
            return b"" if self._error_event else line
        choices, usage = document.get("choices"), document.get("usage")
        if isinstance(usage, dict):
            self.usage = usage
        if error := document if self._error_event else _error_in(document):
            self.error = error
            return b""
        if choices:
            self._count(line)
        if not isinstance(usage, dict):
            return line
        if self._drop_usage:
            if choices != []:
                return line.replace(data, without_usage(data), 1)
            self._dropped_line = True
            return b""
        if self._charge_of is not None:
            charge = self._charge_of(usage)
            if charge.currency is not None:
                self.charge = charge
                return line.replace(data, with_cost(data, charge), 1)
        return line


def _error_in(document: dict[str, Any]) -> object:
    """The error that an event tells: OpenAI's, or vLLM's older one and others that have no `error` around it."""
    is_one = "error" in (document.get("object"), document.get("type"))
    return document.get("error") or (document if is_one else None)


def _is_empty(event: bytes) -> bool:
    """Whether an event carries no text. With reasoning beside it, an empty content does not mean an empty event."""
    return any(mark in event for mark in _EMPTY) and not any(mark in event for mark in _REASONING)
