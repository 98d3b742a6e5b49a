"""The circuit of one endpoint: opened by faults in a row, tried again by one probe after a back-off.

It only remembers. Whether an open endpoint is skipped is the placement's decision.
"""

from __future__ import annotations

from logos.scheduling.settings import SchedulerSettings


class Circuit:
    """Closed: healthy. Open: skip it. Half-open (the back-off is over): one request at a time may probe it."""

    __slots__ = ("_backoff_s", "_faults", "_open_until", "_probe_id", "_settings")

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._faults = 0
        self._open_until: float | None = None
        self._backoff_s = settings.circuit_backoff_s
        self._probe_id: str | None = None

    @property
    def is_closed(self) -> bool:
        return self._open_until is None

    def admits(self, now: float) -> bool:
        """Whether a request that has a choice should come here."""
        return self._open_until is None or (now >= self._open_until and self._probe_id is None)

    def dispatched(self, request_id: str) -> None:
        if self._open_until is not None and self._probe_id is None:
            self._probe_id = request_id

    def left(self, request_id: str) -> None:
        """The request ended, however: if it was the probe, another one may follow."""
        if self._probe_id == request_id:
            self._probe_id = None

    def succeeded(self) -> None:
        self._faults = 0
        self._open_until = None
        self._backoff_s = self._settings.circuit_backoff_s
        self._probe_id = None

    def failed(self, now: float) -> bool:
        """One more fault in a row. True if it opened the circuit."""
        self._faults += 1
        if self._open_until is None:
            if self._faults < self._settings.circuit_faults:
                return False
        elif now < self._open_until:
            return False  # a late end of something sent before it opened
        else:
            self._backoff_s = min(self._backoff_s * 2, self._settings.circuit_backoff_max_s)
        self._open_until = now + self._backoff_s
        self._probe_id = None
        return True

    def state(self, now: float) -> str:
        """closed, open or half_open, for people."""
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half_open"
