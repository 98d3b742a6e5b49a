"""What the parts of one platform are made from: plain values, light to import, for every process of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from logos.config import Settings


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What the parts of one platform are made from. Crosses to actors and replicas, so it is plain values only."""

    settings: Settings
    data_dir: Path
    database_url: str

    @property
    def outbox_dir(self) -> Path:
        return self.data_dir / "outbox"

    @property
    def journal_dir(self) -> Path:
        return self.data_dir / "journal"
