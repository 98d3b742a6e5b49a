"""What the requests of this gateway meet at one place, and what runs beside them there, as far as a gateway can see.

The scheduler is told of what ran under a lease only when it is over, and learns from what is kept here. It decides
itself whether that was all that ran there. No clock is read and nothing is sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from logos.domain.nouns import Place
from logos.prediction.backlog import Backlog
from logos.scheduling.events import Met


@dataclass(slots=True)
class _Run:
    met: Met
    since: float  # its first token, or its start as long as there was none
    batch_s: float  # what `Beside` had counted then


class Beside:
    """One place. `now` is the gateway's monotonic clock, in seconds."""

    __slots__ = ("_at", "_backlog", "_batch_s", "_runs")

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._backlog = Backlog()
        self._at = 0.0
        self._batch_s = 0.0  # sequence-seconds so far

    def __len__(self) -> int:
        return len(self._runs)

    def started(self, request_id: str, prompt_tokens: int, now: float) -> None:
        """It is being forwarded there."""
        self._count(now)
        waiting = self._backlog.remaining_tokens
        elapsed_s = now - self._backlog.at if waiting > 0.0 else 0.0
        met = Met(prompt_tokens, len(self._runs), waiting, self._backlog.remaining_pairs, elapsed_s)
        self._runs[request_id] = _Run(met, now, self._batch_s)
        self._backlog.dispatched(request_id, prompt_tokens, now)

    def first_token(self, request_id: str, now: float, token_s: float) -> None:
        """`token_s`: what a prompt token is expected to take there."""
        run = self._runs.get(request_id)
        if run is None:
            return
        self._count(now)
        run.since, run.batch_s = now, self._batch_s
        self._backlog.left(request_id, now, token_s)

    def ended(self, request_id: str, now: float, token_s: float) -> tuple[Met, float] | None:
        """What it met, and the sequences that ran there on average since its first token, itself included. None: it
        did not start here."""
        run = self._runs.get(request_id)
        if run is None:
            return None
        self._count(now)
        self._backlog.left(request_id, now, token_s)
        passed_s = now - run.since
        batch = (self._batch_s - run.batch_s) / passed_s if passed_s > 0.0 else float(len(self._runs))
        del self._runs[request_id]
        return run.met, batch

    def _count(self, now: float) -> None:
        self._batch_s += len(self._runs) * (now - self._at)
        self._at = now


class BesideEach:
    """All places where requests of this gateway run; the arguments are those of `Beside`."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at: dict[Place, Beside] = {}

    def started(self, request_id: str, place: Place, prompt_tokens: int, now: float) -> None:
        beside = self._at.get(place)
        if beside is None:
            beside = self._at[place] = Beside()
        beside.started(request_id, prompt_tokens, now)

    def first_token(self, request_id: str, place: Place, now: float, token_s: float) -> None:
        beside = self._at.get(place)
        if beside is not None:
            beside.first_token(request_id, now, token_s)

    def ended(self, request_id: str, place: Place, now: float, token_s: float = 0.0) -> tuple[Met, float] | None:
        """A place where nothing runs any more is forgotten."""
        beside = self._at.get(place)
        if beside is None:
            return None
        seen = beside.ended(request_id, now, token_s)
        if not len(beside):
            del self._at[place]
        return seen
