"""An upstream that plays a script: the transport of tests, shipped so that users can test what they build on Logos.

It keeps the transport's promises (status first, chunks as they come, closing) and remembers what it was asked. It opens
no socket and reads no clock beyond `asyncio.sleep`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from multidict import CIMultiDict

from logos.domain.errors import LogosError
from logos.providers.transport import Target

SSE_HEADERS = {"content-type": "text/event-stream; charset=utf-8"}
JSON_HEADERS = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Script:
    """One answer. A step is a chunk (bytes), a wait (seconds) or an error to raise there; `error` refuses to open."""

    steps: tuple[bytes | float | LogosError, ...] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: dict(JSON_HEADERS))
    error: LogosError | None = None
    open_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sent:
    """One request that the fake was given."""

    target: Target
    body: bytes


class FakeResponse:
    """Plays the steps of a script. `closed_early`: closed before the end, as an upstream would notice."""

    def __init__(self, script: Script) -> None:
        self.status = script.status
        self.headers: Mapping[str, str] = CIMultiDict(script.headers)
        self.ended = False
        self.closed_early = False
        self._steps = iter(script.steps)

    async def read_chunk(self) -> bytes:
        for step in self._steps:
            if isinstance(step, LogosError):
                raise step
            if isinstance(step, bytes):
                if step:
                    return step
            else:
                await asyncio.sleep(step)
        self.ended = True
        return b""

    def close(self) -> None:
        self.closed_early = self.closed_early or not self.ended


class FakeUpstream:
    """Answers with its scripts in turn, the last one again and again."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts) or [json_answer(chat_completion("hello"))]
        self.sent: list[Sent] = []
        self.responses: list[FakeResponse] = []

    async def open(self, target: Target, body: bytes) -> FakeResponse:
        self.sent.append(Sent(target, body))
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        if script.open_s:
            await asyncio.sleep(script.open_s)
        if script.error is not None:
            raise script.error
        response = FakeResponse(script)
        self.responses.append(response)
        return response

    @property
    def open_responses(self) -> list[FakeResponse]:
        """Answers that were neither read to their end nor closed: must be empty when everything is over."""
        return [each for each in self.responses if not each.ended and not each.closed_early]


def json_answer(document: object, status: int = 200) -> Script:
    """A whole answer."""
    return Script((msgspec.json.encode(document),), status)


def sse_answer(events: Iterable[bytes], gap_s: float = 0.0) -> Script:
    """A streamed answer: one chunk an event, `gap_s` before each."""
    steps: list[bytes | float | LogosError] = []
    for event in events:
        steps += [gap_s, event] if gap_s else [event]
    return Script(tuple(steps), headers=dict(SSE_HEADERS))


def chat_completion(text: str, usage: Mapping[str, object] | None = None) -> dict[str, object]:
    """The document of a whole chat answer."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "upstream",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": usage or {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
    }


def chat_events(
    tokens: Sequence[str], *, usage: Mapping[str, object] | None = None, finish: str | None = "stop", done: bool = True
) -> list[bytes]:
    """The events of a streamed chat answer: role, tokens, finish, usage (if given), [DONE]."""
    deltas: list[tuple[dict[str, object], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": token}, None) for token in tokens]
    if finish is not None:
        deltas.append(({}, finish))
    events = [_event({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}) for delta, reason in deltas]
    if usage is not None:
        events.append(_event({"choices": [], "usage": usage}))
    if done:
        events.append(b"data: [DONE]\n\n")
    return events


def _event(fields: dict[str, object]) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "upstream"}
    return b"data: " + msgspec.json.encode({**head, **fields}) + b"\n\n"
