"""One generation's answer as its sequences make it: the whole body at the end, or events on the way.

It reads the state of the sequences when asked and keeps only what was already sent, so a slow client holds up
nobody and no queue grows behind it. No I/O.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from logos.simulation.server import wire
from logos.simulation.server.live import Sequence
from logos.simulation.server.requests import Generation
from logos.simulation.server.script import Script, escape
from logos.simulation.server.settings import ServerSettings


class Reply:
    """What one generation's sequences have made, as bodies and events."""

    def __init__(
        self,
        reply_id: str,
        settings: ServerSettings,
        asked: Generation,
        scripts: list[Script],
        sequences: list[Sequence],
    ) -> None:
        self._id = reply_id
        self._asked = asked
        self._scripts = scripts
        self._sequences = sequences
        self._model = settings.model
        self._shows_cached = settings.shows_cached_tokens
        self._created = int(time.time())
        self._prompt_tokens = sum(prompt.tokens for prompt in asked.prompts)
        self._echoed = (
            [escape(prompt.text.decode(errors="replace")) for prompt in asked.prompt_of_choices()] if asked.echo else []
        )
        self._sent = [0] * len(sequences)  # tokens of each choice that are on their way to the client
        self._ended = [False] * len(sequences)
        self._events = wire.Events(reply_id, self._model, self._created, chat=asked.chat, call=asked.call)

    @property
    def ended(self) -> bool:
        return all(self._ended)

    def body(self) -> bytes:
        """The whole answer."""
        answers = [self._answer(index, 0) for index in range(len(self._scripts))]
        used = self._usage(sum(sequence.made for sequence in self._sequences))
        if self._asked.chat:
            return wire.chat_body(self._id, self._model, self._created, answers, used, self._asked.call)
        return wire.completion_body(self._id, self._model, self._created, answers, used)

    def new_events(self) -> bytes:
        """The events of all tokens that have not been sent yet; one event a token."""
        written: list[bytes] = []
        for index, sequence in enumerate(self._sequences):
            if not self._ended[index]:
                written += self._events_of(index, sequence)
        if self.ended:
            if self._asked.include_usage:
                written.append(self._events.usage(self._usage(sum(self._sent))))
            written.append(wire.DONE)
        return b"".join(written)

    def _events_of(self, index: int, sequence: Sequence) -> Iterator[bytes]:
        sent, made = self._sent[index], sequence.made
        if sent == 0 and (made or sequence.done):
            yield self._events.opening(index, self._usage_so_far(0))
        whole = made - 1 if sequence.done and made else made
        for nth in range(sent, whole):
            yield self._events.token(index, nth, self._piece(index, nth), self._usage_so_far(nth + 1))
        self._sent[index] = made
        if sequence.done:
            # An aborted sequence may have no token left to carry the reason.
            start = made - 1 if sent < made else made
            # The very last event of a stream carries the fingerprint: this one, or the usage after it.
            more = self._usage_so_far(made) if self._asked.include_usage else wire.FINGERPRINT_FIELD
            yield self._events.last(index, start, self._answer(index, start), more)
            self._ended[index] = True

    def _answer(self, index: int, start: int) -> wire.Answer:
        script, sequence = self._scripts[index], self._sequences[index]
        text = b"".join(self._piece(index, nth) for nth in range(start, sequence.made))
        if sequence.aborted:
            return wire.Answer(text, "abort", None)
        reason = script.finish_reason
        if self._asked.call is not None and reason == "stop":
            reason = self._asked.call.finish_reason
        return wire.Answer(text, reason, script.stop_reason)

    def _piece(self, index: int, nth: int) -> bytes:
        piece = self._scripts[index].pieces[nth]
        return self._echoed[index] + piece if self._echoed and nth == 0 else piece

    def _usage(self, completion_tokens: int) -> dict[str, Any]:
        cached = sum(sequence.cached_tokens for sequence in self._sequences) if self._shows_cached else None
        return wire.usage(self._prompt_tokens, completion_tokens, cached)

    def _usage_so_far(self, completion_tokens: int) -> bytes:
        if not self._asked.continuous_usage:
            return b""
        return wire.running_usage_field(self._prompt_tokens, completion_tokens)
